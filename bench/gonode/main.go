// Gonode is kisnode with the functions of bench/flows/order-totals-go in Go: what VerifyOrder and UserTotals
// are in YAML there, as their author would write them here.
package main

import (
	"context"
	"fmt"
	"math"

	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/node"
)

// order is what the functions need of an event.
type order struct {
	User   int64 `json:"userid"`
	Amount int64 `json:"amount"`
}

// totals is the state of a user.
type totals struct {
	Count int64 `json:"count"`
	Total int64 `json:"total"`
	Max   int64 `json:"max"`
}

// userTotals is what goes on.
type userTotals struct {
	User  int64 `json:"userid"`
	Count int64 `json:"count"`
	Total int64 `json:"total"`
	Max   int64 `json:"max"`
}

func verifyOrder(_ context.Context, e kis.Event[*kis.Row], out *kis.Output[*kis.Row]) error {
	amount, ok := e.Row.Get("amount")
	if !ok || amount.Kind() != kis.Int || amount.Int() <= 0 {
		return kis.DeadLetter(fmt.Errorf("amount must be above zero"))
	}
	out.Reuse()
	return nil
}

func addOrder(_ context.Context, t *totals, e kis.Event[order], out *kis.Output[userTotals]) error {
	o := e.Value
	if t.Total > math.MaxInt64-o.Amount {
		return kis.DeadLetter(fmt.Errorf("the total of user %d overflows", o.User))
	}
	t.Count++
	t.Total += o.Amount
	t.Max = max(t.Max, o.Amount)
	out.Emit(e.Key, userTotals{o.User, t.Count, t.Total, t.Max})
	return nil
}

func main() {
	node.Main(
		kis.Stateless("VerifyOrder", verifyOrder, kis.KeepsKey()),
		kis.Keyed("UserTotals", addOrder, kis.KeepsKey()),
	)
}
