package flowdef

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What is read at most. A definition is some hundred values; these bounds keep hostile files cheap.
const (
	maxFile      = 4 << 20   // bytes of a file
	maxDocument  = 256 << 10 // bytes of one document: the parser's time grows by the square
	maxBlank     = 100       // blank lines in a row, for the same reason
	maxDepth     = 64        // values in one another
	maxTokens    = 20_000    // words and signs of one document
	maxValues    = 20_000    // values of one document, with what stands behind its aliases
	maxDocuments = 2_000     // documents of one file
	maxName      = 200       // bytes of a name
	maxMistakes  = 1_000     // mistakes that one file is told
)

type kind int

const (
	scalarNode kind = iota
	mapNode
	listNode
)

// scalarType is what a plainly written scalar means.
type scalarType int

const (
	stringScalar scalarType = iota
	nullScalar
	boolScalar
	intScalar
	floatScalar
)

// node is one value of a document. An alias shares the node of its anchor.
type node struct {
	kind   kind
	pos    Pos // of its first character, quote included
	typ    scalarType
	text   string  // a scalar's text, as written
	raw    *scalar // how a scalar is written; nil for keys made up by the parser
	fields []field // of a map
	items  []*node // of a list

	size, height int  // values in it, levels below it
	open         bool // its anchor is still being read
}

type field struct {
	name string
	key  *node
	val  *node
}

func (n *node) isNull() bool { return n == nil || n.kind == scalarNode && n.typ == nullScalar }

// isNumber tells whether a scalar is written as a number; also one that is too large for the parser.
func (n *node) isNumber() bool {
	if n.kind != scalarNode || n.raw != nil && n.raw.style != plain {
		return false
	}
	if n.typ == stringScalar {
		_, err := parseInt(n.text)
		return err == nil || errors.Is(err, strconv.ErrRange)
	}
	return n.typ == intScalar || n.typ == floatScalar
}

func (n *node) asText() Text {
	t := Text{Value: n.text, Pos: n.pos, raw: n.raw}
	if n.raw != nil {
		t.Pos = n.raw.start()
	}
	return t
}

// what names a node's type for a message.
func (n *node) what() string {
	switch n.kind {
	case mapNode:
		return "a mapping"
	case listNode:
		return "a list"
	}
	switch n.typ {
	case nullScalar:
		return "nothing"
	case boolScalar:
		return "the truth value " + n.text
	case intScalar, floatScalar:
		return "the number " + n.text
	}
	return "the text " + quote(n.text)
}

// reader makes nodes of one document.
type reader struct {
	src      *source
	first    int // lines of the file before the document
	anchors  map[string]*node
	mistakes *Mistakes
	budget   int
}

// readDocument parses one document; nil if it cannot be read or is empty.
func readDocument(src *source, d document, mistakes *Mistakes) (root *node) {
	r := &reader{src: src, first: d.first, anchors: map[string]*node{}, mistakes: mistakes, budget: maxValues}
	defer func() {
		if p := recover(); p != nil { // the parser's own fault; the file is refused all the same
			r.report(r.src.pos(d.first+1, 1), codeSyntax, "the document cannot be read as YAML", "")
			root = nil
		}
	}()
	if !r.small(d) {
		return nil
	}
	tokens := lexer.Tokenize(d.text)
	if !r.bounded(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.syntax(err)
		return nil
	}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.DirectiveType || doc.Body.Type() == ast.CommentType {
			continue
		}
		if root != nil {
			r.report(r.place(doc.Body.GetToken()), codeSyntax, "a second value in one document", "put --- on a line of its own before it")
			return nil
		}
		root = r.read(doc.Body, 0)
		if root == nil {
			return nil
		}
	}
	return root
}

func (r *reader) report(pos Pos, code, message, hint string) {
	*r.mistakes = append(*r.mistakes, NewMistake(pos, code, message, hint))
}

func (r *reader) place(t *token.Token) Pos {
	if t == nil || t.Position == nil {
		return r.src.pos(r.first+1, 1)
	}
	line := min(t.Position.Line+r.first, len(r.src.lines))
	return r.src.pos(line, min(t.Position.Column, utf8.RuneCountInString(r.src.line(line))+1))
}

// small checks a document's bytes and blank lines, before anything reads them.
func (r *reader) small(d document) bool {
	if len(d.text) > maxDocument {
		r.report(r.src.pos(d.first+1, 1), codeLimit, fmt.Sprintf("the document has %d bytes; at most %d KiB are read", len(d.text), maxDocument>>10), "put its definitions into documents of their own")
		return false
	}
	blank := 0
	for i, l := range r.src.lines[d.first:d.end] {
		if strings.TrimSpace(l) != "" {
			blank = 0
		} else if blank++; blank > maxBlank {
			r.report(r.src.pos(d.first+i+1, 1), codeLimit, fmt.Sprintf("more than %d blank lines in a row", maxBlank), "remove them")
			return false
		}
	}
	return true
}

// bounded checks the size of a document and how deep its values stand in one another, before the parser
// follows them.
func (r *reader) bounded(tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		r.report(r.place(tokens[maxTokens]), codeLimit, fmt.Sprintf("the document has more than %d words and signs", maxTokens), "put its definitions into documents of their own")
		return false
	}
	flow := 0
	var columns []int // of the blocks around the token
	line := 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(0, flow-1)
		}
		if flow == 0 && t.Position != nil && t.Type != token.CommentType {
			first := t.Position.Line != line
			line = t.Position.Line
			if first || t.Type == token.SequenceEntryType || t.Type == token.MappingKeyType {
				for len(columns) > 0 && columns[len(columns)-1] >= t.Position.Column {
					columns = columns[:len(columns)-1]
				}
				columns = append(columns, t.Position.Column)
			}
		}
		if flow+len(columns) > maxDepth {
			r.report(r.place(t), codeLimit, fmt.Sprintf("values stand more than %d deep in one another", maxDepth), "")
			return false
		}
	}
	return true
}

func (r *reader) syntax(err error) {
	var se *yaml.SyntaxError
	if !errors.As(err, &se) {
		r.report(r.src.pos(r.first+1, 1), codeSyntax, "not YAML: "+firstLine(err.Error()), "")
		return
	}
	pos := r.place(se.Token)
	message, hint := "not YAML: "+firstLine(se.Message), ""
	line := r.src.line(pos.Line)
	switch {
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		r.report(r.src.pos(pos.Line, strings.IndexByte(line, '\t')+1), codeTab, "a tab indents the line", "indent with blanks")
		return
	case strings.Contains(se.Message, "mapping value is not allowed"):
		hint = "a text that holds ': ' needs quotes; or the next lines are indented wrongly"
	case strings.Contains(se.Message, "reserved character"):
		hint = "put the text in quotes"
	case strings.Contains(se.Message, "invalid header option"):
		hint = "a text that begins with > or | needs quotes"
	case strings.Contains(se.Message, "must be specified"):
		hint = "a text over several lines inside of {} or [] needs quotes"
	}
	r.report(pos, codeSyntax, message, hint)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if s == "" {
		return "it cannot be read"
	}
	return s
}

// read makes a node, or nil after a mistake that makes the document useless.
func (r *reader) read(n ast.Node, depth int) *node {
	if depth > maxDepth {
		r.report(r.place(n.GetToken()), codeLimit, fmt.Sprintf("values stand more than %d deep in one another", maxDepth), "")
		return nil
	}
	out := &node{pos: r.place(n.GetToken()), size: 1}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.kind = mapNode
		if !n.IsFlowStyle && !r.untabbed(n.Values...) {
			return nil
		}
		return r.fields(out, n.Values, depth)
	case *ast.MappingValueNode:
		out.kind = mapNode
		if !n.IsFlowStyle && !r.untabbed(n) {
			return nil
		}
		return r.fields(out, []*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		out.kind = listNode
		for i, v := range n.Values {
			if dash := r.swallowed(n, i); dash != nil {
				r.report(*dash, codeSyntax, "a list has an empty item", "write the item, or remove the dash")
				return nil
			}
			item := r.joined(v)
			if item == nil {
				item = r.readValue(v, n.GetToken(), depth+1)
			}
			if item == nil {
				return nil
			}
			out.items = append(out.items, item)
			if !r.grow(out, item) {
				return nil
			}
		}
		return out
	case *ast.AnchorNode:
		return r.anchor(n, depth)
	case *ast.AliasNode:
		return r.alias(n, depth)
	case *ast.TagNode:
		return r.tag(n, depth)
	case *ast.LiteralNode:
		out.text = n.Value.Value
		s := literal
		if strings.HasPrefix(n.Start.Value, ">") {
			s = folded
		}
		out.raw = &scalar{src: r.src, line: out.pos.Line, column: out.pos.Column, style: s}
		return out
	case *ast.NullNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode, *ast.StringNode, *ast.MergeKeyNode:
		return r.scalar(out, n.GetToken())
	case *ast.MappingKeyNode:
		return r.read(n.Value, depth)
	case *ast.CommentGroupNode, *ast.CommentNode:
		out.typ = nullScalar
		return out
	}
	r.report(out.pos, codeSyntax, fmt.Sprintf("not YAML that definitions may use: %s", strings.ToLower(n.Type().YAMLName())), "")
	return nil
}

// readValue reads a value that the parser may have left out.
func (r *reader) readValue(n ast.Node, at *token.Token, depth int) *node {
	if n == nil {
		return &node{pos: r.place(at), typ: nullScalar, size: 1}
	}
	return r.read(n, depth)
}

// grow adds a value to its container's size, and checks what the document comes to.
func (r *reader) grow(out, in *node) bool {
	out.size += in.size
	out.height = max(out.height, in.height+1)
	if out.size > maxValues {
		r.report(in.pos, codeLimit, fmt.Sprintf("the document comes to more than %d values, with those behind its aliases", maxValues), "")
		return false
	}
	return true
}

func (r *reader) scalar(out *node, t *token.Token) *node {
	out.text = t.Value
	first := t.Value
	s := plain
	switch t.Type {
	case token.SingleQuoteType:
		s, first = singleQuoted, "'"
	case token.DoubleQuoteType:
		s, first = doubleQuoted, `"`
	case token.ImplicitNullType:
		first = ""
	}
	out.pos = r.startsWith(out.pos, first)
	out.raw = &scalar{src: r.src, line: out.pos.Line, column: out.pos.Column, style: s}
	if s == plain && strings.Contains(t.Value, ": ") && !strings.Contains(r.src.line(out.pos.Line), t.Value) {
		r.report(out.pos, codeSyntax, "a text over several lines holds ': '", "put it in quotes, or look at how its lines are indented")
		return nil
	}
	switch t.Type {
	case token.NullType, token.ImplicitNullType:
		out.typ, out.raw = nullScalar, nil
		if t.Type == token.ImplicitNullType {
			out.text = ""
		}
	case token.BoolType:
		out.typ = boolScalar
	case token.IntegerType, token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType:
		out.typ = intScalar
	case token.FloatType, token.InfinityType, token.NanType:
		out.typ = floatScalar
	}
	return out
}

// startsWith moves a place to where a scalar's first word stands in its line. The parser's place is off by
// the blanks that follow it.
func (r *reader) startsWith(pos Pos, text string) Pos {
	line := []rune(r.src.line(pos.Line))
	word, _, _ := strings.Cut(text, " ")
	for _, t := range []string{text, word} { // the whole of it, if it stands in one line
		if want := []rune(t); len(want) > 0 && len(want) <= len(line) {
			if column := wordAt(line, want, pos.Column); column > 0 {
				return r.src.pos(pos.Line, column)
			}
		}
	}
	return pos
}

// wordAt returns the column nearest to the given one where a word begins, or 0.
func wordAt(line, want []rune, near int) int {
	at := func(column int) bool {
		return column >= 1 && column-1+len(want) <= len(line) && slices.Equal(line[column-1:column-1+len(want)], want) &&
			(column == 1 || strings.ContainsRune(" \t[{,:-?", line[column-2]))
	}
	for d := range len(line) {
		switch {
		case at(near - d):
			return near - d
		case at(near + d):
			return near + d
		}
	}
	return 0
}

// glued tells whether a plain key's colon has no blank behind it: then it is no key but a text, as in
// [http://host:80], which the parser takes apart all the same.
func (r *reader) glued(mv *ast.MappingValueNode) bool {
	key, ok := mv.Key.(*ast.StringNode)
	if !ok && mv.Key.GetToken() == nil || ok && (key.Token.Type == token.SingleQuoteType || key.Token.Type == token.DoubleQuoteType) {
		return false
	}
	if _, scalar := mv.Key.(ast.ScalarNode); !scalar || mv.Start == nil {
		return false
	}
	pos := r.place(mv.Start)
	line := []rune(r.src.line(pos.Line))
	if pos.Column > len(line) || line[pos.Column-1] != ':' {
		return false
	}
	return pos.Column < len(line) && !strings.ContainsRune(" \t,[]{}", line[pos.Column])
}

// swallowed tells whether an item of a list in lines is the mapping around the list: the parser reads on into
// it where the last item is empty. It returns the place of the item's dash.
func (r *reader) swallowed(n *ast.SequenceNode, i int) *Pos {
	if n.IsFlowStyle || i >= len(n.Entries) || n.Entries[i].Start == nil || n.Values[i] == nil {
		return nil
	}
	var first ast.Node
	switch v := n.Values[i].(type) {
	case *ast.MappingValueNode:
		first = v.Key
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			first = v.Values[0].Key
		}
	}
	if first == nil {
		return nil
	}
	dash, key := r.place(n.Entries[i].Start), r.place(first.GetToken())
	if key.Line > dash.Line && key.Column <= dash.Column {
		return &dash
	}
	return nil
}

// joined makes a text of an item of a list that the parser took apart at a colon, or nil.
func (r *reader) joined(n ast.Node) *node {
	var mv *ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingValueNode:
		mv = n
	case *ast.MappingNode:
		if len(n.Values) == 1 && !n.IsFlowStyle {
			mv = n.Values[0]
		}
	}
	if mv == nil || !r.glued(mv) {
		return nil
	}
	value, ok := mv.Value.(ast.ScalarNode)
	if !ok || value.GetToken() == nil {
		return nil
	}
	switch value.GetToken().Type {
	case token.SingleQuoteType, token.DoubleQuoteType, token.LiteralType, token.FoldedType:
		return nil
	}
	key := mv.Key.GetToken()
	text := key.Value + ":" + value.GetToken().Value
	pos := r.startsWith(r.place(key), text)
	return &node{pos: pos, text: text, raw: &scalar{src: r.src, line: pos.Line, column: pos.Column}, size: 1}
}

// untabbed checks that no tab indents the keys of a block, which the parser lets pass behind blanks.
func (r *reader) untabbed(values ...*ast.MappingValueNode) bool {
	for _, mv := range values {
		key := mv.Key.GetToken()
		pos := r.startsWith(r.place(key), key.Value)
		line := r.src.line(pos.Line)
		before := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		if i := strings.IndexByte(before, '\t'); i >= 0 && len(before) < pos.Column {
			r.report(r.src.pos(pos.Line, i+1), codeTab, "a tab indents the line", "indent with blanks")
			return false
		}
	}
	return true
}

func (r *reader) fields(out *node, values []*ast.MappingValueNode, depth int) *node {
	if len(values) > 0 {
		out.pos = r.place(values[0].Key.GetToken())
	}
	type merge struct {
		at    Pos
		value *node
	}
	var merges []merge
	seen := map[string]Pos{}
	for _, mv := range values {
		if r.glued(mv) {
			pos := r.place(mv.Start)
			pos.Column++
			r.report(pos, codeSyntax, "not YAML: no blank behind the colon of a key", "write key: value")
			return nil
		}
		val := r.readValue(mv.Value, mv.GetToken(), depth+1)
		if val == nil || !r.grow(out, val) {
			return nil
		}
		if mv.Key.IsMergeKey() {
			merges = append(merges, merge{at: r.place(mv.Key.GetToken()), value: val})
			continue
		}
		key := r.read(mv.Key, depth+1)
		if key == nil {
			return nil
		}
		if key.kind != scalarNode {
			r.report(key.pos, codeSyntax, "a key is "+key.what(), "keys are names")
			continue
		}
		if first, twice := seen[key.text]; twice {
			r.report(key.pos, codeTwiceKey, fmt.Sprintf("key %s stands here a second time", quote(key.text)), fmt.Sprintf("the first is in line %d", first.Line))
			continue
		}
		seen[key.text] = key.pos
		out.fields = append(out.fields, field{name: key.text, key: key, val: val})
	}
	for _, m := range merges {
		list := []*node{m.value}
		if m.value.kind == listNode {
			list = m.value.items
		}
		for _, from := range list {
			if from.kind != mapNode {
				r.report(m.at, codeType, "<< merges "+from.what(), "it takes an alias of a mapping")
				continue
			}
			for _, f := range from.fields {
				if _, there := seen[f.name]; !there {
					seen[f.name] = f.key.pos
					out.fields = append(out.fields, f)
				}
			}
		}
	}
	return out
}

func (r *reader) anchor(n *ast.AnchorNode, depth int) *node {
	name := n.Name.GetToken().Value
	r.anchors[name] = &node{open: true}
	v := r.readValue(n.Value, n.GetToken(), depth)
	if v == nil {
		return nil
	}
	r.anchors[name] = v
	return v
}

func (r *reader) alias(n *ast.AliasNode, depth int) *node {
	name := n.Value.GetToken().Value
	pos := r.place(n.GetToken())
	v := r.anchors[name]
	switch {
	case v == nil:
		known := make([]string, 0, len(r.anchors))
		for k := range r.anchors {
			known = append(known, k)
		}
		r.report(pos, codeAlias, fmt.Sprintf("alias *%s has no anchor before it in this document", name), didYouMean(name, known))
		return nil
	case v.open:
		r.report(pos, codeAlias, fmt.Sprintf("alias *%s stands inside of its own anchor", name), "")
		return nil
	case depth+v.height > maxDepth:
		r.report(pos, codeLimit, fmt.Sprintf("values stand more than %d deep in one another", maxDepth), "")
		return nil
	}
	return v
}

func (r *reader) tag(n *ast.TagNode, depth int) *node {
	tag := n.GetToken().Value
	v := r.readValue(n.Value, n.GetToken(), depth)
	if v == nil {
		return nil
	}
	switch tag {
	case "!!str":
		if v.kind == scalarNode {
			c := *v
			c.typ = stringScalar
			return &c
		}
	case "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!":
		return v
	default:
		r.report(r.place(n.GetToken()), codeTag, fmt.Sprintf("tag %s is not known in definitions", quote(tag)), "leave it out")
		return nil
	}
	return v
}
