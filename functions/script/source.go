package script

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/parser"

	"github.com/kisflow/kisflow/kis"
)

// Mistake is something in a script that is not right.
type Mistake struct {
	Offset  int    // of the byte in the script, from 0; -1: the script as a whole
	Message string // what is wrong
	Hint    string // what would be right; may be empty
}

// Error returns the mistake as one line.
func (m Mistake) Error() string {
	if m.Hint != "" {
		return m.Message + " (" + m.Hint + ")"
	}
	return m.Message
}

// Limits of what handling one row may take.
type Limits struct {
	Time   time.Duration // of the wall clock. Default 1s
	Memory int64         // bytes beyond what the worker has when idle. Default 64 MiB
}

// The defaults and the bounds of Limits.
const (
	DefaultTime   = time.Second
	DefaultMemory = 64 << 20
	MinTime       = time.Millisecond
	MaxTime       = 5 * time.Minute
	MinMemory     = 8 << 20
	MaxMemory     = 16 << 30
)

func (l Limits) withDefaults() Limits {
	if l.Time == 0 {
		l.Time = DefaultTime
	}
	if l.Memory == 0 {
		l.Memory = DefaultMemory
	}
	return l
}

const (
	// MaxSource is the most bytes that a script may have.
	MaxSource   = 192 << 10
	maxBrackets = 500  // brackets around a place of it: the parser is called within itself for each
	maxCalls    = 2000 // calls in one another
)

// source is a script that has been read.
type source struct {
	name  string // as messages call it: totals.js, or script
	text  string
	code  *goja.Program
	state bool // it may use a state
	// stateName is what handle calls the state, "" if that cannot be told.
	stateName string
	wrapped   bool // it is one function without a name: in text stand brackets around it
}

// read parses and compiles a script. The mistakes have places in text as it was given.
func read(name, text string) (*source, []Mistake) {
	s := &source{name: name, text: text}
	wrong := func(offset int, hint, format string, args ...any) []Mistake {
		return []Mistake{{Offset: offset, Message: fmt.Sprintf(format, args...), Hint: hint}}
	}
	const form = "a script defines function handle(row, state, ctx) { ... }"
	switch {
	case strings.TrimSpace(text) == "":
		return nil, wrong(-1, form, "the script is empty")
	case len(text) > MaxSource:
		return nil, wrong(-1, "", "the script has %d bytes; the most is %d", len(text), MaxSource)
	}
	if at := tooDeep(text); at >= 0 {
		return nil, wrong(at, "", "more than %d brackets are open", maxBrackets)
	}
	if head := strings.TrimSpace(text); strings.HasPrefix(head, "function") {
		if rest := strings.TrimSpace(strings.TrimPrefix(head, "function")); strings.HasPrefix(rest, "(") {
			s.wrapped = true
			s.text = "(" + strings.TrimRight(text, " \t\r\n;") + ")"
		}
	}
	tree, err := parser.ParseFile(nil, name, s.text, 0, parser.WithDisableSourceMaps)
	if err != nil {
		var list parser.ErrorList
		if errors.As(err, &list) && len(list) > 0 {
			return nil, wrong(s.offset(list[0].Position.Line, list[0].Position.Column), "", "%s", lower(list[0].Message))
		}
		return nil, wrong(-1, "", "%s", err)
	}
	handle, there := handler(tree)
	if !there {
		return nil, wrong(-1, form, "the script has no function handle")
	}
	if s.code, err = goja.CompileAST(tree, true); err != nil {
		var ce *goja.CompilerSyntaxError
		if errors.As(err, &ce) && ce.File != nil {
			p := ce.File.Position(ce.Offset)
			return nil, wrong(s.offset(p.Line, p.Column), "", "%s", lower(ce.Message))
		}
		return nil, wrong(-1, "", "%s", err)
	}
	if handle != nil && len(handle.List) >= 2 {
		if id, ok := handle.List[1].Target.(*ast.Identifier); ok {
			s.stateName = string(id.Name)
		}
	}
	s.state = handle == nil || len(handle.List) >= 2 || handle.Rest != nil || strings.Contains(text, "state") || strings.Contains(text, "arguments")
	return s, nil
}

// needsState returns where the script uses the fields of its state, or -1.
func (s *source) needsState() int {
	if s.stateName == "" {
		return -1
	}
	use := regexp.MustCompile(`(?:^|[^\w$.])` + regexp.QuoteMeta(s.stateName) + `\s*[.\[]`).FindStringIndex(s.text)
	if use == nil {
		return -1
	}
	at := use[0] + strings.Index(s.text[use[0]:], s.stateName)
	if s.wrapped {
		at--
	}
	return at
}

// offset is the place of a line and column of the text that is parsed in the text that was given.
func (s *source) offset(line, column int) int {
	at := 0
	for rest := s.text; line > 1; line-- {
		i := strings.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		at += i + 1
		rest = rest[i+1:]
	}
	at += column - 1
	most := len(s.text)
	if s.wrapped {
		at, most = at-1, most-2
	}
	return min(max(0, at), most)
}

// tooDeep returns where more brackets are open than may be, or -1. Brackets in texts count too: it is a bound, not a
// reading.
func tooDeep(text string) int {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '(', '[', '{':
			if depth++; depth > maxBrackets {
				return i
			}
		case ')', ']', '}':
			depth = max(0, depth-1)
		}
	}
	return -1
}

// handler finds the function that rows are given to; its parameters are nil where they cannot be told.
func handler(tree *ast.Program) (parameters *ast.ParameterList, there bool) {
	function := func(e ast.Expression) *ast.ParameterList {
		switch e := e.(type) {
		case *ast.FunctionLiteral:
			return e.ParameterList
		case *ast.ArrowFunctionLiteral:
			return e.ParameterList
		}
		return nil
	}
	named := func(list []*ast.Binding) (*ast.ParameterList, bool) {
		for _, b := range list {
			if id, ok := b.Target.(*ast.Identifier); ok && id.Name == "handle" {
				return function(b.Initializer), true
			}
		}
		return nil, false
	}
	for _, st := range tree.Body {
		switch st := st.(type) {
		case *ast.FunctionDeclaration:
			if st.Function.Name != nil && st.Function.Name.Name == "handle" {
				return st.Function.ParameterList, true
			}
		case *ast.VariableStatement:
			if p, ok := named(st.List); ok {
				return p, true
			}
		case *ast.LexicalDeclaration:
			if p, ok := named(st.List); ok {
				return p, true
			}
		}
	}
	if len(tree.Body) == 1 {
		if e, ok := tree.Body[0].(*ast.ExpressionStatement); ok {
			p := function(e.Expression)
			return p, p != nil
		}
	}
	return nil, false
}

// lower makes a message of the parser one of ours.
func lower(s string) string {
	s = strings.TrimPrefix(s, "SyntaxError: ")
	if len(s) > 1 && s[0] >= 'A' && s[0] <= 'Z' && (s[1] < 'A' || s[1] > 'Z') {
		return string(s[0]+'a'-'A') + s[1:]
	}
	return s
}

// program is a script as a worker is given it: with all that its rows have in common.
type program struct {
	id     [16]byte
	source *source
	mode   kis.Mode
	keyed  bool
	state  bool
	sends  bool // it may call ctx.send
	limits Limits
	params []byte // JSON
}

// identify gives the program a name that says all of it.
func (p *program) identify() {
	sum := sha256.Sum256(p.appendTo(nil))
	copy(p.id[:], sum[:])
}

// appendTo writes all of a program but its id.
func (p *program) appendTo(b []byte) []byte {
	b = appendText(b, p.source.name)
	b = appendText(b, p.source.text)
	b = appendText(b, string(p.mode))
	b = appendText(b, p.params)
	flags := byte(0)
	for i, f := range []bool{p.keyed, p.state, p.sends, p.source.wrapped} {
		if f {
			flags |= 1 << i
		}
	}
	b = append(b, flags)
	return appendText(b, fmt.Sprintf("%d %d", p.limits.Time, p.limits.Memory))
}

// readProgram reads what appendTo wrote.
func readProgram(id [16]byte, b []byte) (*program, error) {
	c := cursor{b: b}
	s := &source{name: string(c.text()), text: string(c.text())}
	p := &program{id: id, source: s, mode: kis.Mode(c.text()), params: append([]byte(nil), c.text()...)}
	if len(c.b) == 0 {
		return nil, errFrame
	}
	flags := c.b[0]
	c.b = c.b[1:]
	p.keyed, p.state, p.sends, s.wrapped = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0
	if _, err := fmt.Sscanf(string(c.text()), "%d %d", &p.limits.Time, &p.limits.Memory); err != nil || c.err != nil {
		return nil, errFrame
	}
	tree, err := parser.ParseFile(nil, s.name, s.text, 0, parser.WithDisableSourceMaps)
	if err != nil {
		return nil, err
	}
	s.code, err = goja.CompileAST(tree, true)
	return p, err
}
