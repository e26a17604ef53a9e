package api

import "github.com/kisflow/kisflow/flowdef"

// FromMistakes makes the mistakes of definitions fit to travel.
func FromMistakes(in flowdef.Mistakes) []Mistake {
	out := make([]Mistake, 0, len(in))
	for _, m := range in {
		out = append(out, Mistake{
			File: m.File, Line: m.Pos.Line, Column: m.Column, Severity: m.Severity.String(),
			Code: m.Code, Message: m.Message, Hint: m.Hint, Source: m.Line,
		})
	}
	return out
}

// String returns the mistake for a person, as flowdef shows it: its line, the source line, the hint.
func (m Mistake) String() string {
	d := flowdef.Mistake{
		Pos: flowdef.Pos{File: m.File, Line: m.Line, Column: m.Column}, Code: m.Code, Message: m.Message, Hint: m.Hint, Line: m.Source,
	}
	if m.Severity == SeverityWarning {
		d.Severity = flowdef.Warning
	}
	return d.String()
}
