// Package nats answers the transport port with NATS JetStream: with a server of its own in this process
// (Embed) or one outside (Connect).
//
// Two connections carry everything. The first publishes, receives the acknowledgements and asks the API; the
// second reads, so that a deep backlog does not stand before an acknowledgement. A write's path: headers,
// publish with a reply subject that names call and message, wait for the acknowledgements of all of them. A
// reader's path: an ephemeral consumer in the server's memory that acknowledges nothing, pull requests that
// are renewed only while there is room, messages collected and handed over in bulk.
//
// Nothing is resent while it is in doubt: a lost connection or a time-out with writes on their way is
// transport.ErrDoubt. Only what was certainly not stored is tried again here: no leader, no answerer, not
// connected.
//
// In a cluster (ClusterOptions) JetStream runs on a set of servers, each stream on some of them with one that leads. A leader that is
// gone is replaced; until then a write is tried again, an API call is too, for 20 s or while its ctx lets it. What
// was on its way to the old leader is in doubt as soon as there is a new one, which says so, and not only after its time-out.
// A reader's consumer is on one server: the reader starts again when that server leaves the cluster, or after 2.5 s without its heartbeat.
// While a stream has no leader its replicas answer questions about it, and not all know its end: such answers are not taken.
//
// An address that other machines reach needs TLS and users (Options.TLS, Users, ClusterOptions.User), or Embed refuses it. Both sides of a route
// show a certificate of the authority that both believe, and a user; a client shows a user. Certificates are read again when their files change.
// This process itself connects as a user that is made at the start and known nowhere else. Passwords and tokens are Secrets.
//
// Backup and Restore (transport.Archive) pass JetStream's own snapshot of a stream through, chunk by chunk, with a sum at its end that is looked at
// before the stream comes to be. A restore into a cluster makes a new creation time; the old one is kept in the stream's metadata, and is what
// Info says.
//
// A reader counts the consumer's sequence. A hole in it, a consumer that is gone, a new connection or missing
// heartbeats make it start again behind the last message that it has taken.
package nats
