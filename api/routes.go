package api

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Permission is what a caller needs for a route.
type Permission string

// The permissions. Who has which is the business of Options.Authorize.
const (
	PermitRead    Permission = "read"    // see definitions, figures, states and dead letters
	PermitPublish Permission = "publish" // put events in
	PermitOperate Permission = "operate" // pause, resume, retry and drop
	PermitDefine  Permission = "define"  // apply and delete definitions
)

// Route is one way into the API.
type Route struct {
	Method     string
	Path       string // a pattern of net/http
	Permission Permission
	Query      []string // parameters it knows; another one is refused
	Timeout    time.Duration
	Body       string // what the body is, for people; empty: none is read
	Answer     string // what comes back
	Doc        string

	handle func(ctx context.Context, b Backend, r *request) (any, error)
}

// Times that a route's Backend call may take.
const (
	quick = 30 * time.Second
	slow  = 5 * time.Minute // waits for durable changes in all partitions
)

var pageQuery = []string{"limit", "after"}

// Routes is the table of all routes.
func Routes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/status", Permission: PermitRead, Timeout: quick,
			Answer: "Status", Doc: "how the node is",
			handle: func(ctx context.Context, b Backend, _ *request) (any, error) { return b.Status(ctx) }},
		{Method: "GET", Path: "/api/v1/doctor", Permission: PermitRead, Timeout: quick,
			Answer: "Report", Doc: "checks of what the node stands on",
			handle: func(ctx context.Context, b Backend, _ *request) (any, error) { return b.Doctor(ctx) }},

		{Method: "GET", Path: "/api/v1/cluster", Permission: PermitRead, Timeout: quick,
			Answer: "Cluster", Doc: "the cluster that the node is part of",
			handle: func(ctx context.Context, b Backend, _ *request) (any, error) { return b.Cluster(ctx) }},
		{Method: "GET", Path: "/api/v1/cluster/partitions", Permission: PermitRead, Query: append([]string{"flow"}, pageQuery...), Timeout: quick,
			Answer: "List of ClusterPartition", Doc: "where the partitions are, of a flow or of all",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.ClusterPartitions(ctx, r.query.Get("flow"), r.page)
			}},
		{Method: "POST", Path: "/api/v1/cluster/nodes/{node}/drain", Permission: PermitOperate, Timeout: quick,
			Answer: "Cluster", Doc: "take a node out of service: its partitions move to others",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.DrainNode(ctx, r.PathValue("node"), true)
			}},
		{Method: "POST", Path: "/api/v1/cluster/nodes/{node}/undrain", Permission: PermitOperate, Timeout: quick,
			Answer: "Cluster", Doc: "let a node have partitions again",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.DrainNode(ctx, r.PathValue("node"), false)
			}},

		{Method: "GET", Path: "/api/v1/flows", Permission: PermitRead, Query: pageQuery, Timeout: quick,
			Answer: "List of FlowSummary", Doc: "the flows",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) { return b.Flows(ctx, r.page) }},
		{Method: "GET", Path: "/api/v1/functions", Permission: PermitRead, Query: pageQuery, Timeout: quick,
			Answer: "List of Function", Doc: "the functions",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) { return b.Functions(ctx, r.page) }},
		{Method: "GET", Path: "/api/v1/connectors", Permission: PermitRead, Query: pageQuery, Timeout: quick,
			Answer: "List of Connector", Doc: "the connectors",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) { return b.Connectors(ctx, r.page) }},
		{Method: "POST", Path: "/api/v1/connectors/{connector}/test", Permission: PermitOperate, Timeout: quick,
			Answer: "Check", Doc: "try whether a connector's place is there and lets the node in",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.TestConnector(ctx, r.PathValue("connector"))
			}},
		{Method: "GET", Path: "/api/v1/flows/{flow}", Permission: PermitRead, Timeout: quick,
			Answer: "Flow", Doc: "a flow in full",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) { return b.Flow(ctx, r.PathValue("flow")) }},
		{Method: "GET", Path: "/api/v1/graph", Permission: PermitRead, Timeout: quick,
			Answer: `{"nodes":[GraphNode],"edges":[GraphEdge]}`, Doc: "the net of all flows",
			handle: func(ctx context.Context, b Backend, _ *request) (any, error) { return b.Graph(ctx) }},

		{Method: "POST", Path: "/api/v1/plan", Permission: PermitRead, Timeout: quick,
			Body: `{"files":[File]}`, Answer: "Plan", Doc: "what an apply would change, and the mistakes; changes nothing",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				var in definitions
				if err := r.decode(&in); err != nil {
					return nil, err
				}
				return b.Plan(ctx, in.Files)
			}},
		{Method: "POST", Path: "/api/v1/apply", Permission: PermitDefine, Timeout: slow,
			Body: `{"files":[File],"plan":ID,"drop_state":["FLOW/STEP"],"by":WHO,"note":TEXT}`, Answer: "Plan",
			Doc: "add and change definitions; with a plan's id only if nothing has changed since; a state that is dropped must be named",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				var in definitions
				if err := r.decode(&in); err != nil {
					return nil, err
				}
				return b.Apply(ctx, in.Files, in.Approval)
			}},
		{Method: "GET", Path: "/api/v1/flows/{flow}/revisions", Permission: PermitRead, Query: pageQuery, Timeout: quick,
			Answer: "List of RevisionSummary", Doc: "the revisions of a flow that are kept, the newest first",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.Revisions(ctx, r.PathValue("flow"), r.page)
			}},
		{Method: "GET", Path: "/api/v1/flows/{flow}/revisions/{revision}", Permission: PermitRead, Timeout: quick,
			Answer: "Revision", Doc: "a revision in full; 0 is the one that runs",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				n, err := strconv.ParseUint(r.PathValue("revision"), 10, 64)
				if err != nil {
					return nil, Errorf(ErrInvalid, "revision %q is no number", r.PathValue("revision"))
				}
				return b.Revision(ctx, r.PathValue("flow"), n)
			}},
		{Method: "POST", Path: "/api/v1/shadow", Permission: PermitDefine, Timeout: slow,
			Body: `{"files":[File],"plan":ID,"by":WHO,"note":TEXT}`, Answer: "Plan", Doc: "run a changed flow beside itself, its outputs kept apart",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				var in definitions
				if err := r.decode(&in); err != nil {
					return nil, err
				}
				return b.StartShadow(ctx, in.Files, in.Approval)
			}},
		{Method: "GET", Path: "/api/v1/flows/{flow}/shadow", Permission: PermitRead, Timeout: quick,
			Answer: "Shadow", Doc: "the shadow of a flow",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.Shadow(ctx, r.PathValue("flow"))
			}},
		{Method: "GET", Path: "/api/v1/flows/{flow}/shadow/diff", Permission: PermitRead, Query: []string{"limit"}, Timeout: time.Minute,
			Answer: "ShadowDiff", Doc: "where a shadow's states and outputs differ from the flow's, with at most limit examples of each kind",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.ShadowDiff(ctx, r.PathValue("flow"), r.page.Limit)
			}},
		{Method: "POST", Path: "/api/v1/flows/{flow}/shadow/promote", Permission: PermitDefine, Timeout: slow,
			Body: "Approval", Answer: "Plan", Doc: "apply a shadow's definitions to its flow, and end the shadow",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				var in Approval
				if err := r.decode(&in); err != nil {
					return nil, err
				}
				return b.PromoteShadow(ctx, r.PathValue("flow"), in)
			}},
		{Method: "POST", Path: "/api/v1/flows/{flow}/shadow/discard", Permission: PermitDefine, Timeout: slow,
			Answer: "Shadow", Doc: "end a shadow and remove all that it kept",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.DiscardShadow(ctx, r.PathValue("flow"))
			}},
		{Method: "POST", Path: "/api/v1/flows/{flow}/pause", Permission: PermitOperate, Timeout: slow,
			Answer: "FlowSummary", Doc: "pause a flow", handle: setFlow(ActionPause)},
		{Method: "POST", Path: "/api/v1/flows/{flow}/resume", Permission: PermitOperate, Timeout: slow,
			Answer: "FlowSummary", Doc: "resume a flow", handle: setFlow(ActionResume)},
		{Method: "POST", Path: "/api/v1/flows/{flow}/resume-beginning", Permission: PermitOperate, Timeout: slow,
			Answer: "FlowSummary", Doc: "resume a flow whose input is another stream now, and read that from its beginning", handle: setFlow(ActionResumeBeginning)},
		{Method: "POST", Path: "/api/v1/flows/{flow}/resume-now", Permission: PermitOperate, Timeout: slow,
			Answer: "FlowSummary", Doc: "resume a flow whose input is another stream now, and read what comes from now on", handle: setFlow(ActionResumeNow)},
		{Method: "DELETE", Path: "/api/v1/flows/{flow}", Permission: PermitDefine, Timeout: slow,
			Answer: "FlowSummary", Doc: "delete a flow with its state and dead letters", handle: setFlow(ActionDelete)},

		{Method: "GET", Path: "/api/v1/lag", Permission: PermitRead, Query: append([]string{"flow"}, pageQuery...), Timeout: quick,
			Answer: "List of Lag", Doc: "how far inputs are behind, of one flow or all",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.Lag(ctx, r.query.Get("flow"), r.page)
			}},

		{Method: "GET", Path: "/api/v1/flows/{flow}/steps/{step}/state", Permission: PermitRead, Query: []string{"key", "consistent", "at_least"}, Timeout: quick,
			Answer: "StateEntry", Doc: "the committed state of a key; key=FIELD=VALUE once for each field; consistent=true: all that was committed before; at_least=COMMIT: nothing older than that answer",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				key := r.query["key"]
				if len(key) == 0 {
					return nil, Errorf(ErrInvalid, "no key given; add key=FIELD=VALUE for each field of the step's key")
				}
				read, err := readRead(r)
				if err != nil {
					return nil, err
				}
				return b.State(ctx, r.PathValue("flow"), r.PathValue("step"), key, read)
			}},
		{Method: "GET", Path: "/api/v1/flows/{flow}/steps/{step}/states", Permission: PermitRead,
			Query: append([]string{"prefix"}, pageQuery...), Timeout: quick,
			Answer: "List of StateEntry", Doc: "the committed states of a step, by the prefix of the key's text",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.States(ctx, r.PathValue("flow"), r.PathValue("step"), r.query.Get("prefix"), r.page)
			}},

		{Method: "GET", Path: "/api/v1/flows/{flow}/deadletters", Permission: PermitRead,
			Query: append([]string{"step", "reason"}, pageQuery...), Timeout: quick,
			Answer: "List of DeadLetter", Doc: "a flow's dead letters, without their bytes",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				f := DeadLetterFilter{Step: r.query.Get("step"), Reason: r.query.Get("reason")}
				return b.DeadLetters(ctx, r.PathValue("flow"), f, r.page)
			}},
		{Method: "GET", Path: "/api/v1/flows/{flow}/deadletters/{id}", Permission: PermitRead, Timeout: quick,
			Answer: "DeadLetter", Doc: "a dead letter in full",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				return b.DeadLetter(ctx, r.PathValue("flow"), r.PathValue("id"))
			}},
		{Method: "POST", Path: "/api/v1/flows/{flow}/deadletters/retry", Permission: PermitOperate, Timeout: slow,
			Body: `{"ids":[ID]}`, Answer: "Resolved", Doc: "apply dead letters again where they failed",
			handle: resolve(Backend.RetryDeadLetters)},
		{Method: "POST", Path: "/api/v1/flows/{flow}/deadletters/drop", Permission: PermitOperate, Timeout: slow,
			Body: `{"ids":[ID]}`, Answer: "Resolved", Doc: "remove dead letters for good",
			handle: resolve(Backend.DropDeadLetters)},

		{Method: "POST", Path: "/api/v1/publish", Permission: PermitPublish, Timeout: quick,
			Body: "Publication", Answer: "Published", Doc: "store messages on a subject or at a flow's entry",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				var in Publication
				if err := r.decode(&in); err != nil {
					return nil, err
				}
				return publish(ctx, b, in)
			}},
		{Method: "POST", Path: "/api/v1/flows/{flow}/events", Permission: PermitPublish, Timeout: quick,
			Body: "the message's bytes, one event or many, one a line", Answer: "Published",
			Doc: "store one message at a flow's entry; the header Nats-Msg-Id makes it safe to repeat",
			handle: func(ctx context.Context, b Backend, r *request) (any, error) {
				data, err := io.ReadAll(r.Body)
				if err != nil {
					return nil, bodyError(err)
				}
				return publish(ctx, b, Publication{
					Flow:     r.PathValue("flow"),
					Messages: []PublishMessage{{ID: r.Header.Get("Nats-Msg-Id"), Data: data}},
				})
			}},
	}
}

type definitions struct {
	Files []File `json:"files"`
	Approval
}

type idList struct {
	IDs []string `json:"ids"`
}

func setFlow(a Action) func(context.Context, Backend, *request) (any, error) {
	return func(ctx context.Context, b Backend, r *request) (any, error) {
		return b.SetFlow(ctx, r.PathValue("flow"), a)
	}
}

func resolve(do func(Backend, context.Context, string, []string) (Resolved, error)) func(context.Context, Backend, *request) (any, error) {
	return func(ctx context.Context, b Backend, r *request) (any, error) {
		var in idList
		if err := r.decode(&in); err != nil {
			return nil, err
		}
		switch n := len(in.IDs); {
		case n == 0:
			return nil, Errorf(ErrInvalid, "no dead letters named; ids must hold 1 to %d", MaxIDs)
		case n > MaxIDs:
			return nil, Errorf(ErrTooLarge, "%d dead letters named; at most %d in one request", n, MaxIDs)
		}
		return do(b, ctx, r.PathValue("flow"), in.IDs)
	}
}

func publish(ctx context.Context, b Backend, p Publication) (any, error) {
	switch n := len(p.Messages); {
	case (p.Subject == "") == (p.Flow == ""):
		return nil, Errorf(ErrInvalid, "name either a subject or a flow to publish to")
	case n == 0:
		return nil, Errorf(ErrInvalid, "no messages; there must be 1 to %d", MaxMessages)
	case n > MaxMessages:
		return nil, Errorf(ErrTooLarge, "%d messages; at most %d in one request", n, MaxMessages)
	}
	for i := range p.Messages {
		if len(p.Messages[i].Data) == 0 {
			return nil, Errorf(ErrInvalid, "message %d is empty", i+1)
		}
	}
	return b.Publish(ctx, p)
}

// readRead reads what an answer must hold.
func readRead(r *request) (read Read, err error) {
	switch s := r.query.Get("consistent"); s {
	case "", "false":
	case "true":
		read.Consistent = true
	default:
		return read, Errorf(ErrInvalid, "consistent is %q; it must be true or false", s)
	}
	if s := r.query.Get("at_least"); s != "" {
		if read.AtLeast, err = strconv.ParseUint(s, 10, 64); err != nil {
			return read, Errorf(ErrInvalid, "at_least is %q; it must be the commit of an earlier answer", s)
		}
	}
	return read, nil
}

// readPage reads limit and after of a list's query.
func readPage(r *request) (Page, error) {
	p := Page{Limit: DefaultLimit, After: r.query.Get("after")}
	if s := r.query.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return p, Errorf(ErrInvalid, "limit is %q; it must be a number from 1 to %d", s, MaxLimit)
		}
		p.Limit = min(n, MaxLimit)
	}
	return p, nil
}

// pattern is the route's pattern for http.ServeMux.
func (r Route) pattern() string { return fmt.Sprintf("%s %s", r.Method, r.Path) }
