//! Agents that do not reach each other, and all reach etcd: nobody is dead.

use std::time::Duration;

use anyhow::ensure;
use testbed::observe::Sampler;
use testbed::{Builder, Link, Testbed, eventually};

use super::{SOON, another_leads, nobody_is_reaped, reaped};

/// Short, because what silence leads to is bounded by it.
const TTL: Duration = Duration::from_secs(4);

fn fleet() -> Builder {
    Testbed::builder().linked().ttl(TTL)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_its_nodes_resigns_and_nobody_is_reaped() -> anyhow::Result<()> {
    fleet()
        .nodes(4)
        .run(async |bed| {
            let leader = bed.leader().await?;
            let sampler = Sampler::start(bed.nodes());
            for other in bed.nodes().iter().filter(|node| node.number != leader) {
                bed.link_between(leader, other.number, Link::Silent)?;
            }
            another_leads(bed, leader, TTL * 3).await?;
            // Whoever leads now cannot reach the old leader: it never did, which is no crash.
            tokio::time::sleep(TTL * 3 / 2).await;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(reaped(bed)?.iter().all(|line| line["role"] == "Leader"), "{:?}", reaped(bed)?);
            for seen in sampler.finish() {
                ensure!(seen.fewest == 4 && seen.broken.is_empty(), "{seen:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_cut_off_from_the_leader_alone_stays_listed() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let (leader, follower) = (bed.leader().await?, bed.follower().await?);
            let sampler = Sampler::start(bed.nodes());
            bed.link_between(leader, follower, Link::Silent)?;
            eventually(TTL * 2, "the leader has looked into it", async || {
                let said = bed.node(leader).said("silent although its lease is renewed: left alone")?;
                ensure!(!said.is_empty());
                Ok(())
            })
            .await?;
            ensure!(bed.leader().await? == leader, "one follower deposed a leader that all others reach");
            bed.link_between(leader, follower, Link::Open)?;
            bed.agreement(SOON, &bed.up()).await?;
            nobody_is_reaped(bed)?;
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_beside_a_living_nginx_costs_nobody_the_list() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let (leader, follower) = (bed.leader().await?, bed.follower().await?);
            let sampler = Sampler::start(bed.nodes());
            bed.node(leader).link_control_from(bed.node(follower), Link::Cut)?;
            eventually(SOON, "the leader has noticed", async || {
                let said = bed.node(leader).said("presence ended without a goodbye")?;
                ensure!(!said.is_empty());
                Ok(())
            })
            .await?;
            tokio::time::sleep(TTL).await;
            bed.node(leader).link_control_from(bed.node(follower), Link::Open)?;
            bed.agreement(SOON, &bed.up()).await?;
            // A control port that refuses is taken for a leader's end: that may move the leadership, once.
            let said = reaped(bed)?;
            ensure!(said.len() <= 1 && said.iter().all(|line| line["role"] == "Leader"), "{said:?}");
            for seen in sampler.finish() {
                ensure!(seen.fewest == 3 && seen.broken.is_empty(), "{seen:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_that_arrive_late_are_no_silence() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let leader = bed.leader().await?;
            let sampler = Sampler::start(bed.nodes());
            // Longer than any question waits, so only the streams themselves say that everybody lives.
            for other in bed.nodes().iter().filter(|node| node.number != leader) {
                bed.link_between(leader, other.number, Link::Delayed(Duration::from_millis(200)))?;
            }
            tokio::time::sleep(TTL * 2).await;
            ensure!(bed.leader().await? == leader, "slow links moved the leadership");
            nobody_is_reaped(bed)?;
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_stream_costs_nobody_the_list() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let (leader, follower) = (bed.leader().await?, bed.follower().await?);
            let sampler = Sampler::start(bed.nodes());
            // The leader hears the follower, and the follower never hears the leader.
            bed.node(leader).link_from(bed.node(follower), Link::Deaf)?;
            eventually(TTL * 2, "the follower has looked into its leader", async || {
                let said = bed.node(follower).said("presence at the leader ended")?;
                ensure!(!said.is_empty());
                Ok(())
            })
            .await?;
            tokio::time::sleep(TTL).await;
            ensure!(
                bed.leader().await? == leader,
                "one that hears nothing deposed a leader that all others hear"
            );
            bed.node(leader).link_from(bed.node(follower), Link::Open)?;
            bed.agreement(SOON, &bed.up()).await?;
            nobody_is_reaped(bed)?;
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}
