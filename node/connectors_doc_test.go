package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kisflow/kisflow/kis"
)

// TestConnectorsReference compares docs/reference/connectors.md with the schemas of the types.
func TestConnectorsReference(t *testing.T) {
	page := connectorsPage(ConnectorTypes())
	path := filepath.Join("..", "docs", "reference", "connectors.md")
	if *rewrite {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	is, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(is) != page {
		t.Errorf("%s is not what the types say; run go test ./node -run ConnectorsReference -rewrite, which writes\n%s", path, page)
	}
}

func connectorsPage(types []kis.ConnectorType) string {
	var b strings.Builder
	b.WriteString(`# Connectors

A definition of ` + "`kistype: conn`" + ` is a place outside: ` + "`type`" + ` says which kind, ` + "`addrs`, `key` and `params`" + ` the rest. This page is made from
what the types say of themselves, and ` + "`kisctl lint`" + ` checks definitions against the same: with its place where a look-up of an enabled
flow uses the connector, else only what looks misspelt, as a warning. [Look-ups](../guide/look-ups.md) shows them at work.

` + "`${ENV:NAME}`" + ` in addrs, key and params is a variable of the node's environment, ` + "`${file:PATH}`" + ` what a file holds, without the newline at its
end. Secrets are given in no other way, and stand in no message. ` + "`kisctl connector test NAME`" + ` tries a connector from the node.

A look-up has no guarantee of its own: what was found belongs to the event that asked, and is sent once, with all that comes of the event. What is
found is as old as the step's ` + "`load.cache`" + ` at most, and another one may be found when an event is handled again after a crash.

Connectors of another type (mysql, kafka, es) are read and kept, and need Go code under the name of their function: a Go function, or a
` + "`kis.ConnectorType`" + `.
`)
	for _, t := range types {
		s := t.Schema()
		fmt.Fprintf(&b, "\n## %s\n\n%s Does: %s.\n\n", t.Name(), s.Doc, strings.Join(s.Does, ", "))
		b.WriteString("| setting | type | default | |\n|---|---|---|---|\n")
		top(&b, "addrs", s.Addrs)
		top(&b, "key", s.Key)
		for _, p := range s.Has {
			kind := string(p.Kind)
			switch {
			case p.Words != nil:
				kind = "one of `" + strings.Join(p.Words, "` `") + "`"
			case p.Secret:
				kind = "secret"
			case kind == "":
				kind = string(kis.SettingText)
			}
			def := p.Default
			if def != "" {
				def = "`" + def + "`"
			}
			fmt.Fprintf(&b, "| `params.%s` | %s | %s | %s |\n", p.Name, strings.ReplaceAll(kind, "|", "\\|"), def, strings.ReplaceAll(p.Doc, "|", "\\|"))
		}
	}
	return b.String()
}

// top writes the line of addrs or key.
func top(b *strings.Builder, name string, s kis.Setting) {
	if s.Doc == "" {
		return
	}
	doc := strings.ToUpper(s.Doc[:1]) + s.Doc[1:] + "."
	if s.Required {
		doc += " Required."
	}
	fmt.Fprintf(b, "| `%s` | text | | %s |\n", name, doc)
}
