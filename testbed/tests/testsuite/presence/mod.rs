//! A crash is noticed by the closed stream, silence by the lease's word, and nobody is taken for dead who lives.
//!
//! The leases here are long: what happens in a small part of one was not its end.

mod crash;
mod hung;
mod join;
mod reuse;
mod severed;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::ensure;
use testbed::{Testbed, eventually};

/// Bound of what needs no lease to end.
const SOON: Duration = Duration::from_secs(10);
/// A lease that plays no part within a test.
const LONG: Duration = Duration::from_secs(20);
/// What a closed stream is noticed within, on a busy machine too: long before the lease. `make bench` measures it.
const CLOSED: Duration = Duration::from_secs(8);

/// Addresses of all nodes but one, sorted.
fn all_but(bed: &Testbed, number: u8) -> Vec<Ipv4Addr> {
    let own = bed.node(number).ip;
    bed.up().into_iter().filter(|ip| *ip != own).collect()
}

async fn another_leads(bed: &Testbed, than: u8, patience: Duration) -> anyhow::Result<u8> {
    eventually(patience, "another node leads", async || {
        let leader = bed.leader().await?;
        ensure!(leader != than, "node{than} still leads");
        Ok(leader)
    })
    .await
}

/// The one line that says that somebody was reaped: written after the registry knows, and so after the lists do.
async fn one_is_reaped(bed: &Testbed) -> anyhow::Result<serde_json::Value> {
    eventually(SOON, "the log says who was reaped", async || {
        let mut said = reaped(bed)?;
        ensure!(said.len() == 1, "{said:?}");
        Ok(said.remove(0))
    })
    .await
}

/// Lines of all agents' logs that say that somebody was reaped.
fn reaped(bed: &Testbed) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut all = Vec::new();
    for node in bed.nodes() {
        all.extend(node.said("reaped")?);
    }
    Ok(all)
}

fn nobody_is_reaped(bed: &Testbed) -> anyhow::Result<()> {
    let said = reaped(bed)?;
    ensure!(said.is_empty(), "{said:?}");
    Ok(())
}
