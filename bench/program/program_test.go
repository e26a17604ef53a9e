package program

import (
	"os"
	"testing"
	"time"
)

func TestStatTime(t *testing.T) {
	got, err := statTime([]byte("4711 (a name) with) spaces) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0 5\n"))
	if want := 127 * tick; err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b c d 1"} {
		if _, err := statTime([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestStatusBytes(t *testing.T) {
	got, err := statusBytes([]byte("Name:\tx\nVmRSS:\t   1024 kB\n"), "VmRSS:")
	if err != nil || got != 1<<20 {
		t.Errorf("%d, %v; want 1 MiB", got, err)
	}
	if _, err := statusBytes([]byte("Name:\tx\n"), "VmRSS:"); err == nil {
		t.Error("a status without the line was taken")
	}
}

func TestUsageIsOurs(t *testing.T) {
	before, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
	}
	after, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if used := after - before; used < 20*time.Millisecond || used > 5*time.Second {
		t.Errorf("a busy fifth of a second used %v", used)
	}
}

func TestMedianAndQuantile(t *testing.T) {
	if got := Median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("median %g, want 5", got)
	}
	if got := Median([]float64{9, 1, 5, 7}); got != 6 {
		t.Errorf("median %g, want 6", got)
	}
	v := make([]int, 100)
	for i := range v {
		v[i] = i
	}
	if got := Quantile(v, 0.99); got != 99 {
		t.Errorf("p99 %d, want 99", got)
	}
	if got := Quantile(v[:1], 0.99); got != 0 {
		t.Errorf("p99 of one value %d, want it", got)
	}
}
