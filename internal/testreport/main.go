// Command testreport reads what `go test -json` writes and tells it to people: every failing test with its
// output, every skipped one with its reason, the slowest packages, and as the last line how many there were:
//
//	1234 passed, 0 failed, 3 skipped
//
// Tests are counted with their subtests, of which one that only holds others is one more. A package that does
// not build, or ends without a word from a test, counts as one failure. The exit code is 1 if anything
// failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
)

func main() {
	ok, err := report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// event is one line of go test -json (go doc test2json).
type event struct {
	Action, Package, ImportPath, Test, Output, FailedBuild string
	Elapsed                                                float64 // seconds
}

type testID struct{ pkg, name string }

// maxOutput bounds what is kept of one test's output: its end counts.
const maxOutput = 256 << 10

func report(r io.Reader, w io.Writer) (ok bool, err error) {
	var (
		output                  = make(map[testID][]string)
		kept                    = make(map[testID]int)
		build                   = make(map[string][]string)
		started                 = make(map[testID]bool)
		packages                = make(map[string]float64)
		failedIn                = make(map[string]int)
		passed, failed, skipped int
		skips                   []string
		foreign                 bool
	)
	out := bufio.NewWriter(w)
	defer func() { err = firstOf(err, out.Flush()) }()
	fail := func(what string, lines []string) {
		failed++
		fmt.Fprintf(out, "--- FAILED: %s\n", what)
		for _, l := range lines {
			fmt.Fprint(out, "    ", strings.TrimRight(l, "\n"), "\n")
		}
	}
	in := bufio.NewReader(r)
	for {
		line, readErr := in.ReadString('\n')
		if readErr != nil && readErr != io.EOF {
			return false, readErr
		}
		if trimmed := strings.TrimSpace(line); trimmed != "" {
			var e event
			if trimmed[0] != '{' || json.Unmarshal([]byte(trimmed), &e) != nil {
				fmt.Fprintln(out, trimmed) // the go command's own word
				foreign = foreign || strings.HasPrefix(trimmed, "FAIL")
			} else {
				id := testID{e.Package, e.Test}
				switch e.Action {
				case "run":
					started[id] = true
				case "build-output":
					build[e.ImportPath] = append(build[e.ImportPath], e.Output)
				case "output":
					output[id] = append(output[id], e.Output)
					kept[id] += len(e.Output)
					for kept[id] > maxOutput {
						kept[id] -= len(output[id][0])
						output[id] = output[id][1:]
					}
				case "pass", "fail", "skip":
					delete(started, id)
					switch {
					case e.Test == "" && e.Action == "fail":
						packages[e.Package] = e.Elapsed
						lines := output[id]
						if e.FailedBuild != "" {
							lines = build[e.FailedBuild]
						}
						// What was running when the package died, with what it said last.
						for _, s := range stillRunning(started, e.Package) {
							lines = append(lines, "running: "+s.name)
							lines = append(lines, output[s]...)
						}
						if failedIn[e.Package] == 0 || len(stillRunning(started, e.Package)) > 0 {
							fail(e.Package, lines)
						}
						fmt.Fprintf(out, "FAIL  %s  %.1fs\n", e.Package, e.Elapsed)
					case e.Test == "" && e.Action == "pass":
						packages[e.Package] = e.Elapsed
						fmt.Fprintf(out, "ok    %s  %.1fs\n", e.Package, e.Elapsed)
					case e.Test == "":
						// a package without tests
					case e.Action == "pass":
						passed++
					case e.Action == "skip":
						skipped++
						skips = append(skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(output[id])))
					default:
						failedIn[e.Package]++
						fail(e.Package+" "+e.Test, output[id])
					}
					if e.Test != "" {
						delete(output, id)
						delete(kept, id)
					}
				}
				if err := out.Flush(); err != nil {
					return false, err
				}
			}
		}
		if readErr == io.EOF {
			break
		}
	}
	if foreign && failed == 0 {
		failed++
	}
	for id := range started { // the stream ended in the middle
		if _, ended := packages[id.pkg]; !ended {
			fail(id.pkg+" "+id.name, append(output[id], "no end: the run was cut off"))
		}
	}
	if len(skips) > 0 {
		sort.Strings(skips)
		fmt.Fprintf(out, "\nSkipped:\n")
		for _, s := range skips {
			fmt.Fprintln(out, "  "+s)
		}
	}
	fmt.Fprintf(out, "\nSlowest packages:")
	for _, p := range slowest(packages, 5) {
		fmt.Fprintf(out, " %s %.0fs", p[strings.LastIndexByte(p, '/')+1:], packages[p])
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return failed == 0 && passed > 0, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func stillRunning(started map[testID]bool, pkg string) []testID {
	var ids []testID
	for id := range started {
		if id.pkg == pkg {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b testID) int { return strings.Compare(a.name, b.name) })
	return ids
}

// reason is what a test said when it skipped: the text behind "file_test.go:12: ".
func reason(lines []string) string {
	for _, l := range slices.Backward(lines) {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "---") || strings.HasPrefix(l, "===") {
			continue
		}
		if _, after, found := strings.Cut(l, "_test.go:"); found {
			if _, text, found := strings.Cut(after, ": "); found {
				return text
			}
		}
		return l
	}
	return "no reason given"
}

func slowest(packages map[string]float64, n int) []string {
	names := make([]string, 0, len(packages))
	for p := range packages {
		names = append(names, p)
	}
	slices.SortFunc(names, func(a, b string) int {
		switch {
		case packages[a] > packages[b]:
			return -1
		case packages[a] < packages[b]:
			return 1
		}
		return strings.Compare(a, b)
	})
	return names[:min(n, len(names))]
}
