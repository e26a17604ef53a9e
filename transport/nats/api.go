package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kisflow/kisflow/transport"
	"github.com/nats-io/nats.go"
)

// Error codes of JetStream that mean something here.
const (
	codeWrongLastSequence  = 10071 // the fence
	codeWrongLastConstant  = 10164 // too many fenced messages on their way
	codeTooManyBatches     = 10210
	codeBatchIncomplete    = 10176
	codeBatchTooLarge      = 10199
	codeBatchDuplicate     = 10201
	codeBatchDisabled      = 10174
	codeStoreFailed        = 10077 // limits with discard new, or the disk
	codeMessageTooLarge    = 10054
	codeHeaderTooLarge     = 10097
	codeInsufficient       = 10023
	codeStorageExceeded    = 10047
	codeAccountExceeded    = 10002
	codeNoMessage          = 10037
	codeStreamNotFound     = 10059
	codeConsumerNotFound   = 10014
	codeStreamNameInUse    = 10058
	codeStreamCreate       = 10049 // also where the files of one just deleted are still being removed
	codeNotLeader          = 10009
	codeJetStreamNotEnable = 10076
	codeNotForAccount      = 10039
	codeClusterRequired    = 10010
	codeNotInCluster       = 10036
	codeNoPeers            = 10005 // too few servers are there just now, or at all
	codeStreamOffline      = 10118
	codeConsumerOffline    = 10119
	codeTooManyRequests    = 10167
)

// apiError is an answer of JetStream that says no.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// Unwrap says what the answer is in the port's words.
func (e *apiError) Unwrap() error {
	switch e.ErrCode {
	case codeWrongLastSequence:
		return transport.ErrFenced
	case codeStoreFailed, codeInsufficient, codeStorageExceeded, codeAccountExceeded:
		return transport.ErrFull
	case codeMessageTooLarge, codeHeaderTooLarge, codeBatchTooLarge:
		return transport.ErrTooLarge
	case codeNoMessage, codeStreamNotFound, codeConsumerNotFound:
		return transport.ErrNotFound
	}
	return nil
}

// passing tells whether the same request may be answered otherwise soon, and that it has had no effect.
func (e *apiError) passing() bool {
	switch e.ErrCode {
	case codeWrongLastConstant, codeTooManyBatches, codeBatchIncomplete, codeNotLeader, codeNoPeers, codeStreamOffline, codeConsumerOffline, codeTooManyRequests:
		return true
	case codeInsufficient, codeStoreFailed, codeJetStreamNotEnable, codeNotForAccount, codeClusterRequired, codeNotInCluster:
		return false
	}
	return e.Code == 503
}

// Budgets of one API call. A leader change takes up to 9 s, or 2.4 s with ElectionsFast; a leader that goes just then leaves a
// request without an answer, so that the first attempts are short.
const (
	apiAttempt = 5 * time.Second
	apiBudget  = 20 * time.Second
)

var apiAttempts = []time.Duration{time.Second / 2, time.Second, time.Second, time.Second, time.Second, 2 * time.Second, apiAttempt}

// api asks JetStream and decodes its answer. It tries again, within ctx and apiBudget, while no one answers:
// requests that come here may be made twice.
func (c *Conn) api(ctx context.Context, subject string, request, answer any) error {
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, apiBudget)
	defer cancel()
	var last error
	for attempt := 1; ; attempt++ {
		err := c.ask(ctx, subject, body, answer, apiAttempts[min(attempt, len(apiAttempts))-1])
		var refused *apiError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused) && !refused.passing(), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrMaxPayload):
			return err
		case ctx.Err() == nil || last == nil:
			last = err
		}
		if sleep(ctx, backoff(attempt, 50*time.Millisecond, 500*time.Millisecond)) == nil {
			continue
		}
		if over := caller.Err(); over != nil && !errors.Is(last, over) {
			return fmt.Errorf("%w: %w", over, last)
		}
		return last
	}
}

func (c *Conn) ask(ctx context.Context, subject string, body []byte, answer any, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m, err := c.out.RequestWithContext(ctx, "$JS.API."+subject, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return errors.New("JetStream does not answer")
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return errors.New("not connected")
	case err != nil:
		return err
	}
	var refused struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &refused); err != nil {
		return fmt.Errorf("answer on %s: %w", subject, err)
	}
	if refused.Error != nil {
		return refused.Error
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(m.Data, answer); err != nil {
		return fmt.Errorf("answer on %s: %w", subject, err)
	}
	if s, ok := answer.(*streamInfo); ok && s.leaderless() {
		return errLeaderless
	}
	return nil
}

// errLeaderless is an answer about a stream by one that does not know its end.
var errLeaderless = errors.New("the stream has no leader")

// account asks for the account's limits: the least that shows that JetStream is there.
func (c *Conn) account(ctx context.Context) (info struct {
	Memory  int64 `json:"memory"`
	Storage int64 `json:"storage"`
	Limits  struct {
		MaxStorage int64 `json:"max_storage"`
		MaxStreams int   `json:"max_streams"`
	} `json:"limits"`
}, err error) {
	if err = c.api(ctx, "INFO", nil, &info); err != nil {
		err = fmt.Errorf("JetStream: %w", err)
	}
	return info, err
}
