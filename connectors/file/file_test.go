package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kisflow/kisflow/kis"
)

func open(t *testing.T, path, column string, settings kis.Settings) *table {
	t.Helper()
	s := kis.Settings{"separator": ",", "check": "0s", "size_mib": "1"}
	for k, v := range settings {
		s[k] = v
	}
	c, err := Type().Open(kis.ConnectorSpec{Addrs: []string{path}, Key: column, Settings: s})
	if err != nil {
		t.Fatal(err)
	}
	return c.(*table)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, c *table, key string) string {
	t.Helper()
	found := make([]kis.Found, 1)
	if err := c.Find(t.Context(), []string{key}, found); err != nil {
		return "error: " + err.Error()
	}
	if found[0].Row == nil {
		return "nothing"
	}
	return found[0].Row.String()
}

func TestForms(t *testing.T) {
	for _, test := range []struct {
		name, file, text string
		settings         kis.Settings
		key, want        string
	}{
		{"csv", "a.csv", "id,name\nada,\"Ada, L\"\n", nil, "ada", `{"id":"ada","name":"Ada, L"}`},
		{"csv with a mark of its encoding", "a.csv", "\xef\xbb\xbfid,name\nada,Ada\n", nil, "ada", `{"id":"ada","name":"Ada"}`},
		{"csv, lines of Windows", "a.csv", "id;name\r\nada;Ada\r\n", kis.Settings{"separator": ";"}, "ada", `{"id":"ada","name":"Ada"}`},
		{"csv with tabs", "a.txt", "id\tname\nada\tAda\n", kis.Settings{"separator": "tab", "format": "csv"}, "ada", `{"id":"ada","name":"Ada"}`},
		{"csv, key with blanks", "a.csv", "id,name\nZoë ß 用户,Zoë\n", nil, "Zoë ß 用户", `{"id":"Zoë ß 用户","name":"Zoë"}`},
		{"csv, the last one counts", "a.csv", "id,n\na,1\na,2\n", nil, "a", `{"id":"a","n":"2"}`},
		{"csv, nothing", "a.csv", "id,name\n", nil, "ada", "nothing"},
		{"csv, empty", "a.csv", "", nil, "ada", "it is empty; its first line must name the columns"},
		{"csv, no key", "a.csv", "uid,name\n", nil, "ada", `it has no column "id", by which rows are looked up; it has uid, name`},
		{"csv, twice", "a.csv", "id,id\n", nil, "ada", `two columns "id"`},
		{"csv, a short line", "a.csv", "id,name\nada\n", nil, "ada", "record on line 2: wrong number of fields"},
		{"jsonl", "a.jsonl", "{\"id\":7,\"n\":1}\n\n{\"id\":\"8\"}\n", nil, "7", `{"id":7,"n":1}`},
		{"jsonl, no newline", "a.ndjson", "{\"id\":true}", nil, "true", `{"id":true}`},
		{"jsonl, broken", "a.jsonl", "{\"id\":7}\n{\"id\":", nil, "7", "line 2: "},
		{"jsonl, no key", "a.jsonl", "{\"n\":7}\n", nil, "7", `line 1: it has no field "id"`},
		{"jsonl, key of another type", "a.jsonl", "{\"id\":[7]}\n", nil, "7", "line 1: id is an array"},
		{"jsonl, long", "a.jsonl", "{\"id\":1,\"x\":\"" + strings.Repeat("x", 1<<20) + "\"}", kis.Settings{"size_mib": "2"}, "1", "line 1 has more than 1024 KiB"},
		{"too large", "a.csv", "id,name\n" + strings.Repeat("x", 1<<20), nil, "ada", "the most is 1 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), test.file)
			write(t, path, test.text)
			got := find(t, open(t, path, "id", test.settings), test.key)
			if got != test.want && (!strings.HasPrefix(got, "error: ") || !strings.Contains(got, test.want)) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestReload: a file is read again when it changes; while it is wrong nothing is found, and when it is right again
// all is well.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.csv")
	c := open(t, path, "id", nil)
	for i, step := range []struct{ text, want string }{
		{"", "no such file"},
		{"id,n\na,1\n", `{"id":"a","n":"1"}`},
		{"id,n\na,2\n", `{"id":"a","n":"2"}`},
		{"id,n\na,2,3\n", "wrong number of fields"},
		{"id,n\nb,2\n", "nothing"},
	} {
		if step.text != "" {
			write(t, path, step.text)
			then := time.Now().Add(time.Duration(i) * time.Second) // clocks of file systems are coarse
			if err := os.Chtimes(path, then, then); err != nil {
				t.Fatal(err)
			}
		}
		if got := find(t, c, "a"); !strings.Contains(got, step.want) {
			t.Errorf("step %d: got %s, want %s", i, got, step.want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := find(t, c, "b"); !strings.Contains(got, "no such file") {
		t.Errorf("without the file: %s", got)
	}
	if err := c.Check(t.Context()); err == nil {
		t.Error("check of a file that is gone: no error")
	}
}

func TestOpen(t *testing.T) {
	for path, want := range map[string]string{"a.txt": "does not say its form"} {
		if _, err := Type().Open(kis.ConnectorSpec{Addrs: []string{path}, Key: "id"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if _, err := Type().Open(kis.ConnectorSpec{Addrs: []string{"a.csv", "b.csv"}, Key: "id"}); err == nil {
		t.Error("two files: no error")
	}
}
