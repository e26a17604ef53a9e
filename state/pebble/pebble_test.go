package pebble

import (
	"testing"

	"github.com/kisflow/kisflow/state"
	"github.com/kisflow/kisflow/state/statetest"
)

func TestSuite(t *testing.T) {
	open := func(t *testing.T) state.DB {
		db, err := Open(t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	statetest.Run(t, open, func(t *testing.T, db state.DB) state.DB {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Open(db.(*DB).dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return again
	})
}
