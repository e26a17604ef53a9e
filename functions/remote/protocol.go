package remote

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/kisflow/kisflow/kis"
)

// version of the protocol.
const version = 1

const (
	maxState = 1 << 20 // bytes of a key's state
	maxText  = 1 << 10 // bytes of a reason
)

// part is rows of one call in a request.
type part struct {
	call     int // index
	from, to int // of its rows
}

// request writes the request for some rows of calls, and its id: the same rows with the same state have the same one.
func (r *runner) request(dst []byte, parts []part) (b []byte, id string) {
	b = append(dst[:0], r.head...)
	first := kis.Call{}
	if len(parts) > 0 {
		first = *r.calls[parts[0].call]
		b = append(b, `,"revision":`...)
		b = strconv.AppendUint(b, first.Revision, 10)
		b = append(b, `,"now":`...)
		b = strconv.AppendInt(b, first.Now.UnixMilli(), 10)
	}
	b = append(b, `,"calls":[`...)
	for i, p := range parts {
		if i > 0 {
			b = append(b, ',')
		}
		c := r.calls[p.call]
		b = append(b, `{"key":`...)
		b = c.Key.AppendJSON(b)
		if r.stateful {
			b = append(b, `,"state":`...)
			if s := r.states[p.call]; s != "" {
				b = append(b, s...)
			} else {
				b = append(b, "null"...)
			}
		}
		b = append(b, `,"rows":[`...)
		for n := p.from; n < p.to; n++ {
			if n > p.from {
				b = append(b, ',')
			}
			b = append(b, `{"row":`...)
			b = c.Rows[n].AppendJSON(b)
			m := c.Metas[n]
			b = append(b, `,"meta":{"stream":`...)
			b = kis.StringValue(m.Stream).AppendJSON(b)
			b = append(b, `,"subject":`...)
			b = kis.StringValue(m.Subject).AppendJSON(b)
			b = append(b, `,"sequence":`...)
			b = strconv.AppendUint(b, m.Sequence, 10)
			b = append(b, `,"index":`...)
			b = strconv.AppendUint(b, uint64(m.Index), 10)
			b = append(b, `,"time":`...)
			b = strconv.AppendInt(b, m.Time.UnixMilli(), 10)
			b = append(b, `}}`...)
		}
		b = append(b, `]}`...)
	}
	b = append(b, ']')
	sum := sha256.Sum256(b)
	id = hex.EncodeToString(sum[:16])
	b = append(b, `,"id":"`...)
	b = append(b, id...)
	return append(b, `"}`...), id
}

// answer is what comes back.
type answer struct {
	V       *int     `json:"v"`
	ID      *string  `json:"id"`
	Error   *string  `json:"error"`
	Results []result `json:"results"`
}

// result is what became of the rows of one call.
type result struct {
	State json.RawMessage `json:"state"`
	Rows  []rowResult     `json:"rows"`
}

// rowResult is what became of one row.
type rowResult struct {
	Emit  []json.RawMessage `json:"emit"`
	Pass  bool              `json:"pass"`
	Drop  *string           `json:"drop"`
	Error *string           `json:"error"`
	Retry *string           `json:"retry"`
}

// rubbish is an answer that is not understood.
type rubbish struct{ error }

func (r rubbish) Unwrap() error { return r.error }

func rubbishf(format string, args ...any) error { return rubbish{fmt.Errorf(format, args...)} }

// outcome is an answer that was understood: what became of the rows, part by part.
type outcome struct {
	parts []outcomePart
}

type outcomePart struct {
	keep  bool   // the state is as it was
	state string // else this one; "": none
	rows  []outcomeRow
}

type outcomeRow struct {
	refused error
	pass    bool
	emit    []*kis.Row
}

// read reads an answer to a request for these parts. Its error is rubbish, or passing where the program says that it
// cannot answer now.
func (r *runner) read(text []byte, id string, parts []part) (*outcome, error) {
	var a answer
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, rubbishf("the answer is empty")
		}
		return nil, rubbishf("the answer is not of the protocol: %w; it begins with %s", err, head(text))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, rubbishf("the answer holds more than one JSON object")
	}
	switch {
	case a.V != nil && *a.V != version:
		return nil, rubbishf("the answer is of version %d; this is version %d", *a.V, version)
	case a.ID != nil && *a.ID != id:
		return nil, rubbishf("the answer has the id %.40q; it belongs to another request", *a.ID)
	case a.Error != nil:
		return nil, passing{fmt.Errorf("it says: %s", cut(*a.Error))}
	case len(a.Results) != len(parts):
		return nil, rubbishf("the answer has %d results for %d calls", len(a.Results), len(parts))
	}
	o := &outcome{}
	for i, p := range parts {
		one, err := r.readPart(&a.Results[i], p)
		if err != nil {
			return nil, rubbishf("results[%d]: %w", i, err)
		}
		o.parts = append(o.parts, one)
	}
	return o, nil
}

func (r *runner) readPart(res *result, p part) (o outcomePart, err error) {
	if len(res.Rows) != p.to-p.from {
		return o, fmt.Errorf("it has %d rows for %d", len(res.Rows), p.to-p.from)
	}
	switch {
	case res.State == nil:
		o.keep = true
	case !r.stateful:
		if string(res.State) != "null" {
			return o, errors.New("it has a state, and the function has no key that it could belong to; name the key's fields in source.must")
		}
	case string(res.State) != "null":
		row, err := kis.ParseRow(res.State)
		if err != nil {
			return o, fmt.Errorf("state: it must be an object or null: %w", err)
		}
		var b bytes.Buffer
		if err := json.Compact(&b, res.State); err != nil {
			return o, fmt.Errorf("state: %w", err)
		}
		if b.Len() > maxState {
			return o, fmt.Errorf("state: it has %d bytes; the most is %d", b.Len(), maxState)
		}
		if row.Len() > 0 { // an empty state and none are the same
			o.state = b.String()
		}
	}
	waits := false
	for i := range res.Rows {
		one, err := r.readRow(&res.Rows[i])
		if err != nil {
			return o, fmt.Errorf("rows[%d]: %w", i, err)
		}
		again := res.Rows[i].Retry != nil
		if waits && !again {
			return o, fmt.Errorf("rows[%d]: it was handled although a row of its key before it is to be tried again", i)
		}
		waits = again
		o.rows = append(o.rows, one)
	}
	return o, nil
}

func (r *runner) readRow(res *rowResult) (o outcomeRow, err error) {
	said := 0
	for _, v := range []struct {
		reason *string
		means  func(error) error
	}{{res.Drop, kis.Drop}, {res.Error, kis.DeadLetter}, {res.Retry, kis.Retry}} {
		if v.reason != nil {
			said++
			o.refused = v.means(errors.New(cut(*v.reason)))
		}
	}
	switch {
	case said > 1 || said == 1 && (res.Pass || len(res.Emit) > 0):
		return o, errors.New("only one of pass or emit, drop, error and retry can be said of a row")
	case said == 1:
		return o, nil
	case r.verify && !res.Pass && len(res.Emit) == 0:
		return o, errors.New("a Verify answers pass, emit, drop, error or retry for every row")
	}
	o.pass = res.Pass
	for i, text := range res.Emit {
		row, err := r.rows.Parse(text)
		if err != nil {
			return o, fmt.Errorf("emit[%d] is no row: %w", i, err)
		}
		o.emit = append(o.emit, row)
	}
	return o, nil
}

// head is the beginning of a text, for a message.
func head(b []byte) string { return fmt.Sprintf("%.60q", b[:min(len(b), 60)]) }

func cut(s string) string {
	if s == "" {
		return "no reason given"
	}
	if len(s) <= maxText {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s[:maxText]), nil)) + "..."
}
