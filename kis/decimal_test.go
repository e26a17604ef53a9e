package kis

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestDecimalValue compares decimals with what reading their text gives.
func TestDecimalValue(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	numbers := []int64{0, 1, -1, 9, 10, -10, 999, 1000, 1 << 53, 1<<53 - 1, 1<<53 + 1, -(1 << 53), math.MaxInt64, math.MinInt64}
	for range 2000 {
		numbers = append(numbers, int64(rng.Uint64())>>rng.IntN(64))
	}
	for _, n := range numbers {
		for digits := range 19 {
			got, err := DecimalValue(n, digits)
			if err != nil {
				t.Fatal(err)
			}
			text := string(got.AppendJSON(nil))
			read, err := JSONValue(text)
			if err != nil || read.Kind() != got.Kind() || read.Float() != got.Float() || math.Signbit(read.Float()) != math.Signbit(got.Float()) {
				t.Fatalf("%d with %d digits is %s: %v and %v, read %v and %v, %v", n, digits, text, got.Kind(), got.Float(), read.Kind(), read.Float(), err)
			}
			if digits > 0 && len(text)-strings.IndexByte(text, '.')-1 != digits {
				t.Fatalf("%d with %d digits is %s", n, digits, text)
			}
		}
	}
	for _, digits := range []int{-1, 19} {
		if _, err := DecimalValue(1, digits); err == nil {
			t.Errorf("%d digits are no error", digits)
		}
	}
}
