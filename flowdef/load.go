package flowdef

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFiles is the most files that one Load reads.
const maxFiles = 10_000

// Load reads definitions from files and folders. A folder is read with all below it, in lexical order; of it
// only names that end in .yml or .yaml. A file may hold several documents. All mistakes of all files are
// returned at once, sorted; what could be read is in the set even so. It does not call Check.
func Load(paths ...string) (*Set, Mistakes) {
	set := &Set{}
	var all Mistakes
	fault := func(path, message, hint string) {
		all = append(all, NewMistake(Pos{File: path}, codeFile, message, hint))
	}
	seen := map[string]bool{}
	for _, path := range paths {
		files, err := list(path)
		if err != nil {
			fault(path, err.Error(), "")
			continue
		}
		if len(files) == 0 {
			all = append(all, NewMistake(Pos{File: path}, codeEmpty, "the folder holds no definitions", "only names that end in .yml or .yaml are read"))
		}
		for _, f := range files {
			if clean := filepath.Clean(f); seen[clean] {
				continue // named twice, as a file and in its folder
			} else {
				seen[clean] = true
			}
			if len(seen) > maxFiles {
				fault(path, fmt.Sprintf("there are more than %d files", maxFiles), "")
				all.Sort()
				return set, all
			}
			text, err := read(f)
			if err != nil {
				fault(f, err.Error(), "")
				continue
			}
			all = append(all, ParseWith(f, text, set, func(path string) ([]byte, error) {
				return read(filepath.Join(filepath.Dir(f), filepath.FromSlash(path)))
			})...)
		}
	}
	all.Sort()
	return set, all
}

// list returns the files of a path: itself, or those of the folder.
func list(path string) ([]string, error) {
	return listed(path, func(name string) bool { return !IsTestFile(name) })
}

// listed returns the files of a path: itself, or those of the folder that are wanted.
func listed(path string, want func(name string) bool) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, cause(err)
	}
	if !info.IsDir() {
		if !want(path) {
			return nil, nil
		}
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ext := filepath.Ext(p)
		if ext != ".yml" && ext != ".yaml" || e.IsDir() || !want(p) {
			return nil
		}
		files = append(files, p)
		if len(files) > maxFiles {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return nil, cause(err)
	}
	slices.Sort(files)
	return files, nil
}

// read reads a file, a byte more than is allowed at most.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() { // to open a pipe would wait for its writer
		return nil, errors.New("it is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, cause(err)
	}
	return text, nil
}

// cause strips the path from an error: a mistake begins with it.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Parse reads one file's text into a set; name is what its mistakes call the file. What has no mistakes that
// make it useless is in the set even if there are others. Names that the set has already are reported by
// Check; the first definition stays.
func Parse(name string, text []byte, into *Set) Mistakes { return ParseWith(name, text, into, nil) }

// ParseWith is Parse for definitions that name further files, as scripts: open reads them.
func ParseWith(name string, text []byte, into *Set, open Opener) Mistakes {
	var mistakes Mistakes
	src, fault := newSource(name, text)
	if fault != nil {
		return Mistakes{*fault}
	}
	docs := src.documents()
	if len(docs) == 0 {
		return Mistakes{NewMistake(Pos{File: name}, codeEmpty, "the file holds no definition", "")}
	}
	for i, doc := range docs {
		if i == maxDocuments {
			mistakes = append(mistakes, NewMistake(src.pos(doc.first+1, 1), codeLimit, fmt.Sprintf("the file has more than %d documents", maxDocuments), "split it into several files"))
			break
		}
		if len(mistakes) >= maxMistakes {
			mistakes = append(mistakes[:maxMistakes], NewMistake(src.pos(doc.first+1, 1), codeTooMany, fmt.Sprintf("the file has more than %d mistakes", maxMistakes), "correct some and check again"))
			break
		}
		if root := readDocument(src, doc, &mistakes); root != nil {
			into.addWith(root, doc.body, &mistakes, open)
		}
	}
	mistakes.Sort()
	return mistakes
}

// add decodes a document into the set.
func (s *Set) add(root *node, body string, mistakes *Mistakes) { s.addWith(root, body, mistakes, nil) }

func (s *Set) addWith(root *node, body string, mistakes *Mistakes, open Opener) {
	d := &decoder{mistakes: mistakes, open: open}
	if root.kind != mapNode {
		d.report(root.pos, codeType, fmt.Sprintf("the document is %s; a definition is a mapping", root.what()), "it begins with kistype: func, flow, conn or global")
		return
	}
	var kind *node
	for _, f := range root.fields {
		if f.name == "kistype" {
			kind = f.val
		}
	}
	if kind.isNull() {
		hint := "add kistype: func, flow, conn or global"
		for _, f := range root.fields {
			if f.name != "kistype" && nearest(f.name, []string{"kistype"}) != "" {
				hint = fmt.Sprintf("did you mean %q instead of %s?", "kistype", quote(f.name))
			}
		}
		d.report(root.pos, codeNoKind, "the document has no kistype", hint)
		return
	}
	t := d.scalar(kind, "kistype")
	if kind.kind != scalarNode {
		return
	}
	if s.Funcs == nil {
		s.Funcs = map[string]*Func{}
	}
	if s.Conns == nil {
		s.Conns = map[string]*Conn{}
	}
	d.kind = t.Value
	switch t.Value {
	case "flow":
		if f := d.flow(root, body); f != nil {
			s.addFlow(f)
		}
	case "func":
		if f := d.function(root, body); f != nil {
			if first, twice := s.Funcs[f.Name]; twice {
				s.duplicate("function", f.Name, f.Pos, first.Pos)
				return
			}
			s.Funcs[f.Name] = f
		}
	case "conn":
		if c := d.connector(root, body); c != nil {
			if first, twice := s.Conns[c.Name]; twice {
				s.duplicate("connector", c.Name, c.Pos, first.Pos)
				return
			}
			s.Conns[c.Name] = c
		}
	case "global":
		if g := d.global(root); g != nil {
			if s.Global != nil {
				s.found = append(s.found, NewMistake(g.Pos, codeGlobals, "a second global", "the first is "+s.Global.Pos.String()))
				return
			}
			s.Global = g
		}
	default:
		hint := didYouMean(strings.ToLower(t.Value), kinds)
		if long := map[string]string{"function": "func", "connector": "conn", "config": "global"}[strings.ToLower(t.Value)]; long != "" {
			hint = "did you mean " + quote(long) + "?"
		}
		d.report(t.Pos, codeKind, "unknown kistype "+quote(t.Value), hint)
	}
}

// addFlow adds a flow. A disabled flow gives way to another of its name: a file that is kept beside its
// successor is no mistake.
func (s *Set) addFlow(f *Flow) {
	for i, g := range s.Flows {
		if g.Name != f.Name {
			continue
		}
		switch {
		case g.Enabled && f.Enabled:
			s.duplicate("flow", f.Name, f.Pos, g.Pos)
		case f.Enabled:
			s.shadowed(g, f)
			s.Flows[i] = f
		default:
			s.shadowed(f, g)
		}
		return
	}
	s.Flows = append(s.Flows, f)
}

func (s *Set) shadowed(out, in *Flow) {
	s.found = append(s.found, NewMistake(out.Pos, codeShadowed, fmt.Sprintf("the disabled flow %s is left out", quote(out.Name)), "another of its name is "+in.Pos.String()))
}

func (s *Set) duplicate(kind, name string, pos, first Pos) {
	s.found = append(s.found, NewMistake(pos, codeDuplicate, fmt.Sprintf("%s %s is defined twice", kind, quote(name)), "the first is "+first.String()))
}
