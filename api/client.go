package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kisflow/kisflow/flowdef"
)

// Client is a Backend somewhere else, reached through its Server. Its errors are the server's: errors.Is
// finds the same sentinels. ErrUnreachable means that no server answered.
type Client struct {
	base *url.URL
	http *http.Client
}

var _ Backend = (*Client)(nil)

// maxAnswer bounds what a client reads of an answer.
const maxAnswer = 256 << 20

// NewClient makes the client of a server by its address, as http://127.0.0.1:7070. Close it after use.
func NewClient(server string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, Errorf(ErrInvalid, "server %q: it must be a URL, as http://%s", server, DefaultListen)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, Errorf(ErrInvalid, "server %q: it must be a URL, as http://%s", u.Redacted(), DefaultListen)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	u.RawPath = ""
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = slow + time.Minute
	return &Client{base: u, http: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Server is the server's address without credentials.
func (c *Client) Server() string { return c.base.Redacted() }

// path joins segments below /api/v1, each escaped.
func path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/api/v1")
	for _, s := range segments {
		b.WriteByte('/')
		if s == "." || s == ".." { // they would vanish from a cleaned path
			s = strings.ReplaceAll(s, ".", "%2E")
		} else {
			s = url.PathEscape(s)
		}
		b.WriteString(s)
	}
	return b.String()
}

// call sends a request and decodes the answer into out.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	if strings.Contains(path+"/", "//") {
		return Errorf(ErrInvalid, "a name is empty")
	}
	address := c.base.String() + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		if len(b) > MaxBody {
			return Errorf(ErrTooLarge, "the request has %d bytes; at most %d are taken", len(b), MaxBody)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if len(text) > maxAnswer {
		return Errorf(ErrTooLarge, "the answer of %s is larger than %d bytes", c.Server(), maxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		return c.failure(resp, text)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return Errorf(ErrInternal, "%s does not answer as a kisflow server does: %v", c.Server(), err)
	}
	return nil
}

// unreachable is the error of a request that got no whole answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the URL, which we say ourselves
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // without the address
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Errorf(ErrUnreachable, "%s does not answer in time", c.Server())
	}
	return Errorf(ErrUnreachable, "no server answers at %s: %v", c.Server(), err)
}

// failure is the error that a server answered with.
func (c *Client) failure(resp *http.Response, text []byte) error {
	var body errorJSON
	if err := json.Unmarshal(text, &body); err == nil {
		for _, known := range codes {
			if known.code == body.Error.Code {
				return &Error{Sentinel: known.err, Message: body.Error.Message, Mistakes: body.Error.Mistakes}
			}
		}
	}
	return Errorf(ErrInternal, "%s does not answer as a kisflow server does: %s", c.Server(), resp.Status)
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var out T
	err := c.call(ctx, http.MethodGet, path, query, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, http.MethodPost, path, nil, in, &out)
	return out, err
}

// query makes a page's query with further parameters; empty ones are left out.
func (p Page) query(more ...string) url.Values {
	q := url.Values{}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	if p.After != "" {
		q.Set("after", p.After)
	}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] != "" {
			q.Set(more[i], more[i+1])
		}
	}
	return q
}

// Status implements Backend.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, path("status"), nil)
}

// Doctor implements Backend.
func (c *Client) Doctor(ctx context.Context) (Report, error) {
	return get[Report](ctx, c, path("doctor"), nil)
}

// Flows implements Backend.
func (c *Client) Flows(ctx context.Context, page Page) (List[FlowSummary], error) {
	return get[List[FlowSummary]](ctx, c, path("flows"), page.query())
}

// TestConnector implements Backend.
func (c *Client) TestConnector(ctx context.Context, name string) (Check, error) {
	return post[Check](ctx, c, path("connectors", name, "test"), nil)
}

// Functions implements Backend.
func (c *Client) Functions(ctx context.Context, page Page) (List[Function], error) {
	return get[List[Function]](ctx, c, path("functions"), page.query())
}

// Connectors implements Backend.
func (c *Client) Connectors(ctx context.Context, page Page) (List[Connector], error) {
	return get[List[Connector]](ctx, c, path("connectors"), page.query())
}

// Flow implements Backend.
func (c *Client) Flow(ctx context.Context, name string) (Flow, error) {
	return get[Flow](ctx, c, path("flows", name), nil)
}

// Graph implements Backend.
func (c *Client) Graph(ctx context.Context) (flowdef.Graph, error) {
	return get[flowdef.Graph](ctx, c, path("graph"), nil)
}

// Plan implements Backend.
func (c *Client) Plan(ctx context.Context, files []File) (Plan, error) {
	return post[Plan](ctx, c, path("plan"), definitions{Files: files})
}

// Apply implements Backend.
func (c *Client) Apply(ctx context.Context, files []File, ok Approval) (Plan, error) {
	return post[Plan](ctx, c, path("apply"), definitions{Files: files, Approval: ok})
}

// Revisions implements Backend.
func (c *Client) Revisions(ctx context.Context, flow string, page Page) (List[RevisionSummary], error) {
	return get[List[RevisionSummary]](ctx, c, path("flows", flow, "revisions"), page.query())
}

// Revision implements Backend.
func (c *Client) Revision(ctx context.Context, flow string, revision uint64) (Revision, error) {
	return get[Revision](ctx, c, path("flows", flow, "revisions", strconv.FormatUint(revision, 10)), nil)
}

// StartShadow implements Backend.
func (c *Client) StartShadow(ctx context.Context, files []File, ok Approval) (Plan, error) {
	return post[Plan](ctx, c, path("shadow"), definitions{Files: files, Approval: ok})
}

// Shadow implements Backend.
func (c *Client) Shadow(ctx context.Context, flow string) (Shadow, error) {
	return get[Shadow](ctx, c, path("flows", flow, "shadow"), nil)
}

// ShadowDiff implements Backend.
func (c *Client) ShadowDiff(ctx context.Context, flow string, examples int) (ShadowDiff, error) {
	return get[ShadowDiff](ctx, c, path("flows", flow, "shadow", "diff"), Page{Limit: examples}.query())
}

// PromoteShadow implements Backend.
func (c *Client) PromoteShadow(ctx context.Context, flow string, ok Approval) (Plan, error) {
	return post[Plan](ctx, c, path("flows", flow, "shadow", "promote"), ok)
}

// DiscardShadow implements Backend.
func (c *Client) DiscardShadow(ctx context.Context, flow string) (Shadow, error) {
	return post[Shadow](ctx, c, path("flows", flow, "shadow", "discard"), nil)
}

// SetFlow implements Backend.
func (c *Client) SetFlow(ctx context.Context, name string, action Action) (FlowSummary, error) {
	if action == ActionDelete {
		var out FlowSummary
		err := c.call(ctx, http.MethodDelete, path("flows", name), nil, nil, &out)
		return out, err
	}
	return post[FlowSummary](ctx, c, path("flows", name, string(action)), nil)
}

// Lag implements Backend.
func (c *Client) Lag(ctx context.Context, flow string, page Page) (List[Lag], error) {
	return get[List[Lag]](ctx, c, path("lag"), page.query("flow", flow))
}

// State implements Backend.
func (c *Client) State(ctx context.Context, flow, step string, key []string, read Read) (StateEntry, error) {
	q := url.Values{"key": key}
	if read.Consistent {
		q.Set("consistent", "true")
	}
	if read.AtLeast > 0 {
		q.Set("at_least", strconv.FormatUint(read.AtLeast, 10))
	}
	return get[StateEntry](ctx, c, path("flows", flow, "steps", step, "state"), q)
}

// States implements Backend.
func (c *Client) States(ctx context.Context, flow, step, prefix string, page Page) (List[StateEntry], error) {
	return get[List[StateEntry]](ctx, c, path("flows", flow, "steps", step, "states"), page.query("prefix", prefix))
}

// DeadLetters implements Backend.
func (c *Client) DeadLetters(ctx context.Context, flow string, filter DeadLetterFilter, page Page) (List[DeadLetter], error) {
	return get[List[DeadLetter]](ctx, c, path("flows", flow, "deadletters"), page.query("step", filter.Step, "reason", filter.Reason))
}

// DeadLetter implements Backend.
func (c *Client) DeadLetter(ctx context.Context, flow, id string) (DeadLetter, error) {
	return get[DeadLetter](ctx, c, path("flows", flow, "deadletters", id), nil)
}

// RetryDeadLetters implements Backend.
func (c *Client) RetryDeadLetters(ctx context.Context, flow string, ids []string) (Resolved, error) {
	return post[Resolved](ctx, c, path("flows", flow, "deadletters", "retry"), idList{IDs: ids})
}

// DropDeadLetters implements Backend.
func (c *Client) DropDeadLetters(ctx context.Context, flow string, ids []string) (Resolved, error) {
	return post[Resolved](ctx, c, path("flows", flow, "deadletters", "drop"), idList{IDs: ids})
}

// Cluster implements Backend.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	return get[Cluster](ctx, c, path("cluster"), nil)
}

// ClusterPartitions implements Backend.
func (c *Client) ClusterPartitions(ctx context.Context, flow string, page Page) (List[ClusterPartition], error) {
	return get[List[ClusterPartition]](ctx, c, path("cluster", "partitions"), page.query("flow", flow))
}

// DrainNode implements Backend.
func (c *Client) DrainNode(ctx context.Context, node string, on bool) (Cluster, error) {
	action := "undrain"
	if on {
		action = "drain"
	}
	return post[Cluster](ctx, c, path("cluster", "nodes", node, action), nil)
}

// Publish implements Backend.
func (c *Client) Publish(ctx context.Context, p Publication) (Published, error) {
	return post[Published](ctx, c, path("publish"), p)
}
