//! muster: roll call for an nginx fleet.

pub mod agent;
pub mod backoff;
pub mod balancer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod edge;
pub mod fleet;
pub mod http;
pub mod latest;
pub mod log;
pub mod metrics;
pub mod page;
pub mod peers;
pub mod pki;
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
