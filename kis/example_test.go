package kis_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/kisflow/kisflow/kis"
)

type Order struct {
	Cents int64 `json:"cents"`
}

type Spend struct {
	Cents int64 `json:"cents"`
}

type Reward struct {
	Points int64 `json:"points"`
}

// A handler with a state per key: ten points for every hundred.
func ExampleKeyed() {
	reward := kis.Keyed("reward", func(_ context.Context, spend *Spend, order kis.Event[Order], out *kis.Output[Reward]) error {
		if order.Value.Cents < 0 {
			return kis.DeadLetter(fmt.Errorf("order of %d cents", order.Value.Cents))
		}
		if spend.Cents += order.Value.Cents; spend.Cents >= 100_00 {
			out.Emit(order.Key, Reward{Points: 10})
			*spend = Spend{} // the zero value and no state are the same thing
		}
		return nil
	}, kis.KeepsKey())

	// What the engine does with it.
	runner, err := reward.Open(kis.Step{Flow: "shop", Name: "reward", Function: "reward", Must: []string{"user"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	state, err := runner.Activate(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, text := range []string{`{"user":"ada","cents":6000}`, `{"user":"ada","cents":-1}`, `{"user":"ada","cents":"7"}`, `{"user":"ada","cents":5000}`} {
		row, err := kis.ParseRow([]byte(text))
		if err != nil {
			fmt.Println(err)
			return
		}
		key, err := kis.KeyOf(row, []string{"user"})
		if err != nil {
			fmt.Println(err)
			return
		}
		call := kis.Call{Context: context.Background(), Key: key, Rows: []*kis.Row{row}, Metas: []*kis.Meta{{}}, State: state}
		if err := runner.Handle(&call); err != nil {
			fmt.Println("dead letter:", err)
		}
		for _, e := range call.Emitted {
			fmt.Println("emitted", e.Row)
		}
		encoded, err := runner.Encode(nil, state)
		fmt.Printf("state %s %v\n", encoded, err)
	}
	// Output:
	// state {"cents":6000} <nil>
	// dead letter: order of -1 cents
	// state {"cents":6000} <nil>
	// dead letter: decode: field "cents": expected an integer, found a string, "7"
	// state {"cents":6000} <nil>
	// emitted {"user":"ada","points":10}
	// state  <nil>
}

// A message may hold one object, over as many lines as it likes, or many. A malformed one hurts only itself.
func ExampleParser_Split() {
	var p kis.Parser
	p.Split([]byte("{\"user\":\n 1}\n{\"user\":2\n{\"user\":3} {\"user\":3.0}\n"), func(index uint32, row *kis.Row, bad []byte, err error) {
		var syntax *kis.SyntaxError
		if errors.As(err, &syntax) {
			fmt.Printf("%d: %s is malformed at %d: %s\n", index, bad, syntax.Offset, syntax.Problem)
			return
		}
		key, err := kis.KeyOf(row, []string{"user"})
		fmt.Println(index, key, err)
	})
	// Output:
	// 0 user=1 <nil>
	// 1: {"user":2 is malformed at 23: expected ',' or '}' after the field's value, found '{'
	// 2 user=3 <nil>
	// 3 user=3 <nil>
}
