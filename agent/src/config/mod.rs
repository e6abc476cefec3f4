//! Flags and environment into domain types. Every default and every limit has its name here.

mod check;
mod commands;
mod duration;
mod edge;
mod endpoint;
mod network;
mod pki;
mod read;
mod values;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::nginx::{Fallback, Requests};
use crate::process::probe::ReadyUrl;
pub use crate::process::service::OnExit;
pub use commands::{
    Awaited, CheckFlags, CheckOutput, DrainFlags, EventsFlags, EventsOutput, FleetFlags, MarkFlags,
    StatusFlags, StatusOutput, SwitchoverFlags, VerifyFlags, WaitFlags,
};
pub use edge::{EdgeFlags, MAX_SILENCE_SECONDS};
pub use endpoint::Endpoint;
pub use network::{Advertise, Allow, not_publishable};
pub use pki::{Output, PkiCommand, PkiMakeFlags, PkiShowFlags};
use values::{
    directory, drain_timeout, edge, keep_marks, linger, listen, log_filter, name, on_exit, port, prefix,
    program, proxies, secret_file, stop_grace, ttl,
};

/// Shortest and longest lease asked for. Below 2 s etcd grants 2 s anyway; above a minute a crash that presence
/// cannot see would stay listed longer than anybody wants.
pub const TTL_SECONDS: std::ops::RangeInclusive<u64> = 2..=60;
/// Longest drain that may be asked for.
pub const MAX_DRAIN_SECONDS: u64 = 600;
/// Shortest and longest time from the engine's TERM to its KILL.
pub const STOP_GRACE_SECONDS: std::ops::RangeInclusive<u64> = 5..=3600;
/// Of that time, what everything after the requests under way takes: leaving the registry, the end of a child, the own.
pub const GRACE_MARGIN: Duration = Duration::from_secs(3);
/// Longest wait of a command for etcd.
pub const MAX_WAIT_SECONDS: u64 = 600;
/// Longest look back of `events --since`: ten years.
pub const MAX_SINCE_SECONDS: u64 = 10 * 365 * 86_400;
/// Longest linger that may be asked for, in milliseconds.
pub const MAX_LINGER_MS: u64 = 60_000;
/// Longest time for which a mark may outlive its node: a year.
pub const MAX_KEEP_MARKS_SECONDS: u64 = 365 * 86_400;
/// Most proxies before Envoy that may be trusted.
pub const MAX_TRUSTED_PROXIES: u32 = 16;
/// Longest prefix: it is part of every key.
pub const MAX_PREFIX_BYTES: usize = 128;
/// Most etcd endpoints that may be given.
pub const MAX_ENDPOINTS: usize = 16;

/// Roll call for an nginx fleet: PID 1 of each node, its registrar, and Envoy's control plane.
#[derive(Debug, Parser)]
#[command(name = "muster", version = crate::VERSION, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: CliCommand,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Be a node: start nginx, register it, follow the fleet, and configure Envoy when elected
    Run(Box<RunFlags>),
    /// Be PID 1 of an Envoy: start it, start it again when it ends or hangs, drain it before it stops
    Edge(EdgeFlags),
    /// Exit 0 when this node's agent and nginx answer, 1 otherwise
    Healthcheck(HealthFlags),
    /// Show the registered nodes, the leader, and whether every node serves the same list
    Status(StatusFlags),
    /// Print what happened, one line a change
    Events(EventsFlags),
    /// Compare the registry with every node's file and every Envoy; exit 3 on a difference
    Verify(VerifyFlags),
    /// Say what is well and what is not, with a hint for each; exit 3 when something is not
    Check(CheckFlags),
    /// Take a node out: it stays registered and gets no requests
    Drain(DrainFlags),
    /// Undo `drain`
    Resume(MarkFlags),
    /// Let another node lead
    Switchover(SwitchoverFlags),
    /// Wait until the fleet is as said; exit 5 when it does not come to that
    Wait(WaitFlags),
    /// Make, show and renew the fleet's certificates
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Debug, Args)]
pub struct LogFlags {
    /// What is logged: error, warn, info, debug, trace, or a tracing filter such as `info,muster::registry=debug`
    #[arg(long = "log", env = "MUSTER_LOG", default_value = "info", global = true, value_parser = log_filter)]
    pub filter: String,
    /// How it is logged; auto is json unless it goes to a terminal
    #[arg(long = "log-format", env = "MUSTER_LOG_FORMAT", default_value = "auto", global = true)]
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Auto,
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    All,
    Errors,
    Off,
}

impl AccessLog {
    pub fn of_nginx(self) -> Requests {
        match self {
            Self::All => Requests::All,
            Self::Errors => Requests::Failed,
            Self::Off => Requests::None,
        }
    }

    /// The lowest status that is logged.
    pub fn of_envoy(self) -> Option<u32> {
        match self {
            Self::All => Some(0),
            Self::Errors => Some(400),
            Self::Off => None,
        }
    }
}

/// Where the registry is; shared by every command that asks it.
#[derive(Clone, Debug, Args)]
pub struct RegistryFlags {
    /// etcd endpoints, separated by commas: http://HOST:PORT, with --tls-dir https://HOST:PORT
    #[arg(
        long,
        env = "MUSTER_ETCD",
        default_value = "http://127.0.0.1:2379",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub etcd: Vec<Endpoint>,
    /// Directory of certificates, such as `muster pki init` makes: with it TLS to etcd and on the control port,
    /// without it none
    #[arg(long, env = "MUSTER_TLS_DIR", value_parser = directory, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Prefix of all keys of this fleet
    #[arg(long, env = "MUSTER_PREFIX", default_value = "/muster", value_parser = prefix)]
    pub prefix: String,
    /// Name of the fleet, shown in ips.json and on the page
    #[arg(long, env = "MUSTER_FLEET", default_value = "muster", value_parser = name)]
    pub fleet: String,
}

#[derive(Clone, Debug, Args)]
pub struct RunFlags {
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// This node's name [default: the host name, which in a container is its short id]
    #[arg(long, env = "MUSTER_NAME", value_parser = name)]
    pub name: Option<String>,
    /// Time to live of the lease in seconds: how long a node stays listed whose crash was not detected otherwise (2 to 60)
    #[arg(long, env = "MUSTER_TTL", default_value = "5", value_parser = ttl, value_name = "SECONDS")]
    pub ttl: Duration,
    /// Address to register: an IPv4 address, a network the node has an address in, or an interface
    /// [default: the local address of the connection to etcd]
    #[arg(long, env = "MUSTER_ADVERTISE", value_name = "IP|CIDR|INTERFACE")]
    pub advertise: Option<Advertise>,
    /// Networks whose addresses may be listed: CIDR, or `own` for the network of this node's own interface; may be
    /// repeated [default: any unicast address but loopback and link-local]
    #[arg(long, env = "MUSTER_ALLOW", value_delimiter = ',', value_name = "CIDR|own")]
    pub allow: Vec<Allow>,
    /// Address nginx, the control port and the metrics port listen on
    #[arg(long, env = "MUSTER_LISTEN", default_value = "0.0.0.0", value_parser = listen, value_name = "IP")]
    pub listen: Ipv4Addr,
    /// nginx's port
    #[arg(long, env = "MUSTER_HTTP_PORT", default_value = "8080", value_parser = port, value_name = "PORT")]
    pub http_port: u16,
    /// Port of Envoy's control plane
    #[arg(long, env = "MUSTER_CONTROL_PORT", default_value = "18000", value_parser = port, value_name = "PORT")]
    pub control_port: u16,
    /// Port of /metrics, /livez and /readyz
    #[arg(long, env = "MUSTER_METRICS_PORT", default_value = "9464", value_parser = port, value_name = "PORT")]
    pub metrics_port: u16,
    /// Where Envoy is told to listen
    #[arg(long, env = "MUSTER_EDGE", default_value = "0.0.0.0:8080", value_parser = edge, value_name = "IP:PORT")]
    pub edge: SocketAddrV4,
    /// Where Envoy is told to listen with TLS; --edge then redirects there
    #[arg(long, env = "MUSTER_EDGE_TLS", value_parser = edge, value_name = "IP:PORT")]
    pub edge_tls: Option<SocketAddrV4>,
    /// Port by which people reach --edge-tls, for the redirect [default: that of --edge-tls]
    #[arg(long, env = "MUSTER_EDGE_TLS_PORT", value_parser = port, value_name = "PORT")]
    pub edge_tls_port: Option<u16>,
    /// File where Envoy is that names the certificate and the key of --edge-tls, as its SDS has it
    #[arg(long, env = "MUSTER_EDGE_SECRET", default_value = "/etc/envoy-tls/edge.json", value_parser = secret_file, value_name = "FILE")]
    pub edge_secret: PathBuf,
    /// How many proxies or balancers stand before Envoy and name the client in x-forwarded-for (0 to 16); with one or more
    /// Envoy may be reached through them only
    #[arg(long, env = "MUSTER_TRUSTED_PROXIES", default_value = "0", value_parser = proxies, value_name = "N")]
    pub trusted_proxies: u32,
    /// Directory of the generated files; best a tmpfs
    #[arg(long, env = "MUSTER_DIR", default_value = "/srv/muster", value_parser = directory, value_name = "DIR")]
    pub dir: PathBuf,
    /// Own static content, served at / instead of the list when the directory holds anything
    #[arg(long, env = "MUSTER_SITE", default_value = "/srv/site", value_parser = directory, value_name = "DIR")]
    pub site: PathBuf,
    /// Page of the site that is served with 200 for each address that names no file, as single-page sites need it
    #[arg(long, env = "MUSTER_FALLBACK", default_value = "none", value_name = "none|PATH")]
    pub fallback: Fallback,
    /// Directory for nginx's configuration, pid and temporary files; best a tmpfs
    #[arg(long, env = "MUSTER_RUN_DIR", default_value = "/run/muster", value_parser = directory, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Which requests nginx and Envoy log: all, errors (4xx, 5xx and answers cut short) or off; Envoy does as the node
    /// that leads says
    #[arg(
        long,
        env = "MUSTER_ACCESS_LOG",
        default_value = "errors",
        value_name = "all|errors|off",
        hide_possible_values = true
    )]
    pub access_log: AccessLog,
    /// The nginx program
    #[arg(long, env = "MUSTER_NGINX", default_value = "nginx", value_parser = program, value_name = "PROGRAM")]
    pub nginx: PathBuf,
    /// What to do when the served process ends by itself [default: restart for nginx, exit for a COMMAND]
    #[arg(long, env = "MUSTER_ON_EXIT", value_parser = on_exit, value_name = "restart|exit")]
    pub on_exit: Option<OnExit>,
    /// With a COMMAND: register once this answers 200; without it a COMMAND is never registered
    #[arg(long, env = "MUSTER_READY_URL", value_name = "URL")]
    pub ready_url: Option<ReadyUrl>,
    /// Longest wait in seconds for every Envoy to acknowledge a leave (0 to 600) [default: TTL + 2]
    #[arg(long, env = "MUSTER_DRAIN_TIMEOUT", value_parser = drain_timeout, value_name = "SECONDS")]
    pub drain_timeout: Option<Duration>,
    /// Time in seconds from the engine's TERM to its KILL: the requests under way have what the leave does not need of it
    /// (5 to 3600)
    #[arg(long, env = "MUSTER_STOP_GRACE", default_value = "30", value_parser = stop_grace, value_name = "SECONDS")]
    pub stop_grace: Duration,
    /// How long to keep serving after the withdrawal was acknowledged, in milliseconds
    #[arg(long, env = "MUSTER_LINGER", default_value = "500", value_parser = linger, value_name = "MS")]
    pub linger: Duration,
    /// How long the mark of `drain` outlives its node in seconds, as the node that leads counts it (1 to 31536000)
    #[arg(long, env = "MUSTER_KEEP_MARKS", default_value = "86400", value_parser = keep_marks, value_name = "SECONDS")]
    pub keep_marks: Duration,
    /// Serve this instead of the built-in nginx
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

#[derive(Clone, Debug, Args)]
pub struct HealthFlags {
    /// Address the agent listens on
    #[arg(long, env = "MUSTER_LISTEN", default_value = "127.0.0.1", value_parser = listen, value_name = "IP")]
    pub listen: Ipv4Addr,
    /// Port of /livez and /readyz
    #[arg(long, env = "MUSTER_METRICS_PORT", default_value = "9464", value_parser = port, value_name = "PORT")]
    pub metrics_port: u16,
    /// Ask /readyz: whether this node is registered, or whether the Envoy of `muster edge` is ready
    #[arg(long)]
    pub ready: bool,
}
