package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// pack is one message to be: events, one a line.
type pack struct {
	data   []byte
	events int
}

// packing says how lines become messages.
type packing struct {
	lines  int           // most events of a message
	bytes  int           // a message is full once it has so many
	max    int           // most bytes that a message may have; a longer line is not published
	linger time.Duration // how long an event waits for others when none come; 0: until its message is full
	whole  bool          // all input is one message
}

// packed is what became of the input.
type packed struct {
	tooLong   int   // lines longer than a message may be
	firstLong int64 // the number of the first of them, from 1
}

// read turns r into packs until its end, then closes out. Blank lines are left out.
//
// The goroutine that reads r ends with its next read after ctx has ended, which for a terminal or a pipe may
// be never; it holds nothing but its buffer.
func (p packing) read(ctx context.Context, r io.Reader, out chan<- pack) (packed, error) {
	defer close(out)
	chunks := make(chan []byte, 2)
	fault := make(chan error, 1)
	go func() {
		defer close(chunks)
		for {
			chunk := make([]byte, 64<<10)
			n, err := r.Read(chunk)
			if n > 0 {
				select {
				case chunks <- chunk[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					fault <- err
				}
				return
			}
		}
	}()

	b := packer{packing: p, number: 1}
	send := func(pk pack) error {
		select {
		case out <- pk:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var timer *time.Timer
	var late <-chan time.Time
	for {
		select {
		case chunk, more := <-chunks:
			if !more {
				if err := b.end(send); err != nil {
					return b.packed, err
				}
				select {
				case err := <-fault:
					return b.packed, fmt.Errorf("read input: %w", err)
				default:
					return b.packed, ctx.Err()
				}
			}
			if err := b.add(chunk, send); err != nil {
				return b.packed, err
			}
			if p.linger > 0 && late == nil && b.events > 0 {
				if timer == nil {
					timer = time.NewTimer(p.linger)
					defer timer.Stop()
				} else {
					timer.Reset(p.linger)
				}
				late = timer.C
			}
		case <-late:
			late = nil
			if err := b.flush(send); err != nil {
				return b.packed, err
			}
		case <-ctx.Done():
			return b.packed, ctx.Err()
		}
	}
}

// packer collects lines.
type packer struct {
	packing
	packed
	buf    []byte // whole lines of the pack
	events int
	line   []byte // the beginning of a line whose end is still to come
	number int64  // of that line
	skip   bool   // that line is too long already
}

// add takes input as it comes.
func (b *packer) add(chunk []byte, send func(pack) error) error {
	for len(chunk) > 0 {
		i := bytes.IndexByte(chunk, '\n')
		if b.whole || i < 0 {
			b.more(chunk)
			return nil
		}
		b.more(chunk[:i])
		if err := b.endLine(send); err != nil {
			return err
		}
		chunk = chunk[i+1:]
	}
	return nil
}

// more is a part of a line.
func (b *packer) more(part []byte) {
	if b.skip {
		return
	}
	if len(b.line)+len(part) > b.max+1 { // one more for a carriage return
		b.skip, b.line = true, b.line[:0]
		return
	}
	b.line = append(b.line, part...)
}

// endLine puts the line into the pack.
func (b *packer) endLine(send func(pack) error) error {
	line := bytes.TrimSuffix(b.line, []byte("\r"))
	number := b.number
	b.line, b.number = b.line[:0], b.number+1
	if b.skip || len(line) > b.max {
		b.skip = false
		if b.tooLong++; b.tooLong == 1 {
			b.firstLong = number
		}
		return nil
	}
	text := bytes.TrimSpace(line)
	if len(text) == 0 {
		return nil
	}
	// A line that is cut off behind a colon would take the next line for its value. Such a one goes alone, so
	// that it spoils no other; one from brace to brace ends at its end, whatever is wrong inside.
	alone := text[0] != '{' || text[len(text)-1] != '}'
	if b.events > 0 && (alone || len(b.buf)+1+len(line) > min(b.bytes, b.max)) {
		if err := b.flush(send); err != nil {
			return err
		}
	}
	if b.events > 0 {
		b.buf = append(b.buf, '\n')
	}
	b.buf = append(b.buf, line...)
	if b.events++; alone || b.events >= b.lines || len(b.buf) >= b.bytes {
		return b.flush(send)
	}
	return nil
}

// flush sends what there is.
func (b *packer) flush(send func(pack) error) error {
	if b.events == 0 {
		return nil
	}
	pk := pack{data: b.buf, events: b.events}
	b.buf, b.events = nil, 0
	return send(pk)
}

// end sends the rest: the last line may lack its line break.
func (b *packer) end(send func(pack) error) error {
	if err := b.endLine(send); err != nil {
		return err
	}
	return b.flush(send)
}
