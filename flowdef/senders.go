package flowdef

import (
	"fmt"
	"strings"
)

// sender is an Expand at a step.
type sender struct {
	flow *Flow
	step *Step
	f    *Func
}

// senders checks the single writer rule for subjects: two flows send to one subject only where both say so. What
// differs between two subjects in the names of their {field} alone is one subject. Two steps of a flow may share
// one: the flow is the writer.
func (c *checker) senders() {
	first := map[string][]sender{}
	for _, flow := range c.set.Flows {
		if !flow.Enabled {
			continue
		}
		for i := range flow.Steps {
			f := c.set.Funcs[flow.Steps[i].Function.Value]
			if f == nil || f.Mode != "Expand" || f.Expand == nil || checkSubject(f.Expand.Subject.Value, false, true) != nil {
				continue
			}
			subject, now := strings.Join(subjectWords(f.Expand.Subject.Value), "."), sender{flow, &flow.Steps[i], f}
			for _, s := range first[subject] {
				if s.flow == flow || s.f.Expand.Shared && f.Expand.Shared {
					continue
				}
				c.report(true, now.step.Function.Pos, codeWriters, fmt.Sprintf("flow %s is a second sender to subject %s", quote(flow.Name), f.Expand.Subject.Value),
					fmt.Sprintf("step %s of flow %s at %s sends to it already; send elsewhere, or say expand.shared: true in both", quote(s.step.Name), quote(s.flow.Name), s.step.Function.Pos))
				break // one mistake for each Expand that is too much
			}
			first[subject] = appendSender(first[subject], now)
		}
	}
}

// appendSender keeps the senders of two flows of each sort, those that share and those that do not: who clashes with
// any clashes with one of these.
func appendSender(list []sender, now sender) []sender {
	same := 0
	for _, s := range list {
		if s.f.Expand.Shared == now.f.Expand.Shared {
			if same++; s.flow == now.flow || same == 2 {
				return list
			}
		}
	}
	return append(list, now)
}
