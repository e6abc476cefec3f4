//! Flags of the commands that ask the registry and change it by hand.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{name, since, wait};
use super::{Allow, RegistryFlags};

/// Which fleet, and which of its addresses count.
#[derive(Clone, Debug, Args)]
pub struct FleetFlags {
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// Networks whose addresses may be listed, as for `run`
    #[arg(long, env = "MUSTER_ALLOW", value_delimiter = ',', value_name = "CIDR|own")]
    pub allow: Vec<Allow>,
}

#[derive(Clone, Debug, Args)]
pub struct StatusFlags {
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// Look again every so many seconds (1 to 600) until interrupted; a terminal is redrawn, a pipe appended to
    #[arg(long, short, value_parser = wait, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    pub watch: Option<Duration>,
    /// How it is printed
    #[arg(long, short, default_value = "table")]
    pub output: StatusOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    Table,
    /// The table with each node's instance, ports and reason
    Wide,
    Json,
    Tsv,
}

#[derive(Clone, Debug, Args)]
pub struct EventsFlags {
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    pub follow: bool,
    /// Only what happened within this time, such as 10m or 2h
    #[arg(long, value_parser = since, value_name = "TIME")]
    pub since: Option<Duration>,
    /// How it is printed
    #[arg(long, short, default_value = "table")]
    pub output: EventsOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventsOutput {
    Table,
    /// One JSON object a line, as in history.json
    Jsonl,
}

#[derive(Clone, Debug, Args)]
pub struct VerifyFlags {
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// How long all parts may take to agree, in seconds (0 to 600)
    #[arg(long, default_value = "2", value_parser = wait, value_name = "SECONDS")]
    pub wait: Duration,
    /// How it is printed
    #[arg(long, short, default_value = "table")]
    pub output: super::Output,
}

#[derive(Clone, Debug, Args)]
pub struct CheckFlags {
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// How long everything may take to be well, in seconds (0 to 600)
    #[arg(long, default_value = "0", value_parser = wait, value_name = "SECONDS")]
    pub wait: Duration,
    /// How it is printed
    #[arg(long, short, default_value = "short")]
    pub output: CheckOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    Short,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct MarkFlags {
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// Its name, the beginning of its id, or its address
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Wait until every Envoy has acknowledged it, so many seconds at most (0 to 600)
    #[arg(long, value_parser = wait, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    pub wait: Option<Duration>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Clone, Debug, Args)]
pub struct DrainFlags {
    #[command(flatten)]
    pub mark: MarkFlags,
    /// The reason, shown by `status` and on the page
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub why: String,
    /// Also the last node that requests are sent to
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct SwitchoverFlags {
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// The node that is to lead: its name, the beginning of its id, or its address [default: the next in line]
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// How long it may take, in seconds (0 to 600)
    #[arg(long, default_value = "10", value_parser = wait, value_name = "SECONDS")]
    pub wait: Duration,
}

#[derive(Clone, Debug, Args)]
#[group(id = "awaited", required = true, multiple = true)]
pub struct Awaited {
    /// Exactly so many nodes are routed to
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// This node is routed to; may be repeated
    #[arg(long, value_parser = name, value_name = "NAME")]
    pub node: Vec<String>,
    /// No node with this address is registered; may be repeated
    #[arg(long, value_name = "IP")]
    pub gone: Vec<std::net::Ipv4Addr>,
    /// This Envoy is connected to the leader and has acknowledged what the registry says now; may be repeated
    #[arg(long, value_parser = name, value_name = "ID")]
    pub envoy: Vec<String>,
    /// A node leads
    #[arg(long)]
    pub leader: bool,
}

#[derive(Clone, Debug, Args)]
pub struct WaitFlags {
    #[command(flatten)]
    pub fleet: FleetFlags,
    #[command(flatten)]
    pub awaited: Awaited,
    /// How long at most, in seconds (0 to 600)
    #[arg(long, default_value = "60", value_parser = wait, value_name = "SECONDS")]
    pub timeout: Duration,
}
