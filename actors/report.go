package actors

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
)

// Report is how a flow is on one node, or, merged, on all, in a form that one node can send to another.
type Report struct {
	Node       string // whose it is; "" for a merged one
	Partitions []PartitionStatus
	Copies     []CopyStatus
	Inputs     []InputStatus
	Watermarks []WatermarkStatus
	Steps      []StepCounts
	Rows       uint64 // that came in from outside the flow
	Waiting    int    // rows that wait for the partitions
	Ready      int    // partitions that do not recover
}

// StepCounts is what a step has done since its node started.
type StepCounts struct {
	Step                string
	Rows, Refused, Sent uint64
}

// Report tells how the flow is on this node.
func (r *Running) Report(ctx context.Context) (rep Report, err error) {
	rep.Rows, _ = r.Counts()
	rep.Waiting, rep.Copies = r.Waiting(), r.Copies()
	rep.Ready, _, _, _ = r.Progress()
	for _, s := range r.system.meter.Steps() {
		if s.Flow == r.name {
			rep.Steps = append(rep.Steps, StepCounts{s.Step, s.Rows.Load(), s.Refused.Load(), s.Sent.Load()})
		}
	}
	slices.SortFunc(rep.Steps, func(a, b StepCounts) int { return strings.Compare(a.Step, b.Step) })
	if rep.Partitions, err = r.Partitions(ctx); err != nil {
		return rep, err
	}
	if rep.Inputs, err = r.Inputs(ctx); err != nil {
		return rep, err
	}
	rep.Watermarks, err = r.Watermarks(ctx)
	return rep, err
}

// Merge makes one report of those of several nodes. A partition that nobody tells of is moving.
func (r *Running) Merge(all []Report) Report {
	var m Report
	steps := make(map[string]*StepCounts)
	type inputKey struct {
		kind   InputKind
		stream string
		filter string
	}
	inputs := make(map[inputKey]int)
	parts := make(map[string]bool)
	for i := range all {
		one := &all[i]
		m.Rows += one.Rows
		m.Waiting += one.Waiting
		m.Ready += one.Ready
		m.Watermarks = append(m.Watermarks, one.Watermarks...)
		for _, p := range one.Partitions {
			p.Node = one.Node
			if parts[p.Name] && p.State == cellFailed.String() {
				continue // its former owner, who has not heard yet
			}
			parts[p.Name] = true
			m.Partitions = append(m.Partitions, p)
		}
		for _, c := range one.Copies {
			c.Node = one.Node
			m.Copies = append(m.Copies, c)
		}
		for _, s := range one.Steps {
			if steps[s.Step] == nil {
				steps[s.Step] = &StepCounts{Step: s.Step}
			}
			t := steps[s.Step]
			t.Rows, t.Refused, t.Sent = t.Rows+s.Rows, t.Refused+s.Refused, t.Sent+s.Sent
		}
		for _, in := range one.Inputs {
			k := inputKey{in.Kind, in.Stream, strings.Join(in.Filter, " ")}
			at, known := inputs[k]
			if !known {
				inputs[k] = len(m.Inputs)
				m.Inputs = append(m.Inputs, in)
				continue
			}
			t := &m.Inputs[at]
			t.Dealt, t.Last, t.Lag = min(t.Dealt, in.Dealt), max(t.Last, in.Last), max(t.Lag, in.Lag)
			if t.Reason == nil {
				t.Reason = in.Reason
			}
		}
	}
	for _, s := range steps {
		m.Steps = append(m.Steps, *s)
	}
	slices.SortFunc(m.Steps, func(a, b StepCounts) int { return strings.Compare(a.Step, b.Step) })
	for _, at := range r.places() {
		if !parts[at.String()] {
			m.Partitions = append(m.Partitions, PartitionStatus{Name: at.String(), Stage: at.Stage, Number: at.Number, State: "moving"})
		}
	}
	order := make(map[string]int)
	for i, must := range r.Definition().Stages() {
		order[stageName(must)] = i - len(r.Definition().Stages()) // before stages that the flow has no more
	}
	slices.SortStableFunc(m.Partitions, func(a, b PartitionStatus) int {
		return cmp.Or(cmp.Compare(order[a.Stage], order[b.Stage]), strings.Compare(a.Stage, b.Stage), cmp.Compare(a.Number, b.Number))
	})
	slices.SortStableFunc(m.Inputs, func(a, b InputStatus) int { return cmp.Compare(a.index, b.index) })
	return m
}

// said is an error as it is sent.
type said struct{ Code, Text string }

func tell(err error) *said {
	if err == nil {
		return nil
	}
	return &said{ErrorCode(err), err.Error()}
}

func (s *said) error() error {
	if s == nil {
		return nil
	}
	return RemoteError(s.Code, s.Text)
}

type plainInput InputStatus

type sentInput struct {
	plainInput
	Reason *said
	Index  int
}

// MarshalJSON implements json.Marshaler.
func (s InputStatus) MarshalJSON() ([]byte, error) {
	return json.Marshal(sentInput{plainInput(s), tell(s.Reason), s.index})
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *InputStatus) UnmarshalJSON(b []byte) error {
	var in sentInput
	err := json.Unmarshal(b, &in)
	*s = InputStatus(in.plainInput)
	s.Reason, s.index = in.Reason.error(), in.Index
	return err
}

type plainPartition PartitionStatus

type sentPartition struct {
	plainPartition
	Reason *said
}

// MarshalJSON implements json.Marshaler.
func (s PartitionStatus) MarshalJSON() ([]byte, error) {
	return json.Marshal(sentPartition{plainPartition(s), tell(s.Reason)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *PartitionStatus) UnmarshalJSON(b []byte) error {
	var in sentPartition
	err := json.Unmarshal(b, &in)
	*s = PartitionStatus(in.plainPartition)
	s.Reason = in.Reason.error()
	return err
}
