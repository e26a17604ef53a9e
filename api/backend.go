package api

import (
	"context"

	"github.com/kisflow/kisflow/flowdef"
)

// Backend is the node behind the API. Package node implements it; tests use one in memory.
//
// Every method may be called by many goroutines at a time and ends when ctx does. An error that wraps one of
// this package's sentinels reaches the caller as what it is (make it with Errorf); any other one is reported as internal.
// What a Backend returns must not hold secrets: passwords in addresses and parameters are redacted by it.
type Backend interface {
	// Status tells how the node is.
	Status(ctx context.Context) (Status, error)
	// Doctor checks what the node stands on: the disk, NATS and its syncing, clocks, streams.
	Doctor(ctx context.Context) (Report, error)

	// Flows, Functions and Connectors list what is defined, by name.
	Flows(ctx context.Context, page Page) (List[FlowSummary], error)
	Functions(ctx context.Context, page Page) (List[Function], error)
	Connectors(ctx context.Context, page Page) (List[Connector], error)
	// TestConnector tries whether the place of a connector is there and lets the node in: ok, or failed with a detail
	// of one line. An unknown connector is ErrNotFound.
	TestConnector(ctx context.Context, name string) (Check, error)
	// Flow describes a flow, or ErrNotFound.
	Flow(ctx context.Context, name string) (Flow, error)

	// Graph is the net of all flows: what comes in, the steps, what they hand to each other and send.
	Graph(ctx context.Context) (flowdef.Graph, error)

	// Plan tells what Apply of the same files would do, and what is wrong with them: mistakes are in the
	// plan, not in the error. It changes nothing.
	Plan(ctx context.Context, files []File) (Plan, error)
	// Apply adds and changes the definitions that the files hold; what they do not name stays. When the
	// definitions have changed since the plan that ok names, or the change drops the state of a step that ok does not
	// name, nothing is done and the error is ErrConflict. Files with a mistake change nothing: ErrInvalid, with the
	// mistakes (Invalid makes that error). It returns when the changes are durable.
	Apply(ctx context.Context, files []File, ok Approval) (Plan, error)
	// Revisions lists the revisions of a flow that are kept, the newest first. Revision returns one in full, the
	// one that runs for 0, or ErrNotFound.
	Revisions(ctx context.Context, flow string, page Page) (List[RevisionSummary], error)
	Revision(ctx context.Context, flow string, revision uint64) (Revision, error)
	// StartShadow runs the one flow that the files change beside itself, as they define it: with a copy of its state, on
	// the same events, its outputs kept apart. Files that change no flow or several are ErrInvalid; a flow that does not run,
	// or has a shadow already, is ErrConflict.
	StartShadow(ctx context.Context, files []File, ok Approval) (Plan, error)
	// Shadow tells of a flow's shadow, or ErrNotFound; ShadowDiff compares the two, with at most so many examples
	// of each kind.
	Shadow(ctx context.Context, flow string) (Shadow, error)
	ShadowDiff(ctx context.Context, flow string, examples int) (ShadowDiff, error)
	// PromoteShadow applies the shadow's definitions to the flow, as Apply does: the flow goes on with its own state. The
	// shadow ends. DiscardShadow ends it without that.
	PromoteShadow(ctx context.Context, flow string, ok Approval) (Plan, error)
	DiscardShadow(ctx context.Context, flow string) (Shadow, error)
	// SetFlow does an action to a flow and returns the flow as it is then, for ActionDelete as it was last.
	// An action that changes nothing (to pause a paused flow) is no error.
	SetFlow(ctx context.Context, name string, action Action) (FlowSummary, error)

	// Lag lists how far the inputs of a flow, or of all flows if the name is empty, are behind.
	Lag(ctx context.Context, flow string, page Page) (List[Lag], error)

	// State returns the committed state of a key. The key is given as assignments of its fields,
	// "userid=7", in any order; kis.ParseKey reads their values. Unknown flow or step, or a step without
	// state: ErrNotFound; a field that is missing, unknown or malformed: ErrInvalid; a key without a state:
	// ErrNoState.
	State(ctx context.Context, flow, step string, key []string, read Read) (StateEntry, error)
	// States lists committed states of a step. Prefix selects the keys whose text (kis.Key.String, as
	// "userid=ada orderid=7") starts so; empty: all.
	States(ctx context.Context, flow, step, prefix string, page Page) (List[StateEntry], error)

	// DeadLetters lists a flow's dead letters without Data and Stack, in an order in which pages do not skip a
	// letter that stays. One that is retried and set aside again may come back as another one.
	DeadLetters(ctx context.Context, flow string, filter DeadLetterFilter, page Page) (List[DeadLetter], error)
	// DeadLetter returns one in full, or ErrNotFound.
	DeadLetter(ctx context.Context, flow, id string) (DeadLetter, error)
	// RetryDeadLetters applies dead letters again at the steps that failed, under the flow's current
	// revision; DropDeadLetters removes them for good. At most MaxIDs at a time. An ID that is not there
	// (any more) is counted in Resolved.Missing, a letter that cannot be retried (it is no JSON object, say)
	// in Resolved.Left; neither is an error.
	RetryDeadLetters(ctx context.Context, flow string, ids []string) (Resolved, error)
	DropDeadLetters(ctx context.Context, flow string, ids []string) (Resolved, error)

	// Cluster tells of the cluster that the node is part of; of a node that is alone it is ErrConflict. ClusterPartitions lists
	// where the partitions of a flow, or of all if the name is empty, are. DrainNode takes a node out of service, or lets it
	// back in: its partitions move to others, and none comes to it. It returns when that is marked, not when it is done.
	Cluster(ctx context.Context) (Cluster, error)
	ClusterPartitions(ctx context.Context, flow string, page Page) (List[ClusterPartition], error)
	DrainNode(ctx context.Context, node string, on bool) (Cluster, error)

	// Publish stores messages in the stream of a subject, or of a flow's entry, in order, and returns when
	// all are acknowledged. A payload is not looked at: bad JSON becomes a dead letter of the flow. On an
	// error a leading part may have been stored; the same messages with the same IDs may be sent again.
	Publish(ctx context.Context, p Publication) (Published, error)
}
