package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/kisflow/kisflow/api"
)

// blobFlow keeps what each key was sent last: a state of any size.
const blobFlow = `kistype: flow
status: 1
flow_name: Blobs
entry: {subject: blobs.in}
flows:
  - {fname: KeepBlob, as: keep}
---
kistype: func
fname: KeepBlob
fmode: Calculate
source: {must: [key]}
calculate:
  state:
    n:    {init: 0, set: state.n + 1}
    blob: {init: "''", set: row.blob}
`

const (
	blobSize   = 1000 // bytes of a key's state, about
	blobsInOne = 200  // in a message
	megabyte   = 1e6
)

// sizes of a partition's state in megabytes.
func (b *bench) sizes() []int {
	if b.quick {
		return []int{1, 10, 100}
	}
	return []int{1, 4, 16, 64, 256, 1000}
}

// recovery kills the owner of a partition with so much state, and takes the time until a key of it is served again: where
// another node keeps a warm copy, and where the state has to be read from the snapshot and the log.
func (b *bench) recovery(ctx context.Context, name string, warm bool) error {
	s := setup{Nodes: 2, Replicas: 1}
	what := "from the snapshot and the log"
	if warm {
		s.Standbys, what = 1, "with a warm copy"
	}
	var points []point
	for _, size := range b.sizes() {
		runs := b.runs
		if size > 100 {
			runs = 1
		}
		var took, disk []float64
		for i := range runs {
			err := b.with(ctx, s, func(f *fleet) error {
				if err := f.apply(ctx, blobFlow); err != nil {
					return err
				}
				last, err := f.fill(ctx, size)
				if err != nil {
					return fmt.Errorf("fill: %w", err)
				}
				seconds, err := f.recover(ctx, last)
				if err != nil {
					return err
				}
				bytes, err := folderBytes(f.dir)
				if err != nil {
					return err
				}
				fmt.Fprintf(os.Stderr, "%s %d/%d %d MB: %.2f s; on disk %d MB\n", name, i+1, runs, size, seconds, bytes/megabyte)
				took, disk = append(took, seconds), append(disk, float64(bytes)/megabyte)
				return nil
			})
			if err != nil {
				return fmt.Errorf("%d MB: %w", size, err)
			}
		}
		b.report.median(name, fmt.Sprintf("a partition of %d MB, %s", size, what), "kill -9 to an answer about a key, s", took, nil)
		points = append(points, point{float64(size), b.report.Rows[len(b.report.Rows)-1].Value})
	}
	slope, at0 := fit(points)
	aim := func(w *row) {
		if warm {
			w.Most = 1 // a gigabyte more must not take a second more: flat
		}
	}
	b.report.median(name, fmt.Sprintf("%s, %d sizes to %d MB", what, len(points), b.sizes()[len(points)-1]), "s for each gigabyte more", []float64{slope * 1000}, aim)
	b.report.median(name, fmt.Sprintf("%s, %d sizes to %d MB", what, len(points), b.sizes()[len(points)-1]), "s for no state at all, by the same line", []float64{at0}, nil)
	return nil
}

type point struct{ x, y float64 }

// fit is the line through points with the least squares: its slope, and where it begins.
func fit(points []point) (slope, at0 float64) {
	var x, y, xx, xy float64
	n := float64(len(points))
	for _, p := range points {
		x, y, xx, xy = x+p.x, y+p.y, xx+p.x*p.x, xy+p.x*p.y
	}
	if d := n*xx - x*x; d > 0 {
		slope = (n*xy - x*y) / d
	}
	return slope, (y - slope*x) / n
}

// fill gives partition 0 of the flow so many megabytes of state, and returns its last key when all of it is committed, and
// copied where there are to be copies.
func (f *fleet) fill(ctx context.Context, size int) (last string, err error) {
	nc, _, err := f.connect(f.running())
	if err != nil {
		return "", err
	}
	defer nc.Close()
	next := keyOf("blob", 0)
	// Texts that do not compress: Pebble's and the snapshot's sizes are the state's.
	noise := rand.New(rand.NewPCG(uint64(size), 1))
	var text []byte
	count := size * megabyte / blobSize
	for i := range count {
		last = next()
		text = fmt.Appendf(text, `{"key":%q,"blob":"`, last)
		text = appendNoise(text, noise, blobSize-40)
		text = append(text, "\"}\n"...)
		if (i+1)%blobsInOne != 0 && i+1 < count {
			continue
		}
		m := &nats.Msg{Subject: "blobs.in", Data: text}
		if _, err := nc.RequestMsgWithContext(ctx, m); err != nil {
			return "", err
		}
		text = text[:0]
	}
	return last, f.await(ctx, "the state is committed and copied", settleLimit, func() error {
		if _, err := f.running()[0].client.State(ctx, "Blobs", "keep", []string{"key=" + last}, api.Read{}); err != nil {
			return err
		}
		where, err := f.partitions(ctx, "Blobs")
		if err != nil {
			return err
		}
		for _, p := range where {
			for _, c := range p.Copies {
				if c.Behind {
					return fmt.Errorf("the copy of %s at %s is behind", p.Name, c.Node)
				}
			}
		}
		return f.settled(ctx)
	})
}

// appendNoise appends random letters.
func appendNoise(dst []byte, noise *rand.Rand, n int) []byte {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	for bits, left := uint64(0), 0; n > 0; n-- {
		if left == 0 {
			bits, left = noise.Uint64(), 10
		}
		dst = append(dst, letters[bits&63])
		bits >>= 6
		left--
	}
	return dst
}

// recover kills the owner of partition 0 and returns the seconds until another node answers about a key.
func (f *fleet) recover(ctx context.Context, key string) (float64, error) {
	where, err := f.partitions(ctx, "Blobs")
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(where, func(p api.ClusterPartition) bool { return strings.HasSuffix(p.Name, "/0") })
	if i < 0 {
		return 0, errors.New("there is no partition 0")
	}
	owner := where[i].Node
	other := f.others(owner)[0]
	at := time.Now()
	f.kill(owner)
	err = f.await(ctx, "an answer about a key", settleLimit, func() error {
		_, err := other.client.State(ctx, "Blobs", "keep", []string{"key=" + key}, api.Read{})
		return err
	})
	return time.Since(at).Seconds(), err
}

// folderBytes is how much a folder holds.
func folderBytes(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		sum += info.Size()
		return nil
	})
	return sum, err
}

// ignoreGone lets files go that are removed while they are counted.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
