//! The other subcommands, one file each.

pub mod healthcheck;
pub mod pki;
pub mod status;

use crate::config::RegistryFlags;
use crate::metrics::Metrics;
use crate::pki::Wrong;
use crate::pki::follow::unix_now;
use crate::pki::tls::{Needs, Tls};
use crate::registry::etcd::Etcd;

/// Prints the version.
///
/// # Errors
/// Standard output is closed.
pub fn version() -> anyhow::Result<u8> {
    use std::io::Write;
    writeln!(std::io::stdout(), "muster {}", crate::VERSION)?;
    Ok(0)
}

/// The registry as the flags have it, for one command: nobody reads what is counted.
fn registry(flags: &RegistryFlags) -> Result<Etcd, Wrong> {
    let tls = flags.tls_dir.as_ref().map(|dir| Tls::load(dir, Needs::Etcd, unix_now())).transpose()?;
    Ok(Etcd::new(&flags.etcd, 0, tls, Metrics::new("", "")))
}
