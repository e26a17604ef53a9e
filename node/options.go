package node

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/actors"
	"github.com/kisflow/kisflow/actors/cluster"
	"github.com/kisflow/kisflow/flowdef"
	"github.com/kisflow/kisflow/kis"
	"github.com/kisflow/kisflow/transport/nats"
)

// Version is what the binaries say of themselves; the build sets it.
var Version = "dev"

// Options are the settings of a node. Flags win over the config file (kistype: global), that over the defaults.
type Options struct {
	Data       string   // folder of everything that the node keeps; required
	Flows      []string // folders and files of definitions, applied at start
	NATS       string   // URL of an outside NATS; empty: embedded
	NATSListen string   // address of the embedded NATS for clients; default 127.0.0.1:4222
	Listen     string   // address of the API, health and (unless PrometheusServe) metrics; default 127.0.0.1:7070
	Durability string   // power (default) or process
	Monitor    string   // URL of an outside NATS server's monitoring port, for the doctor; may be empty
	LogFormat  string   // text (default) or json
	LogLevel   string   // debug, info (default), warn or error
	StateCache int64    // bytes of key state kept in memory; default 256 MiB
	Partitions int      // of a stage; default 8

	// A cluster: without a name this node is alone.
	ClusterName      string
	NodeName         string        // of this node: stable over restarts
	ClusterListen    string        // address of the embedded NATS for the other nodes' servers
	ClusterAdvertise string        // where those reach it; default ClusterListen
	Join             []string      // those addresses of the fixed set of nodes that JetStream runs on: 1, 3 or 5
	ActorsListen     string        // address for calls of other nodes; default the host of ClusterListen, or 127.0.0.1, with a free port
	ActorsAdvertise  string        // where others reach it; default ActorsListen
	Lease            time.Duration // how long a node may be silent before others take its partitions; default 5 s
	Standbys         int           // nodes that keep a warm copy of a partition beside its owner; 0 to 2; default 1, and NoStandbys for 0
	Replicas         int           // of every stream; default 3 where JetStream runs on as many nodes, else 1

	// Certificates and the user, for NATS, between its servers, and for calls between nodes. Without them only loopback is
	// listened on.
	Cert, Key, CA string // files in PEM
	User          string
	Password      string // ${ENV:NAME} or ${file:PATH}

	PrometheusEnable bool
	PrometheusListen bool
	PrometheusServe  string // address of the metrics' own listener

	DebugListen string // address of net/http/pprof; empty: none

	// ScriptWorker is the path of a program that calls Worker before anything else: workers for scripts are made of
	// it. Empty: flows with scripts are refused. Main names the program itself.
	ScriptWorker string

	Functions  []kis.Function
	Connectors []kis.ConnectorType // beside those that every node has; a name that is taken is refused
	LogOutput  io.Writer           // default os.Stderr

	meter   *actors.Meter    // nil: the node's own
	network *cluster.Network // nil: protoactor's remote
}

// NoStandbys is the Standbys of a cluster without warm copies.
const NoStandbys = -1

// tls are the files of certificates.
func (o Options) tls() nats.TLS { return nats.TLS{CertFile: o.Cert, KeyFile: o.Key, CAFile: o.CA} }

func (o Options) standbys() int { return max(0, o.Standbys) }

func (o Options) withDefaults() Options {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&o.NATSListen, "127.0.0.1:4222")
	set(&o.Listen, "127.0.0.1:7070")
	set(&o.Durability, "power")
	set(&o.LogFormat, "text")
	set(&o.LogLevel, "info")
	if o.StateCache == 0 {
		o.StateCache = 256 << 20
	}
	if o.ClusterName != "" {
		o = o.withClusterDefaults()
	}
	if o.LogOutput == nil {
		o.LogOutput = os.Stderr
	}
	return o
}

func (o Options) withClusterDefaults() Options {
	if o.ActorsListen == "" {
		host := "127.0.0.1"
		if h, _, err := net.SplitHostPort(o.ClusterListen); err == nil && h != "" {
			host = h
		}
		o.ActorsListen = net.JoinHostPort(host, "0")
	}
	if o.Lease == 0 {
		o.Lease = 5 * time.Second
	}
	if o.Standbys == 0 {
		o.Standbys = 1
	}
	if o.Replicas == 0 {
		o.Replicas = 1
		if len(o.Join) >= 3 {
			o.Replicas = 3
		}
	}
	return o
}

// validateCluster joins what is wrong with the settings of a cluster.
func (o Options) validateCluster() error {
	if o.ClusterName == "" {
		if o.NodeName != "" || o.ClusterListen != "" || len(o.Join) > 0 || o.ActorsListen != "" {
			return errors.New("no cluster name; a node of a cluster needs --cluster-name NAME")
		}
		return nil
	}
	var errs []error
	if o.NodeName == "" {
		errs = append(errs, errors.New("no node name; a node of a cluster needs --node NAME, the same at every start"))
	}
	switch {
	case o.NATS != "" && (o.ClusterListen != "" || len(o.Join) > 0):
		errs = append(errs, errors.New("both an outside NATS and addresses of embedded ones; give --nats, or --cluster-listen and --join"))
	case o.NATS == "" && (o.ClusterListen == "" || len(o.Join) == 0):
		errs = append(errs, errors.New("no NATS that all nodes share; give --cluster-listen HOST:PORT and --join with the addresses of the first nodes, or --nats URL"))
	}
	if o.Replicas < 1 || o.Replicas > 5 {
		errs = append(errs, fmt.Errorf("replicas is %d; it must be 1 to 5", o.Replicas))
	}
	if o.NATS == "" && len(o.Join) > 0 && o.Replicas > len(o.Join) {
		errs = append(errs, fmt.Errorf("replicas is %d, and JetStream runs on %d nodes (--join)", o.Replicas, len(o.Join)))
	}
	if o.Standbys > 2 {
		errs = append(errs, fmt.Errorf("standbys is %d; it must be 0 to 2", o.Standbys))
	}
	return errors.Join(errs...)
}

func (o Options) validate() error {
	var errs []error
	errs = append(errs, o.validateCluster())
	if o.Data == "" {
		errs = append(errs, errors.New("no data folder; say --data DIR"))
	}
	if o.Durability != "power" && o.Durability != "process" {
		errs = append(errs, fmt.Errorf("durability is %q; it must be power or process", o.Durability))
	}
	if o.LogFormat != "text" && o.LogFormat != "json" {
		errs = append(errs, fmt.Errorf("log format is %q; it must be text or json", o.LogFormat))
	}
	if err := new(slog.Level).UnmarshalText([]byte(o.LogLevel)); err != nil {
		errs = append(errs, fmt.Errorf("log level is %q; it must be debug, info, warn or error", o.LogLevel))
	}
	if o.StateCache < 1<<20 {
		errs = append(errs, fmt.Errorf("state cache is %d bytes; it must be at least 1 MiB", o.StateCache))
	}
	for name, a := range map[string]string{"listen": o.Listen, "nats-listen": o.NATSListen, "prometheus-serve": o.PrometheusServe, "debug-listen": o.DebugListen} {
		if a == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a); err != nil {
			errs = append(errs, fmt.Errorf("%s is %q; it must be HOST:PORT: %w", name, a, err))
		}
	}
	return errors.Join(errs...)
}

// under fills what is not set from a definition of kind global.
func (o Options) under(g *flowdef.Global) Options {
	if g == nil {
		return o
	}
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&o.Data, g.Data)
	set(&o.NATS, g.NATS)
	set(&o.NATSListen, g.NATSListen)
	set(&o.Listen, g.Listen)
	set(&o.Durability, g.Durability)
	set(&o.LogFormat, g.LogFormat)
	set(&o.LogLevel, g.LogLevel)
	if g.PrometheusEnable && g.PrometheusListen { // the original listens only when both are set
		set(&o.PrometheusServe, g.PrometheusServe)
		o.PrometheusListen = true
	}
	if len(o.Flows) == 0 {
		o.Flows = g.Flows
	}
	if o.StateCache == 0 {
		o.StateCache = g.StateCache
	}
	o.PrometheusEnable = o.PrometheusEnable || g.PrometheusEnable
	if c := g.Cluster; c != nil {
		set(&o.ClusterName, c.Name)
		set(&o.NodeName, c.Node)
		set(&o.ClusterListen, c.Listen)
		set(&o.ClusterAdvertise, c.Advertise)
		set(&o.ActorsListen, c.ActorsListen)
		set(&o.ActorsAdvertise, c.ActorsAdvertise)
		if len(o.Join) == 0 {
			o.Join = c.Join
		}
		if o.Lease == 0 {
			o.Lease = c.Lease
		}
		if o.Replicas == 0 {
			o.Replicas = c.Replicas
		}
		if o.Standbys == 0 && c.Standbys == 0 {
			o.Standbys = NoStandbys
		} else if o.Standbys == 0 {
			o.Standbys = max(0, c.Standbys)
		}
	}
	if s := g.Security; s != nil {
		set(&o.Cert, s.Cert)
		set(&o.Key, s.Key)
		set(&o.CA, s.CA)
		set(&o.User, s.User)
		set(&o.Password, s.Password)
	}
	return o
}

// logger makes the node's logger.
func (o Options) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(o.LogLevel)) // validated
	h := &slog.HandlerOptions{Level: level}
	if o.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(o.LogOutput, h))
	}
	return slog.New(slog.NewTextHandler(o.LogOutput, h))
}

// Command is the kisnode command with the given Go functions.
func Command(functions ...kis.Function) *cobra.Command { return command("", functions) }

// command is Command for a process whose program can be a worker for scripts, if worker names it.
func command(worker string, functions []kis.Function, connectors ...kis.ConnectorType) *cobra.Command {
	var o Options
	var config string
	c := &cobra.Command{
		Use:   "kisnode --data DIR [--flows DIR]",
		Short: "Run a KisFlow node",
		Long: "kisnode runs flows: it embeds NATS with JetStream and a store for the state of keys, reads the\n" +
			"definitions of --flows, and serves the API that kisctl talks to.",
		Args:          cobra.NoArgs,
		Version:       Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(c *cobra.Command, _ []string) error {
			o := o
			if c.Flags().Changed("standbys") && o.Standbys == 0 {
				o.Standbys = NoStandbys
			}
			if config != "" {
				set, mistakes := flowdef.Load(config)
				if err := mistakes.Err(); err != nil {
					return err
				}
				if set.Global == nil {
					return fmt.Errorf("%s: no definition of kistype: global in it", config)
				}
				o = o.under(set.Global)
			}
			o.Functions, o.Connectors, o.ScriptWorker = functions, connectors, worker
			return Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&config, "config", "", "config file: a definition of kistype: global; flags win")
	f.StringVar(&o.Data, "data", "", "folder of everything that the node keeps")
	f.StringSliceVar(&o.Flows, "flows", nil, "folders and files of definitions to apply at start")
	f.StringVar(&o.NATS, "nats", "", "URL of an outside NATS; default: embedded")
	f.StringVar(&o.NATSListen, "nats-listen", "", "address of the embedded NATS (default 127.0.0.1:4222)")
	f.StringVar(&o.Monitor, "nats-monitor", "", "URL of the outside NATS server's monitoring port, for kisctl doctor")
	f.StringVar(&o.Listen, "listen", "", "address of the API, health and metrics (default 127.0.0.1:7070)")
	f.StringVar(&o.Durability, "durability", "", "power: synced before it is acknowledged (default); process: safe against kill -9 only")
	f.StringVar(&o.LogFormat, "log-format", "", "text (default) or json")
	f.StringVar(&o.LogLevel, "log-level", "", "debug, info (default), warn or error")
	f.Int64Var(&o.StateCache, "state-cache", 0, "bytes of key state kept in memory (default 256 MiB)")
	f.StringVar(&o.ClusterName, "cluster-name", "", "name of the cluster that this node is part of; default: it is alone")
	f.StringVar(&o.NodeName, "node", "", "name of this node in its cluster, the same at every start")
	f.StringVar(&o.ClusterListen, "cluster-listen", "", "address of the embedded NATS for those of the other nodes")
	f.StringVar(&o.ClusterAdvertise, "cluster-advertise", "", "where they reach it (default --cluster-listen)")
	f.StringSliceVar(&o.Join, "join", nil, "the --cluster-listen addresses of the one, three or five nodes that JetStream runs on; the same at all nodes")
	f.StringVar(&o.ActorsListen, "actors-listen", "", "address for calls of other nodes (default: the host of --cluster-listen, a free port)")
	f.StringVar(&o.ActorsAdvertise, "actors-advertise", "", "where they reach it (default --actors-listen)")
	f.DurationVar(&o.Lease, "lease", 0, "how long a node may be silent before others take its partitions over (default 5s)")
	f.IntVar(&o.Standbys, "standbys", 0, "how many nodes keep a warm copy of each partition: 0 to 2 (default 1)")
	f.IntVar(&o.Replicas, "replicas", 0, "replicas of every stream (default 3 where JetStream runs on as many nodes, else 1)")
	f.StringVar(&o.Cert, "cert", "", "file of this node's certificate, for NATS and for calls between nodes")
	f.StringVar(&o.Key, "key", "", "file of its key")
	f.StringVar(&o.CA, "ca", "", "file of the certificates that those of the others are signed by")
	f.StringVar(&o.User, "user", "", "user that nodes and other clients of NATS present")
	f.StringVar(&o.Password, "password", "", "its password, as ${ENV:NAME} or ${file:PATH}")
	f.StringVar(&o.DebugListen, "debug-listen", "", "address that serves Go's profiles (net/http/pprof); default: none")
	f.StringVar(&o.PrometheusServe, "prometheus-serve", "", "own address for the metrics; implies prometheus_listen")
	return c
}

// Main runs kisnode with Go functions beside those that are described in YAML, and ends the process. A
// program of one's own is a main that calls it: node.Main(kis.Keyed("reward", reward)).
func Main(functions ...kis.Function) { Program{Functions: functions}.Main() }

// Program is a kisnode with code of one's own.
type Program struct {
	Functions  []kis.Function      // beside those that are described in YAML
	Connectors []kis.ConnectorType // beside those that every node has
}

// Main runs the program, and ends the process.
func (p Program) Main() {
	Worker()
	if err := command(ownProgram(), p.Functions, p.Connectors...).ExecuteContext(signalContext()); err != nil {
		fmt.Fprintln(os.Stderr, "kisnode: "+strings.TrimRight(err.Error(), "\n"))
		os.Exit(1)
	}
}
