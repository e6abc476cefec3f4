//! Flags of `muster edge`.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::GRACE_MARGIN;
use super::values::{bootstrap, drain_timeout, listen, port, silence, socket_file, stop_grace};

/// Longest silence of Envoy that may be allowed, in seconds.
pub const MAX_SILENCE_SECONDS: u64 = 60;

#[derive(Clone, Debug, Args)]
pub struct EdgeFlags {
    /// Socket file of Envoy's admin interface, as its bootstrap has it
    #[arg(long, env = "MUSTER_ENVOY_ADMIN", default_value = "/run/envoy/admin.sock", value_parser = socket_file, value_name = "FILE")]
    pub admin: PathBuf,
    /// Address the metrics port listens on
    #[arg(long, env = "MUSTER_LISTEN", default_value = "0.0.0.0", value_parser = listen, value_name = "IP")]
    pub listen: Ipv4Addr,
    /// Port of /metrics, /livez and /readyz; one of its own for each Envoy in a network namespace
    #[arg(long, env = "MUSTER_METRICS_PORT", default_value = "9902", value_parser = port, value_name = "PORT")]
    pub metrics_port: u16,
    /// Time in seconds from the engine's TERM to its KILL (5 to 3600)
    #[arg(long, env = "MUSTER_STOP_GRACE", default_value = "30", value_parser = stop_grace, value_name = "SECONDS")]
    pub stop_grace: Duration,
    /// Longest wait in seconds for the requests under way when Envoy is to stop (0 to 600); at least 1 s is waited
    /// unless this is 0 [default: --stop-grace less 3 s]
    #[arg(long, env = "MUSTER_EDGE_DRAIN_TIMEOUT", value_parser = drain_timeout, value_name = "SECONDS")]
    pub drain_timeout: Option<Duration>,
    /// How long in seconds an Envoy that has been ready may not answer before it is killed (1 to 60)
    #[arg(long, env = "MUSTER_EDGE_SILENCE", default_value = "1", value_parser = silence, value_name = "SECONDS")]
    pub silence: Duration,
    /// Exit 1 when for 1 s no interface but lo is up with an IPv4 address
    #[arg(long, env = "MUSTER_EDGE_REQUIRE_NETWORK", default_value = "true", action = ArgAction::Set, value_name = "true|false")]
    pub require_network: bool,
    /// Bootstrap for Envoy in the place of the one its --config-path names, where the kernel does not count the memory of
    /// containers
    #[arg(long, env = "MUSTER_EDGE_WITHOUT_MEMORY", value_parser = bootstrap, value_name = "FILE")]
    pub without_memory: Option<PathBuf>,
    /// The Envoy program and its arguments
    #[arg(last = true, required = true, value_name = "ENVOY")]
    pub envoy: Vec<OsString>,
}

impl EdgeFlags {
    /// The drain's bound. What is left of the grace is for Envoy's own end, and for this program's.
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout.unwrap_or(self.stop_grace.saturating_sub(GRACE_MARGIN))
    }
}
