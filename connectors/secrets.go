package connectors

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/kisflow/kisflow/kis"
)

// hidden stands in messages where a secret stood.
const hidden = "redacted"

// maxSecret is the most bytes of a file that holds a secret.
const maxSecret = 64 << 10

// reference is one ${ENV:NAME} or ${file:PATH} in a text.
type reference struct {
	from, to int // its place
	kind     string
	name     string
}

// references finds the references in a text. Other texts in ${} are mistakes.
func references(text string) ([]reference, error) {
	var refs []reference
	for at := 0; ; {
		i := strings.Index(text[at:], "${")
		if i < 0 {
			return refs, nil
		}
		from := at + i
		j := strings.IndexByte(text[from:], '}')
		if j < 0 {
			return nil, errors.New("a ${ is not closed")
		}
		to := from + j + 1
		kind, name, ok := strings.Cut(text[from+2:to-1], ":")
		if !ok || kind != "ENV" && kind != "file" || name == "" {
			return nil, fmt.Errorf("%s is neither ${ENV:NAME} nor ${file:PATH}", text[from:to])
		}
		refs = append(refs, reference{from, to, kind, name})
		at = to
	}
}

// withoutReferences puts a word in the place of each reference.
func withoutReferences(text string) string {
	refs, _ := references(text) // what is malformed stays as it is
	for _, r := range slices.Backward(refs) {
		text = text[:r.from] + hidden + text[r.to:]
	}
	return text
}

// secrets are the values that were read for a definition.
type secrets []string

// resolve puts what a text refers to in its place.
func (s *secrets) resolve(text string) (string, error) {
	refs, err := references(text)
	if err != nil {
		return "", err
	}
	for _, r := range slices.Backward(refs) {
		value := ""
		switch r.kind {
		case "ENV":
			v, there := os.LookupEnv(r.name)
			if !there {
				return "", fmt.Errorf("the environment has no variable %s", r.name)
			}
			value = v
		case "file":
			b, err := readSecret(r.name)
			if err != nil {
				return "", err
			}
			value = b
		}
		if value == "" {
			return "", fmt.Errorf("%s is empty", text[r.from:r.to])
		}
		*s = append(*s, value)
		text = text[:r.from] + value + text[r.to:]
	}
	return text, nil
}

// Secret reads a setting that may only stand elsewhere: ${ENV:NAME} or ${file:PATH}. "" is "".
func Secret(text string) (string, error) {
	refs, err := references(text)
	if err == nil && text != "" && len(refs) == 0 {
		err = errors.New("a secret stands in the open; write ${ENV:NAME} or ${file:PATH}")
	}
	if err != nil {
		return "", err
	}
	return new(secrets).resolve(text)
}

func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("%s has more than %d KiB", path, maxSecret>>10)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// redact takes the secrets out of an error; what the error asks for stays.
func (s secrets) redact(err error) error {
	if err == nil || len(s) == 0 {
		return err
	}
	text := err.Error()
	clean := text
	for _, secret := range s {
		clean = strings.ReplaceAll(clean, secret, hidden)
	}
	if clean == text {
		return err
	}
	out := errors.New(clean)
	switch kis.VerdictOf(err) {
	case kis.VerdictRetry:
		return kis.Retry(out)
	case kis.VerdictDrop:
		return kis.Drop(out)
	case kis.VerdictStop:
		return kis.Stop(out)
	}
	return out
}

// specOf makes a definition what its type is opened with.
func specOf(d Definition, schema kis.ConnectorSchema) (spec kis.ConnectorSpec, known secrets, err error) {
	spec = kis.ConnectorSpec{Name: d.Name, Settings: make(kis.Settings)}
	addrs, err := known.resolve(d.Addrs)
	if err != nil {
		return spec, known, fmt.Errorf("addrs: %w", err)
	}
	spec.Addrs = splitAddrs(addrs)
	if spec.Key, err = known.resolve(d.Key); err != nil {
		return spec, known, fmt.Errorf("key: %w", err)
	}
	for _, s := range schema.Has {
		text := d.Params[s.Name]
		if text == "" {
			text = s.Default
		}
		if text == "" {
			continue
		}
		if spec.Settings[s.Name], err = known.resolve(text); err != nil {
			return spec, known, fmt.Errorf("params.%s: %w", s.Name, err)
		}
		if err := fits(s, spec.Settings[s.Name]); err != nil {
			return spec, known, known.redact(fmt.Errorf("params.%s %w", s.Name, err))
		}
	}
	return spec, known, nil
}
