//go:build unix

package docs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kisflow/kisflow/test/process"
)

const (
	root = "../.."
	// typing is how long the state of a node may take to be what a page says.
	typing = time.Minute
	// longest is how long one command may take; the pages' own programs are linked within it.
	longest = 3 * time.Minute
)

// binaries builds what the pages run, once, and returns its folder. It is done as make build does it, so that what
// that has compiled is there already.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range []string{"github.com/kisflow/kisflow/cmd/kisnode", "github.com/kisflow/kisflow/cmd/kisctl", "github.com/nats-io/nats-server/v2"} {
		c := exec.Command("go", "build", "-o", dir+"/", p)
		c.Dir = root
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", p, err, out)
		}
	}
	return dir
}

// pages are those with examples, from the root.
func pages(t *testing.T) []string {
	all, err := filepath.Glob(root + "/docs/guide/*.md")
	if err != nil || len(all) == 0 {
		t.Fatalf("pages of the guide: %v, %v", all, err)
	}
	return append(all, root+"/README.md", root+"/README.zh-CN.md")
}

func TestExamples(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Fatal("the examples are written for bash: ", err)
	}
	bin := binaries(t)
	for _, p := range pages(t) {
		t.Run(filepath.Base(p), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			blocks, err := parse(string(text))
			if err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			if len(blocks) == 0 {
				t.Fatalf("%s has no example", p)
			}
			s := open(t, p, bin)
			for _, b := range blocks {
				if b.file != "" {
					s.write(b.file, b.text)
				}
				for _, c := range b.commands {
					s.run(c)
				}
			}
		})
	}
}

// shell runs one page's examples.
type shell struct {
	t     *testing.T
	page  string
	dir   string
	in    io.WriteCloser
	out   *bufio.Reader
	ports map[string]string // by a page's address, the one that is used
	marks int
}

func open(t *testing.T, page, bin string) *shell {
	s := &shell{t: t, page: filepath.Base(page), dir: t.TempDir(), ports: make(map[string]string)}
	c := exec.Command("bash", "--noprofile", "--norc")
	c.Dir = s.dir
	c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KISFLOW_SERVER=http://"+s.port("127.0.0.1:7070"), "KISFLOW_NATS=",
		"GOFLAGS=-mod=mod", "GOWORK=off", "LC_ALL=C.UTF-8")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, w, err := os.Pipe()
	if err == nil {
		c.Stdout, c.Stderr = w, w
		s.in, err = c.StdinPipe()
	}
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.out = bufio.NewReader(out)
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // the shell and all that it started
		_ = c.Wait()
		out.Close()
	})
	return s
}

var address = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// port is the free address that stands for one of the page.
func (s *shell) port(of string) string {
	if s.ports[of] == "" {
		s.ports[of] = process.FreeAddress(s.t)
	}
	return s.ports[of]
}

func (s *shell) in2real(text string) string { return address.ReplaceAllStringFunc(text, s.port) }

func (s *shell) real2page(text string) string {
	for of, real := range s.ports {
		text = strings.ReplaceAll(text, real, of)
	}
	return text
}

// write writes a file of the page. Beside Go files a module is needed; it is what `go get` would make.
func (s *shell) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, filepath.FromSlash(name))
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(s.in2real(text)), 0o644)
	}
	if err == nil && strings.HasSuffix(name, ".go") {
		err = s.module()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shell) module() error {
	abs, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	mod, err := os.ReadFile(root + "/go.mod")
	if err != nil {
		return err
	}
	sum, err := os.ReadFile(root + "/go.sum")
	if err != nil {
		return err
	}
	text := strings.Replace(string(mod), "module github.com/kisflow/kisflow\n", "module example.com/rewards\n", 1) +
		"\nrequire github.com/kisflow/kisflow v0.0.0\n\nreplace github.com/kisflow/kisflow => " + strconv.Quote(abs) + "\n"
	return errors.Join(os.WriteFile(filepath.Join(s.dir, "go.mod"), []byte(text), 0o644), os.WriteFile(filepath.Join(s.dir, "go.sum"), sum, 0o644))
}

var (
	starts  = regexp.MustCompile(`(?m)(^|\s)(kisnode|\./\w+)( --(data|config) .*)`)
	listens = regexp.MustCompile(` --listen (\S+)`)
	reading = regexp.MustCompile(`^kisctl (state|deadletters list|deadletters show|describe|get|lag|status|tail .*--no-follow|doctor)\b`)
	killed  = regexp.MustCompile(`^bash: line \d+: +\d+ (Killed|Terminated)\b`)
)

// run runs one command, and fails the test unless it ends with 0 and prints what the page says.
func (s *shell) run(c command) {
	s.t.Helper()
	text := starts.ReplaceAllStringFunc(s.in2real(c.text), func(start string) string {
		m := starts.FindStringSubmatch(start)
		if !strings.Contains(start, " --listen ") {
			m[2] += " --listen " + s.port("127.0.0.1:7070")
		}
		if !strings.Contains(start, " --nats-listen ") && !strings.Contains(start, " --nats ") {
			m[2] += " --nats-listen " + s.port("127.0.0.1:4222")
		}
		return m[1] + m[2] + m[3]
	})
	for give := time.Now().Add(typing); ; time.Sleep(50 * time.Millisecond) {
		printed, code := s.shell(c, text)
		if code == 0 && c.fits(printed) {
			break
		}
		if !reading.MatchString(c.text) || time.Now().After(give) {
			s.t.Fatalf("%s:%d: %s\nended with %d and printed\n%s\nthe page says\n%s\n%s", s.page, c.line, c.text, code,
				strings.Join(printed, "\n"), strings.Join(c.want, "\n"), s.logs())
		}
	}
	if m := listens.FindStringSubmatch(text); m != nil && strings.HasSuffix(text, "&") {
		s.ready(c, m[1])
	}
}

// shell hands a command to the shell and returns what it printed, and its exit code.
func (s *shell) shell(c command, text string) ([]string, int) {
	s.t.Helper()
	s.marks++
	mark := fmt.Sprintf("end of command %d of %s:", s.marks, s.page)
	// The command's input is empty, not what comes after it here. jobs forgets those that have ended.
	if _, err := fmt.Fprintf(s.in, "{ %s\n} </dev/null\nprintf '\\n%s %%d\\n' $?; jobs >/dev/null 2>&1\n", text, mark); err != nil {
		s.t.Fatalf("%s:%d: %v", s.page, c.line, err)
	}
	type answer struct {
		printed []string
		code    int
		err     error
	}
	done := make(chan answer, 1)
	go func() { // ends with the mark, or when the shell is killed
		var a answer
		for {
			l, err := s.out.ReadString('\n')
			if err != nil {
				a.err = err
				break
			}
			l = strings.TrimRight(s.real2page(l), "\n")
			if code, ok := strings.CutPrefix(l, mark+" "); ok {
				a.code, a.err = strconv.Atoi(code)
				break
			}
			if !killed.MatchString(l) {
				a.printed = append(a.printed, l)
			}
		}
		done <- a
	}()
	select {
	case a := <-done:
		if a.err != nil {
			s.t.Fatalf("%s:%d: %s\nthe shell ended: %v; it had printed\n%s", s.page, c.line, c.text, a.err, strings.Join(a.printed, "\n"))
		}
		// The mark stands on a line of its own whether or not the command ended its last line.
		if n := len(a.printed); n > 0 && a.printed[n-1] == "" {
			a.printed = a.printed[:n-1]
		}
		return a.printed, a.code
	case <-time.After(longest):
		s.t.Fatalf("%s:%d: %s\ndid not end within %s\n%s", s.page, c.line, c.text, longest, s.logs())
		return nil, 0
	}
}

// ready waits until a node that a command has started is ready.
func (s *shell) ready(c command, address string) {
	s.t.Helper()
	last := ""
	for give := time.Now().Add(longest); time.Now().Before(give); time.Sleep(20 * time.Millisecond) {
		r, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			last = err.Error()
			continue
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return
		}
		last = string(bytes.TrimSpace(text))
	}
	s.t.Fatalf("%s:%d: %s\nis not ready: %s\n%s", s.page, c.line, c.text, last, s.logs())
}

// logs are what the page's nodes have written.
func (s *shell) logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.log")) // the pattern is right
	for _, f := range files {
		text, err := os.ReadFile(f)
		fmt.Fprintf(&b, "-- %s\n%s", filepath.Base(f), text)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}
