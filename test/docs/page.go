// Package docs runs the examples of the documentation: README.md, README.zh-CN.md and docs/guide. A page's
// examples are run from its top to its bottom in a folder of their own, by one shell, with the real binaries.
//
// In a page, a fenced block is one of two things; a block that is neither is an error, so that nothing is left
// out without a word. What is not meant to be run is indented by four blanks.
//
//   - With file=NAME after the language, it is a file, written when the examples come to it.
//   - With the language console, it is a session: lines that begin with "$ " are commands, those that begin with
//     "> " go on with the command before, and all others are what the command prints, on both outputs.
//
// A command must end with 0 and print what the page says, and nothing else. In what it prints, "..." stands
// for any text of its line, and alone on a line for any lines; a run of blanks stands for any other. With
// any-order after console, the lines may come in any order.
//
// Reading commands of kisctl are repeated until they answer what the page says, for as long as a reader may
// take to type the next one. After a node has been started with &, the next command waits until it is ready.
// Addresses of 127.0.0.1 are exchanged for free ones on the way in, and back on the way out.
package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// block is one fenced block of a page.
type block struct {
	line     int    // of its fence, from 1
	file     string // the file's name, or "" for a session
	text     string // the file
	commands []command
}

// command is one command of a session.
type command struct {
	line     int
	text     string
	want     []string // what it prints, line by line
	anyOrder bool
}

// parse reads a page's blocks.
func parse(page string) ([]block, error) {
	var blocks []block
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		info, ok := strings.CutPrefix(lines[i], "```")
		if !ok {
			continue
		}
		begin := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		if i == len(lines) {
			return nil, fmt.Errorf("line %d: the block does not end", begin)
		}
		body, words := lines[begin:i], strings.Fields(info)
		b := block{line: begin}
		switch {
		case len(words) == 2 && strings.HasPrefix(words[1], "file="):
			b.file, b.text = strings.TrimPrefix(words[1], "file="), strings.Join(body, "\n")+"\n"
		case len(words) > 0 && words[0] == "console" && (len(words) == 1 || slices.Equal(words[1:], []string{"any-order"})):
			var err error
			if b.commands, err = session(body, begin+1, len(words) == 2); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("line %d: a block of %q is neither a file (file=NAME) nor a session (console); indent what is not meant to be run", begin, info)
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

func session(lines []string, at int, anyOrder bool) ([]command, error) {
	var commands []command
	for i, l := range lines {
		if text, ok := strings.CutPrefix(l, "$ "); ok {
			commands = append(commands, command{line: at + i, text: text, anyOrder: anyOrder})
			continue
		}
		if len(commands) == 0 {
			return nil, fmt.Errorf("line %d: a session begins with a command, \"$ ...\"", at+i)
		}
		c := &commands[len(commands)-1]
		if text, ok := strings.CutPrefix(l, "> "); ok && len(c.want) == 0 {
			c.text += "\n" + text
		} else {
			c.want = append(c.want, l)
		}
	}
	return commands, nil
}

var blanks = regexp.MustCompile(`[ \t]+`)

// normal is a line as it is compared.
func normal(l string) string { return strings.TrimRight(blanks.ReplaceAllString(l, " "), " ") }

// fits says whether a command printed what the page says.
func (c command) fits(printed []string) bool {
	want, got := make([]string, len(c.want)), make([]string, len(printed))
	for i, l := range c.want {
		want[i] = normal(l)
	}
	for i, l := range printed {
		got[i] = normal(l)
	}
	if c.anyOrder {
		return anyOrder(want, got)
	}
	return inOrder(want, got)
}

func inOrder(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "..." {
		for i := range len(got) + 1 {
			if inOrder(want[1:], got[i:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && lineFits(want[0], got[0]) && inOrder(want[1:], got[1:])
}

// anyOrder gives each wanted line the first printed one that is left and fits; a line "..." takes what is over.
func anyOrder(want, got []string) bool {
	left, rest := slices.Clone(got), false
	for _, w := range want {
		if w == "..." {
			rest = true
			continue
		}
		i := slices.IndexFunc(left, func(l string) bool { return lineFits(w, l) })
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
	}
	return rest || len(left) == 0
}

func lineFits(want, got string) bool {
	parts := strings.Split(want, "...")
	if len(parts) == 1 {
		return want == got
	}
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(got)
}
