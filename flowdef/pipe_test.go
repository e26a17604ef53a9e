//go:build unix

package flowdef

import (
	"path/filepath"
	"syscall"
	"testing"
)

// TestLoadPipe does not wait for somebody to write.
func TestLoadPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, mistakes := Load(filepath.Dir(pipe)); len(mistakes.Errors()) != 1 || mistakes[0].Code != codeFile {
		t.Errorf("got %v", mistakes)
	}
}
