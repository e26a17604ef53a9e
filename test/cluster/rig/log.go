package rig

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Log is what a machine's process has written, with the times at which it came: those of the machine's own clock may
// be wrong on purpose. It is safe for use by many goroutines.
type Log struct {
	mu    sync.Mutex
	lines []Line
	rest  []byte   // an unfinished line
	file  *os.File // a copy; may be nil
}

// Line is one line of a log.
type Line struct {
	At   time.Time
	Text string
}

const (
	logLines = 50_000   // that are kept; then the older half goes
	longLine = 64 << 10 // without an end, it is taken for a line
)

// newLog makes a log, with a copy in the folder that KISFLOW_LOGS names.
func newLog(name string) *Log {
	l := &Log{}
	if folder := os.Getenv("KISFLOW_LOGS"); folder != "" {
		l.file, _ = os.OpenFile(filepath.Join(folder, name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) // only for people
	}
	return l
}

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.rest = append(l.rest, b...)
	for {
		end := bytes.IndexByte(l.rest, '\n')
		if end < 0 && len(l.rest) < longLine {
			return len(b), nil
		}
		if end < 0 {
			end = len(l.rest) - 1
		}
		l.add(now, strings.TrimRight(string(l.rest[:end+1]), "\n"))
		l.rest = l.rest[end+1:]
	}
}

// Note writes a line of the rig's own.
func (l *Log) Note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(time.Now(), "RIG "+fmt.Sprintf(format, args...))
}

func (l *Log) add(at time.Time, text string) {
	if len(l.lines) >= logLines {
		l.lines = append(l.lines[:0], l.lines[logLines/2:]...)
	}
	l.lines = append(l.lines, Line{at, text})
	if l.file != nil {
		fmt.Fprintf(l.file, "%s %s\n", at.Format("15:04:05.000"), text)
	}
}

// Find returns the lines from one time to another that a pattern matches, at most so many.
func (l *Log) Find(from, to time.Time, pattern *regexp.Regexp, most int) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []Line
	for _, line := range l.lines {
		if len(found) == most {
			break
		}
		if !line.At.Before(from) && !line.At.After(to) && pattern.MatchString(line.Text) {
			found = append(found, line)
		}
	}
	return found
}

// Last returns the last lines.
func (l *Log) Last(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, line := range l.lines[max(0, len(l.lines)-n):] {
		fmt.Fprintf(&b, "%s %s\n", line.At.Format("15:04:05.000"), line.Text)
	}
	return b.String()
}

// close ends the copy.
func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}
