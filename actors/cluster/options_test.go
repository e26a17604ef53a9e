package cluster

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	good := Options{Name: "shop", Node: "node-1_A", Listen: "127.0.0.1:0", Standbys: -1}
	if err := good.Validate(); err != nil {
		t.Errorf("good options: %v", err)
	}
	if o := good.withDefaults(); o.Weight != 1 || o.Lease != 2*time.Second || o.Groups != 256 || o.Standbys != 1 || o.Moves != 16 {
		t.Errorf("defaults %+v", o)
	}
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Name = "" }, `cluster name "": a name is needed`},
		{func(o *Options) { o.Node = "a.b" }, `node name "a.b": it has '.'; it may have letters, digits, - and _`},
		{func(o *Options) { o.Node = strings.Repeat("a", 65) }, "it has 65 letters, at most 64"},
		{func(o *Options) { o.Node = "节点" }, "it may have letters, digits, - and _"},
		{func(o *Options) { o.Weight = -1 }, "weight is -1; it must be 1 to 1000"},
		{func(o *Options) { o.Lease = time.Millisecond }, "lease is 1ms; it must be 100ms to 10m0s"},
		{func(o *Options) { o.Groups = 5000 }, "groups is 5000; it must be 1 to 1024"},
		{func(o *Options) { o.Standbys = 3 }, "standbys is 3; it must be 0 to 2"},
		{func(o *Options) { o.Moves = -2 }, "moves is -2; it must be 1 to 1024"},
		{func(o *Options) { o.Listen = "" }, `listen "": it must be HOST:PORT`},
		{func(o *Options) { o.Listen = "127.0.0.1:99999" }, `port "99999" must be 0 to 65535`},
		{func(o *Options) { o.Listen = "10.1.2.3:7100" }, "nodes call one another at 10.1.2.3:7100 without TLS"},
		{func(o *Options) { o.Advertise = "10.1.2.3:7100" }, "nodes call one another at 10.1.2.3:7100 without TLS"},
		{func(o *Options) { o.Listen, o.TLS = "0.0.0.0:7100", &tls.Config{} }, "advertise must say at which of them other nodes reach it"},
		{func(o *Options) { o.Listen, o.TLS = ":7100", &tls.Config{} }, "advertise must say"},
		{func(o *Options) { o.Listen, o.Advertise, o.TLS = "0.0.0.0:1", "[::]:1", &tls.Config{} }, `advertise "[::]:1": it must name a host`},
		{func(o *Options) { o.Advertise = "host" }, `advertise "host": it must be HOST:PORT`},
		{func(o *Options) { o.Listen, o.Advertise, o.TLS = "0.0.0.0:7100", "node-a:7100", &tls.Config{} }, ""},
		{func(o *Options) { o.Listen = "localhost:7100" }, ""},
		{func(o *Options) { o.Listen = "[::1]:7100" }, ""},
	} {
		o := good
		c.change(&o)
		err := o.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
