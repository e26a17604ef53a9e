package script

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame is its length (4 bytes, little endian, of what follows), a byte of its kind, and a payload. The payload
// consists of numbers (varints) and texts (their length as a varint, then their bytes).
const (
	helloFrame  byte = 1 // worker: I am one; its protocol
	loadFrame   byte = 2 // pool: a program
	runFrame    byte = 3 // pool: a request
	resultFrame byte = 4 // worker: results of rows, in the rows' order
	doneFrame   byte = 5 // worker: the load or the request is through
	faultFrame  byte = 6 // worker: the program cannot be loaded, and why
)

// protocol is what pool and worker must agree on. They are the same binary, unless it was replaced while running.
const protocol = 1

const (
	frameHead = 5
	maxFrame  = 256 << 20 // bytes; a batch of the engine is far smaller
)

var errFrame = errors.New("a frame is broken")

// appendFrame begins a frame; endFrame sets its length.
func appendFrame(dst []byte, kind byte) []byte { return append(dst, 0, 0, 0, 0, kind) }

func endFrame(frame []byte) []byte {
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}

// cutFrame takes the first frame off b; ok is false while it is not whole.
func cutFrame(b []byte) (kind byte, payload, rest []byte, ok bool, err error) {
	if len(b) < frameHead {
		return 0, nil, b, false, nil
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n < 1 || n > maxFrame {
		return 0, nil, b, false, fmt.Errorf("%w: it says that it has %d bytes", errFrame, n)
	}
	if int64(len(b)) < 4+n {
		return 0, nil, b, false, nil
	}
	return b[4], b[frameHead : 4+n], b[4+n:], true, nil
}

// readFrame reads one frame; buf is used again where it is large enough.
func readFrame(r io.Reader, buf []byte) (kind byte, payload []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[:])) - 1
	if n < 0 || n > maxFrame {
		return 0, nil, fmt.Errorf("%w: it says that it has %d bytes", errFrame, n+1)
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err = io.ReadFull(r, buf)
	return head[4], buf, err
}

func appendText[T string | []byte](dst []byte, text T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(text)))
	return append(dst, text...)
}

// cursor reads a payload. After the first mistake all that it reads is zero.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) number() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) signed() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

// count is a number of things that take a byte each at least.
func (c *cursor) count() int {
	v := c.number()
	if v > uint64(len(c.b)) {
		c.fail()
		return 0
	}
	return int(v)
}

// text is a piece of the payload.
func (c *cursor) text() []byte {
	n := c.count()
	t := c.b[:n:n]
	c.b = c.b[n:]
	return t
}

func (c *cursor) fail() {
	if c.err == nil {
		c.err = errFrame
	}
	c.b = nil
}

// Kinds of outputs in a result.
const (
	outPass byte = 0 // the row itself
	outEmit byte = 1 // a row
	outSend byte = 2 // a subject and a row
)

// Verdicts of a row in a result.
const (
	rowDone byte = 0
	rowDead byte = 1 // a reason, a stack
	rowDrop byte = 2 // a reason
)
