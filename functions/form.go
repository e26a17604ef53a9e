package functions

import "github.com/kisflow/kisflow/kis"

// Form tells the states of a step's function from those that another one would drop when it reads them: two functions
// in windows read each other's states if their forms are the same. Other functions, those in Go among them, have
// the form "".
func Form(f kis.Function, step kis.Step) string {
	r, err := f.Open(step)
	if err != nil {
		return ""
	}
	if w, ok := r.(*windowed); ok {
		return w.form
	}
	return ""
}
