//go:build unix

package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestUnitFile lets systemd read the unit file of the guide.
func TestUnitFile(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here (Debian's package systemd): the unit file is not checked")
	}
	text, err := os.ReadFile(root + "/docs/guide/deploy/kisnode.service")
	if err != nil {
		t.Fatal(err)
	}
	// What is named there is on the machines of users, not on this one.
	here := regexp.MustCompile(`(?m)^ExecStart=.*$`).ReplaceAllString(string(text), "ExecStart=/bin/true")
	here = regexp.MustCompile(`(?m)^(User|Group)=.*$`).ReplaceAllString(here, "$1=daemon")
	unit := filepath.Join(t.TempDir(), "kisnode.service")
	if err := os.WriteFile(unit, []byte(here), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
	var wrong []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "kisnode.service") {
			wrong = append(wrong, line)
		}
	}
	if len(wrong) > 0 {
		t.Errorf("systemd says (%v):\n%s", err, strings.Join(wrong, ""))
	}
}
