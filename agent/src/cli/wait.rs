//! `muster wait`: for scripts, instead of sleeping.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::survey::{Access, EnvoyContact, contact};
use super::{FINE, TIMED_OUT, UNKNOWN};
use crate::config::{Awaited, WaitFlags};
use crate::fleet::EnvoyValue;
use crate::fleet::Roster;
use crate::registry::client::CallError;
use crate::registry::envoys::envoys;

const LOOK: Duration = Duration::from_millis(100);

/// Waits until all that was asked for is so at once.
///
/// # Errors
/// The runtime cannot be made, the certificates cannot be used, or standard output is closed.
pub fn run(flags: &WaitFlags) -> Result<u8> {
    super::block_on(async {
        let access = Access::open(&flags.fleet).await?;
        let started = Instant::now();
        loop {
            let (missing, code) = match look(&access, &flags.awaited).await {
                Ok(missing) => (missing, TIMED_OUT),
                Err(error) => (vec![error.to_string()], UNKNOWN),
            };
            if missing.is_empty() {
                writeln!(std::io::stdout(), "after {:.1} s", started.elapsed().as_secs_f64())?;
                return Ok(FINE);
            }
            if started.elapsed() >= flags.timeout {
                tracing::error!(name: "waited-in-vain", missing = missing.join("; "), "waited in vain");
                return Ok(code);
            }
            sleep(LOOK).await;
        }
    })
}

async fn look(access: &Access, awaited: &Awaited) -> Result<Vec<String>, CallError> {
    // Envoys first: what is younger than they are can only be missed for one look.
    let envoys = match awaited.envoy.is_empty() {
        true => BTreeMap::new(),
        false => envoys(&access.etcd, &access.space).await?,
    };
    let (roster, _) = access.roster().await?;
    let mut missing = missing(awaited, &roster);
    missing.extend(awaited.envoy.iter().filter_map(|id| behind(id, envoys.get(id), &roster)));
    Ok(missing)
}

/// Why an Envoy is not in touch with the one that leads, or behind what it is told.
fn behind(id: &str, record: Option<&EnvoyValue>, roster: &Roster) -> Option<String> {
    let Some(envoy) = record else { return Some(format!("no leader has met envoy {id}")) };
    match contact(envoy, roster) {
        EnvoyContact::Gone => Some(format!("envoy {id} is not connected")),
        EnvoyContact::Unmet => Some(format!("envoy {id} is not connected to the one that leads")),
        EnvoyContact::Connected if envoy.digest.as_deref() != Some(&*roster.digest()) => {
            Some(format!("envoy {id} has not acknowledged the list"))
        }
        EnvoyContact::Connected => None,
    }
}

/// What is not as awaited of the nodes, in words.
fn missing(awaited: &Awaited, roster: &Roster) -> Vec<String> {
    let rows = roster.rows();
    let routed: Vec<&str> =
        rows.iter().filter(|row| row.routable).map(|row| row.node.name.as_str()).collect();
    let mut missing = Vec::new();
    if let Some(count) = awaited.count.filter(|count| *count != routed.len()) {
        missing.push(format!("{} nodes are routed to, not {count}", routed.len()));
    }
    for name in awaited.node.iter().filter(|name| !routed.contains(&name.as_str())) {
        missing.push(format!("{name} is not routed to"));
    }
    for ip in awaited.gone.iter().filter(|ip| roster.nodes().any(|node| node.ip == **ip)) {
        missing.push(format!("{ip} is registered"));
    }
    if awaited.leader && roster.leader().is_none() {
        missing.push("nobody leads".into());
    }
    missing
}
