//! Processes that stand still: silence, which is nobody's death until the lease says so.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use testbed::observe::Sampler;
use testbed::{Testbed, eventually};

use super::{LONG, SOON, all_but, another_leads, nobody_is_reaped, one_is_reaped};

/// Silence takes two renewals that do not come: two thirds of the lease, and so less than all of it.
const TTL: Duration = Duration::from_secs(15);
const SILENT: Duration = Duration::from_secs(13);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_agent_beside_a_living_nginx_leaves_the_list_by_the_leases_word() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(TTL)
        .run(async |bed| {
            let number = bed.follower().await?;
            let (node, lease) = (bed.node(number), bed.node_key(number).await?.lease);
            node.signal_agent(Signal::SIGSTOP)?;
            // Its own list is not rewritten while it stands still, so only the others are asked.
            bed.lists_agree(SILENT, &all_but(bed, number)).await?;
            node.get("/healthz").await.context("nginx served on")?;
            one_is_reaped(bed).await?;
            node.signal_agent(Signal::SIGCONT)?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.node_key(number).await?.lease != lease, "it came back on the old lease");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_leader_is_deposed_and_comes_back_at_the_end_of_the_line() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(TTL)
        .run(async |bed| {
            let leader = bed.leader().await?;
            bed.node(leader).signal_agent(Signal::SIGSTOP)?;
            let next = another_leads(bed, leader, SILENT).await?;
            // Its nginx answers: only the leadership was taken.
            ensure!(bed.node_key(leader).await.is_ok(), "reaped beside a living nginx");
            bed.add_node().await?;
            eventually(SOON, "a change reaches Envoy", async || {
                let ip = bed.nodes()[3].ip;
                ensure!(bed.envoy().endpoints().await?.contains(&ip));
                Ok(())
            })
            .await?;
            bed.node(leader).signal_agent(Signal::SIGCONT)?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.leader().await? == next, "leadership moved when it came back");
            eventually(SOON, "it is a candidate again, the last", async || {
                let line = bed.line().await?;
                ensure!(line.last() == Some(&leader), "{line:?}");
                Ok(())
            })
            .await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_leaves_before_its_lease_ends_and_wakes_with_another() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(TTL)
        .run(async |bed| {
            let number = bed.follower().await?;
            let lease = bed.node_key(number).await?.lease;
            bed.node(number).pause()?;
            bed.lists_agree(SILENT, &bed.up()).await?;
            bed.agreement(LONG, &bed.up()).await?;
            bed.node(number).resume()?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.node_key(number).await?.lease != lease, "it acts on the lease it was reaped with");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nap_between_two_renewals_changes_no_list() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(TTL)
        .run(async |bed| {
            let (leader, follower) = (bed.leader().await?, bed.follower().await?);
            let sampler = Sampler::start(bed.nodes());
            for number in [follower, leader] {
                let lease = format!("{:x}", bed.node_key(number).await?.lease);
                eventually(SOON, "its lease is renewed", async || {
                    let said = bed.etcd.ctl(&["lease", "timetolive", &lease], None).await?;
                    let said = String::from_utf8(said)?;
                    let fresh = format!("remaining({}s)", TTL.as_secs() - 1);
                    ensure!(said.contains(&fresh), "{said}");
                    Ok(())
                })
                .await?;
                bed.node(number).pause()?;
                // Longer than pings and probes are waited for, and over before the next renewal is late.
                tokio::time::sleep(TTL / 4).await;
                bed.node(number).resume()?;
                // The streams its sleep has broken are made anew before the next.
                tokio::time::sleep(TTL / 8).await;
            }
            bed.agreement(SOON, &bed.up()).await?;
            nobody_is_reaped(bed)?;
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_is_replaced_before_its_lease_ends() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(TTL)
        .run(async |bed| {
            let leader = bed.leader().await?;
            bed.node(leader).pause()?;
            bed.lists_agree(SILENT, &bed.up()).await?;
            // Envoy may try the frozen one again, three seconds each time, before it finds who leads.
            bed.agreement(LONG, &bed.up()).await?;
            let next = another_leads(bed, leader, SOON).await?;
            bed.node(leader).resume()?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.leader().await? == next, "leadership moved back");
            Ok(())
        })
        .await
}
