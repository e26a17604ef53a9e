package flowdef

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// Script is the body of a function in JavaScript.
type Script struct {
	Code     Text          // the script itself
	File     string        // where it came from, as the definition names it; "": it stands in the definition
	Timeout  time.Duration // for a row
	Memory   int64         // bytes, for a row
	KeepsKey bool          // what it emits has the key of its row

	taken bool // Code stands in the definition although File names where it came from
}

// Source is the script, as its file holds it.
func (s *Script) Source() string {
	if s.taken {
		return strings.TrimPrefix(s.Code.Value, takenHead(s.File))
	}
	return s.Code.Value
}

// At returns the place of the byte at offset of Source.
func (s *Script) At(offset int) Pos {
	if s.File == "" || s.taken {
		return s.Code.At(offset + len(s.Code.Value) - len(s.Source()))
	}
	p := s.Code.Pos
	before := s.Code.Value[:min(max(0, offset), len(s.Code.Value))]
	p.Line += strings.Count(before, "\n")
	p.Column = utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return p
}

// Remote is the body of a function that another program answers.
type Remote struct {
	Subject  Text          // of NATS, or
	URL      Text          // of HTTP
	Timeout  time.Duration // for an answer
	Batch    int           // rows in a request at most
	Retries  int           // how often a row is tried again when nobody answers; -1: without end
	KeepsKey bool          // what it emits has the key of its row
}

// Opener reads a file that a definition names; its path is relative to the folder of the definition's file.
type Opener func(path string) ([]byte, error)

const (
	defaultScriptTimeout = time.Second
	minScriptTimeout     = time.Millisecond
	maxScriptTimeout     = 5 * time.Minute
	defaultScriptMemory  = 64 << 20
	minScriptMemory      = 8 << 20
	maxScriptMemory      = 16 << 30
	maxScript            = 192 << 10 // bytes
	defaultRemoteTimeout = 2 * time.Second
	maxRemoteTimeout     = 5 * time.Minute
	defaultRemoteBatch   = 100
	maxRemoteBatch       = 10_000
	maxRemoteRetries     = 1_000_000_000
)

// bodies decodes script and remote, and checks that a function has one implementation.
func (d *decoder) bodies(o *object, f *Func) {
	f.Script, f.Remote = d.script(o), d.remote(o)
	var there []string
	for _, key := range []string{"script", "remote"} {
		if o.get(key) != nil {
			there = append(there, key)
		}
	}
	taken := o.text("script_text")
	if len(there) == 0 {
		if taken.Value != "" {
			d.report(o.vals["script_text"].key.pos, codeBody, "script_text without script", "the text of a script is written under script")
		}
		return
	}
	key := there[0]
	pos := o.vals[key].key.pos
	if len(there) > 1 {
		d.report(o.vals["remote"].key.pos, codeBody, "a function has a script or is remote, not both", "make them two functions")
	}
	for _, other := range []string{"join", "version", "migrate"} {
		if o.get(other) != nil {
			d.report(o.vals[other].key.pos, codeBody, fmt.Sprintf("%s beside %s: it belongs to functions that are made of expressions", other, key), "what it would do, "+map[string]string{"script": "the script", "remote": "the other program"}[key]+" has to do")
		}
	}
	switch f.Mode {
	case "Verify", "Calculate":
		if body := modes[f.Mode]; o.get(body) != nil {
			d.report(o.vals[body].key.pos, codeBody, fmt.Sprintf("%s beside %s: a function has one implementation", body, key), "make them two functions")
		}
	case "Expand":
		e := o.get("expand")
		if e == nil {
			d.report(pos, codeMissing, fmt.Sprintf("an Expand with %s needs expand.subject", key), "write expand: {subject: totals.user}: what comes back is sent there")
			break
		}
		if f.Expand != nil && (f.Expand.Emit != nil || f.Expand.When.Value != "") {
			d.report(o.vals["expand"].key.pos, codeBody, fmt.Sprintf("expand has emit or when beside %s", key), "what is sent is what comes back; say it there")
		}
	case "":
	default:
		d.report(pos, codeBody, fmt.Sprintf("a function of mode %s has no %s", f.Mode, key), "use Verify, Calculate or Expand")
	}
}

// script decodes the key script: a text, or a mapping with its settings.
func (d *decoder) script(o *object) *Script {
	n := o.get("script")
	if n == nil {
		return nil
	}
	s := &Script{Timeout: defaultScriptTimeout, Memory: defaultScriptMemory}
	if n.kind == scalarNode {
		s.Code = o.text("script")
		d.scriptText(s, n.pos)
		return s
	}
	m := o.child("script")
	if m == nil {
		return nil
	}
	s.Code = m.text("text")
	s.File = m.str("file")
	s.Timeout = m.between("timeout", defaultScriptTimeout, minScriptTimeout, maxScriptTimeout)
	s.Memory = m.sizeBetween("memory", defaultScriptMemory, minScriptMemory, maxScriptMemory)
	s.KeepsKey = m.boolean("keeps_key")
	text, file := m.get("text"), m.get("file")
	switch {
	case text != nil && file != nil:
		d.report(file.pos, codeBody, "a script has a text or a file, not both", "remove one of them")
		s.File = ""
	case file != nil:
		d.scriptFile(o, s, file)
	case text == nil:
		d.report(n.pos, codeMissing, "script has neither text nor file", "write script: |, and the text in the lines below, or script: {file: totals.js}")
	default:
		d.scriptText(s, text.pos)
	}
	return s
}

func (d *decoder) scriptText(s *Script, pos Pos) {
	switch {
	case strings.TrimSpace(s.Code.Value) == "":
		d.report(pos, codeMissing, "the script is empty", "a script defines function handle(row, state, ctx) { ... }")
	case len(s.Code.Value) > maxScript:
		d.report(pos, codeLimit, fmt.Sprintf("the script has %d bytes; at most %d KiB are read", len(s.Code.Value), maxScript>>10), "")
	}
}

// scriptFile takes in the file that a script names; or the text that was taken in before.
func (d *decoder) scriptFile(o *object, s *Script, file *node) {
	name := filepath.ToSlash(s.File)
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\n\r") || !strings.HasSuffix(name, ".js") {
		d.report(file.pos, codeValue, fmt.Sprintf("%s is no path of a script", quote(s.File)), "name a file that ends in .js, in the definition's folder or below: totals.js, js/totals.js")
		s.Code = Text{Value: " ", Pos: file.pos}
		return
	}
	s.File = name
	if t := o.text("script_text"); o.get("script_text") != nil {
		s.taken, s.Code = true, t
		d.scriptText(s, t.Pos)
		return
	}
	s.Code = Text{Value: " ", Pos: file.pos}
	if d.open == nil {
		d.report(file.pos, codeFile, fmt.Sprintf("script file %s cannot be read here", quote(s.File)), "give the file together with the definition")
		return
	}
	text, err := d.open(name)
	if err != nil {
		d.report(file.pos, codeFile, fmt.Sprintf("script file %s: %v", quote(s.File), err), "the path is relative to the definition's folder")
		return
	}
	if len(text) > maxScript {
		d.report(file.pos, codeLimit, fmt.Sprintf("script file %s has more than %d KiB", quote(s.File), maxScript>>10), "")
		return
	}
	path := name
	if dir := filepath.ToSlash(filepath.Dir(file.pos.File)); dir != "." {
		path = dir + "/" + name
	}
	src, fault := newSource(path, text)
	if fault != nil {
		*d.mistakes = append(*d.mistakes, *fault)
		return
	}
	s.Code = Text{Value: strings.Join(src.lines, "\n") + "\n", Pos: src.pos(1, 1)}
	d.scriptText(s, s.Code.Pos)
}

// takenHead is the first line of a script that was taken in from a file: a comment, so that the file's lines are one
// further down.
func takenHead(file string) string { return "// " + file + "\n" }

// takeIn returns a definition's text with the script that its file held, so that the text alone is the whole
// definition: it is what a node keeps, and what differs when the file has changed.
func takeIn(root *node, body string, s *Script) (string, bool) {
	text := takenHead(s.File) + s.Code.Value
	trimmed := strings.TrimRight(body, " \t\n")
	var out string
	if strings.HasPrefix(strings.TrimSpace(body), "{") {
		end := strings.LastIndexByte(trimmed, '}')
		if end < 0 {
			return body, false
		}
		b, err := json.Marshal(text)
		if err != nil {
			return body, false
		}
		out = strings.TrimRight(trimmed[:end], " \t\n,") + ",\n  script_text: " + string(b) + trimmed[end:] + "\n"
	} else {
		indent := strings.Repeat(" ", max(0, root.pos.Column-1))
		var b strings.Builder
		b.WriteString(trimmed + "\n" + indent + "script_text: |\n")
		for l := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
			if strings.TrimSpace(l) == "" {
				b.WriteString("\n")
				continue
			}
			b.WriteString(indent + "  " + l + "\n")
		}
		out = b.String()
	}
	set := new(Set)
	if len(Parse("", []byte(out), set).Errors()) > 0 || len(set.Funcs) != 1 {
		return body, false
	}
	for _, f := range set.Funcs {
		if f.Script == nil || !same(f.Script.Code.Value, text) {
			return body, false
		}
	}
	return out, true
}

// takeScript makes the text of a function that has its script in a file one that holds the script.
func (d *decoder) takeScript(root *node, f *Func) {
	if f.Script == nil || f.Script.File == "" || f.Script.taken || strings.TrimSpace(f.Script.Code.Value) == "" {
		return
	}
	text, ok := takeIn(root, f.Text, f.Script)
	if !ok {
		d.report(f.Pos, codeLimit, fmt.Sprintf("script file %s cannot be taken into the definition", quote(f.Script.File)), "write the definition in lines, not in braces; and a definition with its script has at most "+fmt.Sprint(maxDocument>>10)+" KiB")
		return
	}
	f.Text = text
}

// remote decodes the key remote.
func (d *decoder) remote(o *object) *Remote {
	n := o.get("remote")
	if n == nil {
		return nil
	}
	m := o.child("remote")
	if m == nil {
		return nil
	}
	r := &Remote{Subject: m.subject("subject", false, false), URL: m.text("url"), Batch: defaultRemoteBatch, Retries: -1,
		Timeout: m.between("timeout", defaultRemoteTimeout, time.Millisecond, maxRemoteTimeout), KeepsKey: m.boolean("keeps_key")}
	if b := m.get("batch"); b != nil {
		if r.Batch = int(m.integer("batch", maxRemoteBatch)); r.Batch < 1 {
			d.report(b.pos, codeNumber, "batch is 0; it must be at least 1", "")
			r.Batch = 1
		}
	}
	if m.get("retries") != nil {
		r.Retries = int(m.integer("retries", maxRemoteRetries))
	}
	subject, address := m.get("subject"), m.get("url")
	switch {
	case subject != nil && address != nil:
		d.report(address.pos, codeBody, "a remote function has a subject or a url, not both", "remove one of them")
	case address != nil && address.kind == scalarNode:
		u, err := url.Parse(r.URL.Value)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			d.report(r.URL.Pos, codeValue, fmt.Sprintf("%s is no URL of HTTP", quote(r.URL.Value)), "write it like http://127.0.0.1:8080/quote")
		}
	case subject == nil && address == nil:
		d.report(n.pos, codeMissing, "remote has neither subject nor url", "write remote: {subject: price.quote} or remote: {url: 'http://127.0.0.1:8080/quote'}")
	}
	return r
}

// between is a duration within bounds.
func (o *object) between(name string, def, least, most time.Duration) time.Duration {
	v := o.duration(name, def)
	if n := o.get(name); n != nil && n.kind == scalarNode && (v < least || v > most) {
		o.d.report(n.pos, codeDuration, fmt.Sprintf("%s is %s; it must be between %s and %s", name, n.text, least, most), "")
		return def
	}
	return v
}

// sizeBetween is a size within bounds.
func (o *object) sizeBetween(name string, def, least, most int64) int64 {
	v := o.size(name, def)
	if n := o.get(name); n != nil && n.kind == scalarNode && (v < least || v > most) {
		o.d.report(n.pos, codeSize, fmt.Sprintf("%s is %s; it must be between %dMiB and %dGiB", name, n.text, least>>20, most>>30), "")
		return def
	}
	return v
}

// ScriptFiles returns the script files that the definitions of a file name and do not hold, as paths relative to its
// folder, each once.
func ScriptFiles(name string, text []byte) []string {
	var files []string
	seen := map[string]bool{}
	ParseWith(name, text, new(Set), func(path string) ([]byte, error) {
		if !seen[path] {
			seen[path] = true
			files = append(files, path)
		}
		return []byte("function handle() {}\n"), nil
	})
	return files
}
