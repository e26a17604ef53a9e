package functions

import (
	"errors"

	"github.com/kisflow/kisflow/kis"
)

// Subject returns what the subject of an Expand, which may hold {field}, is for a row. The error says why the text is
// no such subject, and that of the function why a row has none.
func Subject(text string) (func(*kis.Row) (string, error), error) {
	var b builder
	s := b.subject("expand.subject", text)
	if len(b.mistakes) > 0 {
		return nil, errors.New(b.mistakes[0].Error())
	}
	return s.of, nil
}
