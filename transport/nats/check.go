package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/kisflow/kisflow/transport"
)

// Level says how much a Finding matters.
type Level string

// The levels, from good to bad. A fault means that a promise does not hold.
const (
	LevelOK      Level = "ok"
	LevelWarning Level = "warning"
	LevelFault   Level = "fault"
)

// Finding is one thing that Check looked at.
type Finding struct {
	Level Level  `json:"level"`
	About string `json:"about"` // "version", "sync", "stream ORDERS", ...
	Text  string `json:"text"`
}

// CheckOptions say what the installation is to hold.
type CheckOptions struct {
	// Power says that what is acknowledged must survive a power cut (`durability: power`).
	Power bool
	// MonitorURL is the monitoring address of an outside server, like http://host:8222; empty: not known.
	// How it syncs can only be read there.
	MonitorURL string
	// Inputs are streams that must not discard unread messages.
	Inputs []string
	// MinMessage is the least size of a message that the server must take. Default 1 MiB.
	MinMessage int
}

// Check looks at the server and its streams, and says what holds and what does not.
func (t *Streams) Check(ctx context.Context, o CheckOptions) []Finding {
	if o.MinMessage <= 0 {
		o.MinMessage = 1 << 20
	}
	var fs []Finding
	add := func(level Level, about, format string, args ...any) {
		fs = append(fs, Finding{level, about, fmt.Sprintf(format, args...)})
	}
	if v := t.c.Version(); atLeast(v, MinVersion) {
		add(LevelOK, "version", "NATS %s", v)
	} else {
		add(LevelFault, "version", "NATS %s; %s or newer is needed", v, MinVersion)
	}
	account, err := t.c.account(ctx)
	if err != nil {
		add(LevelFault, "jetstream", "%v", err)
		return fs
	}
	add(LevelOK, "jetstream", "enabled, %d bytes stored", account.Storage)
	if most := t.MaxMessage(); most < o.MinMessage {
		add(LevelFault, "payload", "messages of at most %d bytes; set max_payload to %d or more", most, o.MinMessage+ownHeaders)
	} else {
		add(LevelOK, "payload", "messages of up to %d bytes", most)
	}
	if s := t.c.server; s != nil && s.Member() {
		free, err := freeBytes(s.opt.Dir)
		switch {
		case err != nil:
			add(LevelWarning, "disk", "%v", err)
		case free < s.opt.MinFree:
			add(LevelFault, "disk", "%d bytes are free in %s; nothing is written below %d", free, s.opt.Dir, s.opt.MinFree)
		default:
			add(LevelOK, "disk", "%d bytes are free in %s", free, s.opt.Dir)
		}
	}
	fs = append(fs, t.checkSync(ctx, o))
	return append(fs, t.checkStreams(ctx, o)...)
}

func (t *Streams) checkSync(ctx context.Context, o CheckOptions) Finding {
	var always bool
	var every time.Duration
	switch {
	case t.c.server != nil && t.c.server.Member():
		always, every = t.c.server.opt.SyncAlways, 2*time.Minute
	case o.MonitorURL == "":
		level := LevelOK
		if o.Power {
			level = LevelWarning
		}
		return Finding{level, "sync", "how the server syncs could not be verified; give its monitoring address"}
	default:
		var err error
		if always, every, err = readSync(ctx, o.MonitorURL); err != nil {
			return Finding{LevelWarning, "sync", "how the server syncs could not be verified: " + err.Error()}
		}
	}
	switch {
	case always:
		return Finding{LevelOK, "sync", "every acknowledged message is synced to the disk"}
	case o.Power:
		return Finding{LevelFault, "sync", fmt.Sprintf("the server syncs every %s: a power cut loses acknowledged messages; set jetstream sync_interval to always", every)}
	}
	return Finding{LevelOK, "sync", fmt.Sprintf("the server syncs every %s: safe against kill -9, not against a power cut", every)}
}

// readSync asks the server's monitoring.
func readSync(ctx context.Context, base string) (always bool, every time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/varz", nil)
	if err != nil {
		return false, 0, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return false, 0, fmt.Errorf("%s answered %s", request.URL, answer.Status)
	}
	var varz struct {
		JetStream struct {
			Config *struct {
				SyncInterval time.Duration `json:"sync_interval"`
				SyncAlways   bool          `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 4<<20)).Decode(&varz); err != nil {
		return false, 0, fmt.Errorf("%s: %w", request.URL, err)
	}
	if varz.JetStream.Config == nil {
		return false, 0, fmt.Errorf("%s tells of no JetStream", request.URL)
	}
	return varz.JetStream.Config.SyncAlways, varz.JetStream.Config.SyncInterval, nil
}

// checkStreams looks at each stream's own settings.
func (t *Streams) checkStreams(ctx context.Context, o CheckOptions) []Finding {
	var fs []Finding
	names, err := t.names(ctx, "")
	if err != nil {
		return []Finding{{LevelWarning, "streams", err.Error()}}
	}
	input := make(map[string]bool)
	for _, name := range o.Inputs {
		input[name] = true
	}
	for _, name := range names {
		info, err := t.info(ctx, name)
		if err != nil {
			fs = append(fs, Finding{LevelWarning, "stream " + name, err.Error()})
			continue
		}
		delete(input, name)
		about := "stream " + name
		bad := len(fs)
		if info.Config.PersistMode == "async" {
			fs = append(fs, Finding{LevelFault, about, "persist_mode async: the server acknowledges before it writes"})
		}
		for _, wanted := range o.Inputs {
			if why := info.Config.lossy(); wanted == name && why != "" {
				fs = append(fs, Finding{LevelFault, about, "may discard unread messages: " + why})
			}
		}
		if len(fs) == bad {
			fs = append(fs, Finding{LevelOK, about, fmt.Sprintf("%d messages, %d bytes, replicas %d", info.State.Messages, info.State.Bytes, info.Config.Replicas)})
		}
	}
	for _, name := range o.Inputs {
		if input[name] {
			fs = append(fs, Finding{LevelFault, "stream " + name, transport.ErrNotFound.Error()})
		}
	}
	return fs
}
