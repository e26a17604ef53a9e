package kis

import "testing"

const order = `{"userid":4711,"orderid":"o-000123456","amount":1299,"currency":"EUR","time":"2024-05-06T07:08:09Z","note":"thank you all"}`

func BenchmarkParse(b *testing.B) {
	var p Parser
	text := []byte(order)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func TestParseRow(t *testing.T) {
	r, err := ParseRow([]byte(order))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := r.Get("userid"); !ok || v.Int() != 4711 {
		t.Errorf("userid is %v, want 4711", v.Text())
	}
	k, err := KeyOf(r, []string{"userid", "currency"})
	if err != nil || k.String() != "userid=4711 currency=EUR" {
		t.Errorf("key %v, %v", k, err)
	}
}
