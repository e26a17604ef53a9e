package proto

import "fmt"

// AppendValue appends v's encoding to dst.
func AppendValue(dst []byte, v *Value) []byte {
	size := v.SizeVT()
	n := len(dst)
	if cap(dst)-n < size {
		dst = append(make([]byte, 0, 2*n+size), dst...)
	}
	dst = dst[:n+size]
	if wrote, err := v.MarshalToSizedBufferVT(dst[n:]); err != nil || wrote != size {
		panic(fmt.Sprintf("proto: value: wrote %d of %d bytes: %v", wrote, size, err))
	}
	return dst
}

// ParseValue decodes what AppendValue wrote into v, whose former content is gone. v.State points into b.
func ParseValue(b []byte, v *Value) error {
	v.State, v.Revision, v.Sequence, v.Time = nil, 0, 0, 0
	v.Used, v.Timers, v.Version = 0, nil, 0
	if len(v.unknownFields) > 0 {
		v.unknownFields = v.unknownFields[:0]
	}
	if err := v.UnmarshalVTUnsafe(b); err != nil {
		return fmt.Errorf("a state of %d bytes: %w", len(b), err)
	}
	return nil
}
