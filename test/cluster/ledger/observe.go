package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Stored is a message of a stream.
type Stored struct {
	Sequence uint64
	ID       string // Nats-Msg-Id
	At       time.Time
	Data     []byte
}

// State is a key's state as the API shows it.
type State struct {
	Key  int64
	Text []byte
}

// Observation is all that there is to see.
type Observation struct {
	Lines, Transfers []Stored            // the entries
	Keys             []Stored            // outputs
	Shops            []Stored            //
	Bank             []Stored            //
	States           map[string][]State  // by "flow/step"
	DeadLetters      map[string][]string // the bytes, by flow
}

// Steps with states, and the field of their key.
var steps = map[string]string{"Ledger/count": "key", "Shops/shop": "shop", "Bank/debit": "from", "Bank/credit": "to"}

// API asks a node for JSON.
type API func(ctx context.Context, path string, answer any) error

// Observe reads everything. The API may be any node's.
func Observe(ctx context.Context, js jetstream.JetStream, get API) (*Observation, error) {
	o := &Observation{States: make(map[string][]State), DeadLetters: make(map[string][]string)}
	for subject, into := range map[string]*[]Stored{lineSubject + ">": &o.Lines, transferSubject + ">": &o.Transfers,
		KeyOutputs: &o.Keys, ShopOutputs: &o.Shops, BankOutputs: &o.Bank} {
		var err error
		if *into, err = read(ctx, js, subject); err != nil {
			return nil, fmt.Errorf("read %s: %w", subject, err)
		}
	}
	for step, field := range steps {
		if err := o.states(ctx, get, step, field); err != nil {
			return nil, fmt.Errorf("states of %s: %w", step, err)
		}
	}
	for _, flow := range []string{"Ledger", "Shops", "Bank"} {
		if err := o.deadLetters(ctx, get, flow); err != nil {
			return nil, fmt.Errorf("dead letters of %s: %w", flow, err)
		}
	}
	return o, nil
}

// read reads what a stream holds on a subject, up to the newest message that it has now.
func read(ctx context.Context, js jetstream.JetStream, subject string) ([]Stored, error) {
	name, err := js.StreamNameBySubject(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("find the stream: %w", err)
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	left := uint64(0) // messages
	for _, n := range info.State.Subjects {
		left += n
	}
	if left == 0 {
		return nil, nil
	}
	c, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		return nil, fmt.Errorf("consumer of stream %s: %w", name, err)
	}
	messages, err := c.Messages() // one consumer for all: fetching makes one each time
	if err != nil {
		return nil, fmt.Errorf("consumer of stream %s: %w", name, err)
	}
	defer messages.Stop()
	var all []Stored
	for uint64(len(all)) < left {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("read stream %s behind %d of %d messages: %w", name, len(all), left, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		all = append(all, Stored{meta.Sequence.Stream, m.Headers().Get(jetstream.MsgIDHeader), meta.Timestamp, m.Data()})
	}
	return all, nil
}

func (o *Observation) states(ctx context.Context, get API, step, field string) error {
	flow, name, _ := cut(step)
	for after := ""; ; {
		var page struct {
			Items []struct {
				Key   map[string]int64
				State json.RawMessage
			}
			Next string
		}
		path := fmt.Sprintf("/api/v1/flows/%s/steps/%s/states?limit=500&after=%s", flow, name, url.QueryEscape(after))
		if err := get(ctx, path, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			o.States[step] = append(o.States[step], State{item.Key[field], item.State})
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

func (o *Observation) deadLetters(ctx context.Context, get API, flow string) error {
	for after := ""; ; {
		var page struct {
			Items []struct{ ID, Reason, Step string }
			Next  string
		}
		path := fmt.Sprintf("/api/v1/flows/%s/deadletters?limit=500&after=%s", flow, url.QueryEscape(after))
		if err := get(ctx, path, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			var full struct{ Data json.RawMessage }
			if err := get(ctx, fmt.Sprintf("/api/v1/flows/%s/deadletters/%s", flow, item.ID), &full); err != nil {
				return err
			}
			var text string
			if json.Unmarshal(full.Data, &text) != nil {
				text = string(full.Data) // bytes that are no text: certainly not ours
			}
			o.DeadLetters[flow] = append(o.DeadLetters[flow], text)
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}
