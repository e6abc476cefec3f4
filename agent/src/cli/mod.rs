//! The other subcommands, one file each.

pub mod check;
mod diagnosis;
pub mod drain;
pub mod events;
pub mod healthcheck;
pub mod pki;
mod select_node;
pub mod status;
mod survey;
pub mod switchover;
pub mod verify;
pub mod wait;

use std::future::Future;

use crate::clock::unix_now;
use crate::config::RegistryFlags;
use crate::metrics::Metrics;
use crate::pki::Wrong;
use crate::pki::tls::{Needs, Tls};
use crate::registry::client::Etcd;

/// Exit codes, the same for all commands; 2 is a wrong command line, 130 an interrupt.
const FINE: u8 = 0;
const FAILED: u8 = 1;
/// Known, and not as it should be.
const DIFFERENT: u8 = 3;
/// Cannot be known: no majority of etcd, no answer.
const UNKNOWN: u8 = 4;
/// Waited in vain.
const TIMED_OUT: u8 = 5;

/// Prints the version and the commit it was built from.
///
/// # Errors
/// Standard output is closed.
pub fn version() -> anyhow::Result<u8> {
    use std::io::Write;
    writeln!(std::io::stdout(), "muster {}", crate::VERSION)?;
    Ok(FINE)
}

/// Prints a completion script.
///
/// # Errors
/// Standard output is closed.
pub fn completion(shell: clap_complete::Shell) -> anyhow::Result<u8> {
    use clap::CommandFactory;
    use std::io::Write;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::config::Cli::command(), "muster", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(FINE)
}

/// The registry as the flags have it, for one command, whose metrics are not exported.
fn registry(flags: &RegistryFlags) -> Result<Etcd, Wrong> {
    let tls = flags.tls_dir.as_ref().map(|dir| Tls::load(dir, Needs::Etcd, unix_now())).transpose()?;
    Ok(Etcd::new(&flags.etcd, 0, tls, Metrics::new("", "")))
}

fn block_on(command: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    // Without waiting for a resolver that is still looking for the name of a member that has ended.
    runtime.shutdown_background();
    outcome
}

/// The registry is silent, which is no answer to any question.
fn unanswered(error: &crate::registry::client::CallError) -> u8 {
    tracing::error!(
        name: "the-registry-does-not-answer",
        %error,
        "the registry does not answer: nothing can be said"
    );
    UNKNOWN
}
