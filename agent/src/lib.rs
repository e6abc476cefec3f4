//! muster: roll call for an nginx fleet.
//!
//! One room a folder; docs/architecture.md says what lives where and who may import whom. From the top down:
//!
//! - [`node`], [`edge`] and [`cli`] are what the program can be run as: a node, the PID 1 of an Envoy, a command.
//! - [`registry`] knows etcd, [`envoy`] knows Envoy, [`nginx`] knows nginx; [`presence`] finds dead nodes, [`page`] writes
//!   the list, [`pki`] has the certificates, [`process`] starts, asks and ends processes.
//! - [`fleet`] is the fleet as a value: pure, and known to all of them.

pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod edge;
pub mod envoy;
pub mod fleet;
pub mod http;
pub mod latest;
pub mod log;
pub mod metrics;
pub mod nginx;
pub mod node;
pub mod page;
pub mod pki;
pub mod presence;
pub mod process;
pub mod registry;
pub mod replace;

/// The commit this was built from, where the build knew it.
pub const REVISION: &str = match option_env!("MUSTER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
