//! The real parts without an agent: what the other tests stand on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use testbed::address::Addresses;
use testbed::envoy::Envoy;
use testbed::etcd::Etcd;
use testbed::eventually;
use testbed::process::Keeper;
use testbed::programs::Programs;

const PATIENCE: Duration = Duration::from_secs(20);

fn parts() -> anyhow::Result<(Programs, Arc<Keeper>, Addresses)> {
    let programs = Programs::find()?;
    let keeper = Keeper::start(&programs.testbed)?;
    let addresses = Addresses::new(keeper.range)?;
    Ok((programs, keeper, addresses))
}

async fn etcd(members: u8) -> anyhow::Result<Etcd> {
    let (programs, keeper, addresses) = parts()?;
    let etcd = Etcd::new(members, addresses, programs, keeper);
    etcd.start_all()?;
    etcd.healthy(PATIENCE).await?;
    Ok(etcd)
}

#[tokio::test]
async fn etcd_goes_on_with_two_of_three_and_knows_its_leader() -> anyhow::Result<()> {
    let etcd = etcd(3).await?;
    let leader = etcd.leader().await?;
    etcd.kill(leader).await?;
    etcd.healthy(PATIENCE).await?;
    let next = etcd.leader().await?;
    ensure!(next != leader, "member {leader} is dead and leads");
    etcd.start(leader)?;
    etcd.healthy(PATIENCE).await
}

#[tokio::test]
async fn a_wipe_and_a_restore_change_the_history() -> anyhow::Result<()> {
    let etcd = etcd(1).await?;
    let lease = etcd.grant(Duration::from_secs(60)).await?;
    etcd.ctl(&["put", "/one", "old", &format!("--lease={lease}")], None).await?;
    let snapshot = etcd.snapshot().await?;
    etcd.ctl(&["put", "/one"], Some(b"\"new\nline\"")).await?;
    let range = etcd.get_prefix("/").await?;
    assert_eq!((range.keys[0].value.as_slice(), range.keys[0].lease), (&b"\"new\nline\""[..], 0));
    etcd.restore(&snapshot).await?;
    let restored = etcd.get_prefix("/").await?;
    assert_eq!(restored.keys[0].value, b"old");
    assert_eq!(format!("{:x}", restored.keys[0].lease), lease.trim_start_matches('0'));
    ensure!(restored.revision < range.revision);
    etcd.wipe().await?;
    ensure!(etcd.get_prefix("/").await?.keys.is_empty());
    Ok(())
}

#[tokio::test]
async fn envoy_without_an_agent_opens_no_public_port() -> anyhow::Result<()> {
    let (programs, keeper, addresses) = parts()?;
    let envoy = Envoy::new(1, addresses.edge(), addresses, &programs, &keeper);
    envoy.start()?;
    // An agent that refuses connections: Envoy must ask for it, so the file it watches is understood.
    envoy.set_agents(&[std::net::SocketAddrV4::new(addresses.ip(1), addresses.ports.control)])?;
    eventually(PATIENCE, "Envoy asks the agent in vain", async || {
        let stats = envoy.stats("^cluster.xds.upstream_cx_connect_fail$").await?;
        ensure!(stats.values().sum::<u64>() > 0, "{stats:?}");
        Ok(())
    })
    .await?;
    ensure!(envoy.get("/").await.is_err(), "the edge is open");
    envoy.kill().await
}
