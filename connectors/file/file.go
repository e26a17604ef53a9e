// Package file looks up rows of a CSV or JSONL file by the value of one column. The file is read as a whole, kept in
// memory, and read again when its size or its time has changed. A file that cannot be read, or holds something else
// than its form, is told of, and nothing of it is used: the look-ups wait until it is right.
package file

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kisflow/kisflow/kis"
)

const (
	maxLine   = 1 << 20 // bytes of a line
	maxFields = 1000    // columns of a CSV file
)

// Type is the connector type file.
func Type() kis.ConnectorType { return fileType{} }

type fileType struct{}

func (fileType) Name() string { return "file" }

func (fileType) Schema() kis.ConnectorSchema {
	return kis.ConnectorSchema{
		Doc:   "A CSV or JSONL file on the node's disk, as a table. It is read again when it changes; replace it by renaming another one to its name, so that it is never seen half written. Of several rows with one key the last one counts.",
		Does:  []string{"look-up"},
		Addrs: kis.Setting{Required: true, Doc: "the file's path; a relative one begins at the folder in which kisnode was started"},
		Key:   kis.Setting{Required: true, Doc: "the column (CSV) or field (JSONL) by which rows are looked up"},
		Has: []kis.Setting{
			{Name: "format", Words: []string{"csv", "jsonl"}, Doc: "The file's form: CSV whose first line names the columns, all of them texts; or one JSON object a line. Without it the name's ending says it: .csv, .jsonl or .ndjson."},
			{Name: "separator", Words: []string{",", ";", "tab", "|"}, Default: ",", Doc: "What stands between the columns of a CSV file."},
			{Name: "check", Kind: kis.SettingDuration, Default: "1s", Doc: "How often it is looked whether the file has changed, while rows come."},
			{Name: "size_mib", Kind: kis.SettingNumber, Default: "256", Doc: "The largest file that is read, in MiB."},
		},
	}
}

func (fileType) Open(spec kis.ConnectorSpec) (kis.Connector, error) {
	if len(spec.Addrs) != 1 {
		return nil, fmt.Errorf("addrs names %d files; it must be one", len(spec.Addrs))
	}
	t := &table{path: spec.Addrs[0], column: spec.Key, format: spec.Settings.Text("format"), check: spec.Settings.Duration("check"),
		most: int64(spec.Settings.Int("size_mib")) << 20}
	if t.format == "" {
		switch strings.ToLower(filepath.Ext(t.path)) {
		case ".csv":
			t.format = "csv"
		case ".jsonl", ".ndjson":
			t.format = "jsonl"
		default:
			return nil, fmt.Errorf("the name of %s does not say its form; say it with params: {format: csv} or {format: jsonl}", t.path)
		}
	}
	t.separator = ','
	if s := spec.Settings.Text("separator"); s == "tab" {
		t.separator = '\t'
	} else if s != "" {
		t.separator = rune(s[0])
	}
	return t, nil
}

// table is a file in memory.
type table struct {
	path, column, format string
	separator            rune
	check                time.Duration
	most                 int64

	mu     sync.Mutex
	looked time.Time // when it was last looked whether it has changed
	time   time.Time // of the file that was read
	size   int64
	rows   map[string]*kis.Row
	err    error // why the file cannot be used
}

// Most implements kis.Lookup.
func (t *table) Most() int { return 100_000 }

// Find implements kis.Lookup.
func (t *table) Find(_ context.Context, keys []string, found []kis.Found) error {
	rows, err := t.now(t.check)
	if err != nil {
		return err
	}
	for i, key := range keys {
		found[i].Row = rows[key]
	}
	return nil
}

// Check implements kis.Connector.
func (t *table) Check(context.Context) error {
	_, err := t.now(0)
	return err
}

// Close implements kis.Connector.
func (t *table) Close() error { return nil }

// now returns the rows of the file as it is now, or was so long ago at most. They are not changed any more.
func (t *table) now(age time.Duration) (map[string]*kis.Row, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); t.looked.IsZero() || now.Sub(t.looked) >= age {
		t.refresh()
		t.looked = now
	}
	return t.rows, t.err
}

// refresh reads the file if it is another one than that which was read.
func (t *table) refresh() {
	f, err := os.Open(t.path)
	if err != nil {
		t.forget(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		t.forget(err)
		return
	case !info.Mode().IsRegular():
		t.forget(fmt.Errorf("%s is no file", t.path))
		return
	case info.Size() > t.most:
		t.forget(fmt.Errorf("%s has %d bytes; the most is %d MiB (params.size_mib)", t.path, info.Size(), t.most>>20))
		return
	case info.Size() == t.size && info.ModTime().Equal(t.time) && (t.rows != nil || t.err != nil):
		return
	}
	rows, err := t.read(io.LimitReader(f, t.most))
	t.time, t.size = info.ModTime(), info.Size()
	if err != nil {
		t.rows, t.err = nil, fmt.Errorf("%s: %w", t.path, err)
		return
	}
	t.rows, t.err = rows, nil
}

func (t *table) forget(err error) {
	t.rows, t.err, t.time, t.size = nil, err, time.Time{}, 0
}

func (t *table) read(r io.Reader) (map[string]*kis.Row, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	if mark, err := in.Peek(3); err == nil && bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, _ = in.Discard(3) // it is there
	}
	if t.format == "csv" {
		return t.readCSV(in)
	}
	return t.readLines(in)
}

func (t *table) readCSV(in io.Reader) (map[string]*kis.Row, error) {
	c := csv.NewReader(in)
	c.Comma, c.ReuseRecord = t.separator, true
	head, err := c.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty; its first line must name the columns")
	}
	if err != nil {
		return nil, err
	}
	if len(head) > maxFields {
		return nil, fmt.Errorf("it has %d columns; the most is %d", len(head), maxFields)
	}
	names := make([]string, len(head))
	key := -1
	seen := make(map[string]bool, len(head))
	for i, name := range head {
		names[i] = strings.Clone(strings.TrimSpace(name))
		if seen[names[i]] {
			return nil, fmt.Errorf("line 1: it has two columns %q", names[i])
		}
		seen[names[i]] = true
		if names[i] == t.column {
			key = i
		}
	}
	if key < 0 {
		return nil, fmt.Errorf("line 1: it has no column %q, by which rows are looked up; it has %s", t.column, strings.Join(names, ", "))
	}
	rows := make(map[string]*kis.Row)
	for {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		fields := make([]kis.Field, len(names))
		for i, text := range record {
			fields[i] = kis.Field{Name: names[i], Value: kis.StringValue(text)}
		}
		rows[record[key]] = kis.NewRow(fields...)
	}
}

func (t *table) readLines(in io.Reader) (map[string]*kis.Row, error) {
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxLine)
	rows := make(map[string]*kis.Row)
	n := 0
	for s.Scan() {
		n++
		line := bytes.TrimSpace(s.Bytes())
		if len(line) == 0 {
			continue
		}
		row, err := kis.ParseRow(bytes.Clone(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		v, ok := row.Get(t.column)
		if !ok {
			return nil, fmt.Errorf("line %d: it has no field %q, by which rows are looked up", n, t.column)
		}
		switch v.Kind() {
		case kis.String, kis.Int, kis.Float, kis.Bool:
		default:
			return nil, fmt.Errorf("line %d: %s is %s; it must be a text, a number or a truth value", n, t.column, v.Kind())
		}
		rows[v.Text()] = row
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d has more than %d KiB", n+1, maxLine>>10)
	}
	return rows, s.Err()
}
