package kis

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// ConnectorType is a kind of place outside, which definitions of kistype: conn name as their type. What a connector
// of the type can do is what it implements beside Connector: a Lookup finds objects by their keys.
type ConnectorType interface {
	// Name is the type's name, in lower case.
	Name() string
	// Schema says what a definition of the type may hold; it is the same at every call.
	Schema() ConnectorSchema
	// Open makes the connector of a definition. What can be known to be wrong of the definition alone is its error;
	// whether the place answers shows when it is used, and by Check.
	Open(ConnectorSpec) (Connector, error)
}

// Connector is a place outside that was opened. Its methods may be called by several goroutines at a time. Their
// errors need not name the connector.
type Connector interface {
	// Check tries whether the place is there and lets us in; its error says in one line what is wrong.
	Check(ctx context.Context) error
	// Close lets go of the place. It is called once, when nothing else is being called.
	Close() error
}

// Lookup is a Connector that finds objects by their keys.
type Lookup interface {
	Connector
	// Most is the most keys of one Find, at least 1.
	Most() int
	// Find looks up keys, no two of which are equal, and sets found, which has their length, index by index. What
	// it leaves alone was not found. It ends when ctx does. Its error says that the place as a whole does not
	// answer: all keys are asked for again later, without end. What is wrong with one key goes into its Found.
	Find(ctx context.Context, keys []string, found []Found) error
}

// Found is what was found of a key.
type Found struct {
	Row *Row // the object; nil: there is none. It must not be changed any more.
	// Err is the fault of this key alone, of which the verdict says what becomes of its rows: Retry has them tried
	// again as the step says (retry_times), any other error makes them dead letters.
	Err error
}

// ConnectorSpec is a definition of kistype: conn whose settings fit the type's schema.
type ConnectorSpec struct {
	Name     string
	Addrs    []string // in order, without blanks
	Key      string
	Settings Settings // of params; those that are not given have their defaults
}

// ConnectorSchema says what a definition of a type may hold.
type ConnectorSchema struct {
	Doc   string    // what the type connects to, in one sentence
	Addrs Setting   // what addrs are; without a Doc there are none
	Key   Setting   // what key is; without a Doc it has no meaning
	Does  []string  // what it can do, for the reference
	Has   []Setting // of params, in the order of the reference
}

// UseLookup is the use of a connector by a look-up.
const UseLookup = "look-up"

// SettingKind is what the text of a setting must be.
type SettingKind string

// The kinds of settings.
const (
	SettingText     SettingKind = "text"
	SettingNumber   SettingKind = "number"   // a whole number of at least 0
	SettingDuration SettingKind = "duration" // as time.ParseDuration reads it, and d for days
	SettingBool     SettingKind = "true or false"
)

// Setting describes one setting.
type Setting struct {
	Name     string
	Kind     SettingKind // "": SettingText
	Words    []string    // of a text: the only ones that it may be; nil: any
	Default  string      // "": none
	Required bool
	// Needed names the use that cannot do without the setting: UseLookup; "": none.
	Needed string
	// Secret settings are given by indirection only, ${ENV:NAME} or ${file:PATH}, and never shown.
	Secret bool
	Doc    string
}

// Settings are the values of a definition's settings, which fit their schema.
type Settings map[string]string

// Text returns a setting, "" where it is not given and has no default.
func (s Settings) Text(name string) string { return s[name] }

// Bool returns a setting of kind SettingBool.
func (s Settings) Bool(name string) bool { return s[name] == "true" }

// Int returns a setting of kind SettingNumber, 0 where it is not given and has no default.
func (s Settings) Int(name string) int {
	n, _ := strconv.Atoi(s[name]) // it fits the schema
	return n
}

// Duration returns a setting of kind SettingDuration, 0 where it is not given and has no default.
func (s Settings) Duration(name string) time.Duration {
	d, _ := ParseSettingDuration(s[name]) // it fits the schema
	return d
}

// ParseSettingDuration reads the text of a SettingDuration: "500ms", "1h30m", "7d".
func ParseSettingDuration(text string) (time.Duration, error) {
	if days, ok := cutDays(text); ok {
		return time.Duration(days) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration; write it like 500ms, 30s or 12h", text)
	}
	return d, nil
}

// cutDays reads a whole number of days, at most a hundred years.
func cutDays(text string) (days int, ok bool) {
	if len(text) < 2 || text[len(text)-1] != 'd' {
		return 0, false
	}
	days, err := strconv.Atoi(text[:len(text)-1])
	return days, err == nil && days >= 0 && days <= 36500
}

// NewLookup makes a type of connectors that look up with a Go function. Definitions of kistype: conn name it as
// their type, and functions with load: {as: lookup} use it. find is given at most 500 different keys at a time
// and returns their objects index by index, nil for one that is not there; its error asks for all of them to be
// looked up again later. It may be called by several goroutines at a time.
func NewLookup(name string, find func(ctx context.Context, keys []string) ([]*Row, error)) ConnectorType {
	return goLookup{name, find}
}

// mostGoKeys is how many keys NewLookup's function is given at a time.
const mostGoKeys = 500

// goLookup is a look-up in Go: its type and its connector.
type goLookup struct {
	name string
	find func(ctx context.Context, keys []string) ([]*Row, error)
}

func (l goLookup) Name() string { return l.name }

func (l goLookup) Schema() ConnectorSchema {
	return ConnectorSchema{Doc: "A look-up in Go.", Does: []string{"look-up"}}
}

func (l goLookup) Open(ConnectorSpec) (Connector, error) { return l, nil }
func (l goLookup) Check(context.Context) error           { return nil }
func (l goLookup) Close() error                          { return nil }
func (l goLookup) Most() int                             { return mostGoKeys }

func (l goLookup) Find(ctx context.Context, keys []string, found []Found) error {
	rows, err := l.find(ctx, keys)
	if err != nil {
		return err
	}
	if len(rows) != len(keys) {
		for i := range found { // asking again helps nothing
			found[i].Err = fmt.Errorf("look-up %s returned %d rows for %d keys", l.name, len(rows), len(keys))
		}
		return nil
	}
	for i, row := range rows {
		found[i].Row = row
	}
	return nil
}
