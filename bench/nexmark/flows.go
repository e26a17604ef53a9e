package nexmark

import (
	"embed"
	"fmt"
	"path"
	"regexp"
	"strings"
)

//go:embed flows/*.yaml
var files embed.FS

// Subject is what the flows read; query q0 sends its answer to Subject of its own, OutSubject("q0").
const Subject = "nexmark.events"

// OutSubject is the subject of a query's answer.
func OutSubject(query string) string { return "nexmark.out." + query }

// Time settings that flows get when their answers are to be stamped.
const timed = "time: {field: dateTime, lateness: 4s}\n"

// File is a file of definitions.
type File struct {
	Name string
	Text []byte
}

// Flows are the definitions of queries; those of all flows and what they have in common. With stamped each row of an answer has one
// more field, "at": the event time of what it came of, in Unix milliseconds.
func Flows(stamped bool, queries ...string) ([]File, error) {
	var out []File
	for _, name := range append([]string{"common"}, queries...) {
		p := path.Join("flows", name+".yaml")
		text, err := files.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("there is no query %q; there are %s", name, strings.Join(Names(), ", "))
		}
		if stamped && name != "common" {
			text = stamp(text)
		}
		out = append(out, File{Name: "nexmark/" + name + ".yaml", Text: text})
	}
	return out, nil
}

// Names are the queries that there are flows for, in the order of their numbers.
func Names() []string {
	var names []string
	for _, q := range Queries() {
		names = append(names, q.Name)
	}
	return names
}

// fields finds the names in the emit of a function.
var fields = regexp.MustCompile(`(?:[{,] |[{]|^    )([a-zA-Z_0-9]+): `)

// stamp adds the field "at" to what the Expand of a query's file emits, and event time to a flow that does without. An
// Expand that sends the rows as they are is given an emit of the fields that the function before it emits.
func stamp(text []byte) []byte {
	s := string(text)
	if !strings.Contains(s, "\ntime: ") {
		s = strings.Replace(s, "\nflows:\n", "\n"+timed+"flows:\n", 1)
	}
	head, expand, _ := strings.Cut(s, "fmode: Expand\n")
	if strings.Contains(expand, "emit:") {
		expand = strings.Replace(expand, "emit: {", "emit: {at: meta.time, ", 1)
		expand = strings.Replace(expand, "emit:\n", "emit:\n    at: meta.time\n", 1)
		return []byte(head + "fmode: Expand\n" + expand)
	}
	emit := "emit: {at: meta.time"
	last := head[strings.LastIndex(head, "  emit:"):]
	last, _, _ = strings.Cut(last, "\n---")
	for line := range strings.SplitSeq(last, "\n") {
		for _, name := range fields.FindAllStringSubmatch(line, -1) {
			emit += ", " + name[1] + ": row." + name[1]
		}
	}
	return []byte(head + "fmode: Expand\n" + strings.Replace(expand, "pack: true}", "pack: true, "+emit+"}}", 1))
}
