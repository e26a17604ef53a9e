package nats

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
)

// FuzzParseReply checks that what is read out of a reply subject is what stands there.
func FuzzParseReply(f *testing.F) {
	f.Add("$JS.ACK.S.C.1.42.7.1700000000000000001.3")
	f.Add("$JS.ACK.hub.ABCD.S.C.1.42.7.1700000000000000001.3.rnd")
	f.Add("$JS.ACK.......")
	f.Fuzz(func(t *testing.T, reply string) {
		if o, ok := parseReply(reply); ok && (o.stream == 0 || o.consumer == 0) {
			t.Errorf("%q: %+v", reply, o)
		}
	})
}

// FuzzParseAck compares with encoding/json where the acknowledgement is well formed.
func FuzzParseAck(f *testing.F) {
	f.Add([]byte(`{"stream":"S", "seq":7}`))
	f.Add([]byte(`{"stream":"S","seq":7,"duplicate": true}`))
	f.Add([]byte(`{"stream":"S","seq":9,"batch":"a-1","count":3}`))
	f.Add([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"stream":"S","seq":0}`))
	f.Add([]byte(`{"seq":99999999999999999999}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		seq, err := parseAck(&nats.Msg{Data: data})
		var want struct {
			Stream string
			Seq    uint64
			Error  any
		}
		if len(data) == 0 || json.Unmarshal(data, &want) != nil {
			return
		}
		var canonical = fmt.Sprintf(`{"stream":%q, "seq":%d}`, want.Stream, want.Seq)
		if string(data) == canonical && want.Seq > 0 && (err != nil || seq != want.Seq) {
			t.Errorf("%s: %d, %v", data, seq, err)
		}
		if err == nil && seq == 0 {
			t.Errorf("%s: sequence 0 and no error", data)
		}
	})
}
