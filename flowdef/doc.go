// Package flowdef reads definitions (the YAML kinds func, flow, conn and global) and finds what is wrong with
// them, all of it at once, each mistake with its place, its source line and what would be right.
//
// A file's way: split into documents, bounded (size, depth, values behind aliases), parsed, decoded by the
// table of known keys; every document stands alone, so that a syntax mistake in one hides nothing of the
// next. Load and Parse report what one file can know, Set.Check what the definitions do to each other:
//
//	set, mistakes := flowdef.Load("flows")
//	mistakes = append(mistakes, set.Check(flowdef.CheckOptions{})...)
//	if err := mistakes.Err(); err != nil { ... } // warnings alone are no error
//
// Expressions and Go functions are not known here. Text carries its place, so that a later check can report
// a mistake inside of it as well: NewMistake(text.At(offset), ...).
//
// The table in keys.go says which keys there are and makes docs/reference/yaml.md; the table in codes.go says
// which mistakes there are and makes docs/reference/definition-errors.md.
package flowdef
