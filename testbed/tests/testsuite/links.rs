//! Nodes that sleep, and links that break, lag or go silent.

use std::time::Duration;

use anyhow::{Context, ensure};
use testbed::observe::Sampler;
use testbed::{Link, Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_slept_longer_than_its_lease_comes_back_with_another() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let number = bed.follower().await?;
            let lease = bed.node_key(number).await?.lease;
            bed.node(number).pause()?;
            bed.agreement(LEASE, &bed.up()).await?;
            bed.node(number).resume()?;
            bed.agreement(LEASE, &bed.up()).await?;
            ensure!(bed.node_key(number).await?.lease != lease, "an expired lease came back to life");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nap_shorter_than_the_lease_changes_no_list() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(Duration::from_secs(5))
        .run(async |bed| {
            let number = bed.follower().await?;
            let awake = bed.nodes().iter().filter(|node| node.number != number);
            let sampler = Sampler::start(awake);
            bed.node(number).pause()?;
            tokio::time::sleep(bed.ttl() / 4).await;
            bed.node(number).resume()?;
            tokio::time::sleep(bed.ttl()).await;
            bed.agreement(SOON, &bed.up()).await?;
            for seen in sampler.finish() {
                ensure!(seen.contents == 1, "{seen:?}");
            }
            Ok(())
        })
        .await
}

/// A node that cannot reach etcd: the others drop it when its lease ends, it keeps its last list and says so, and
/// when the link heals it is back.
async fn cut_off(fault: Link) -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            // The leader, so that giving up leadership in time is part of it.
            let number = bed.leader().await?;
            let all = bed.up();
            let others: Vec<_> = all.iter().copied().filter(|ip| *ip != bed.node(number).ip).collect();
            bed.node(number).link_etcd(fault);
            bed.lists_agree(LEASE, &others).await?;
            bed.envoys_know(LEASE, &others).await?;
            eventually(LEASE, "its own list is kept and marked stale", async || {
                let own = bed.node(number).list().await?.says;
                ensure!(own.ips == all, "it lists {:?}", own.ips);
                ensure!(own.stale_since.is_some(), "it is not stale");
                Ok(())
            })
            .await?;
            bed.node(number).link_etcd(Link::Open);
            bed.agreement(LEASE, &all).await?;
            Ok(())
        })
        .await
        .with_context(|| format!("{fault:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_from_etcd_is_dropped_keeps_its_list_and_returns() -> anyhow::Result<()> {
    cut_off(Link::Cut).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_link_to_etcd_is_noticed_too() -> anyhow::Result<()> {
    cut_off(Link::Silent).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_only_sends_is_noticed_too() -> anyhow::Result<()> {
    // What the node sends still arrives, renewals too. The other nodes may list it or drop it, and drop no other node. Its
    // own list stays, marked stale, until the link is open again.
    Testbed::builder()
        .run(async |bed| {
            let number = bed.follower().await?;
            let all = bed.up();
            let hearing = Sampler::start(bed.nodes().iter().filter(|node| node.number != number));
            let deaf = Sampler::start([bed.node(number)]);
            bed.node(number).link_etcd(Link::Deaf);
            eventually(LEASE, "its own list is marked stale", async || {
                ensure!(bed.node(number).list().await?.says.stale_since.is_some(), "it is not stale");
                Ok(())
            })
            .await?;
            ensure!(bed.node(number).list().await?.says.ips == all, "it has not kept its list");
            ensure!(bed.list_via_envoy().await?.says.count >= all.len() - 1, "the edge serves another list");
            let deaf = deaf.finish();
            ensure!(deaf[0].fewest == all.len() && deaf[0].broken.is_empty(), "{deaf:?}");
            bed.node(number).link_etcd(Link::Open);
            bed.agreement(LEASE, &all).await?;
            for seen in hearing.finish() {
                ensure!(seen.fewest >= all.len() - 1 && !seen.stale && seen.broken.is_empty(), "{seen:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_link_of_three_changes_nothing() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(Duration::from_secs(5))
        .run(async |bed| {
            let sampler = Sampler::start(bed.nodes());
            for member in bed.etcd.members().collect::<Vec<_>>() {
                for node in bed.nodes() {
                    node.link_etcd_member(member, Link::Cut)?;
                }
                tokio::time::sleep(bed.ttl() * 3 / 2).await;
                for node in bed.nodes() {
                    node.link_etcd_member(member, Link::Open)?;
                }
            }
            bed.agreement(SOON, &bed.up()).await?;
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_to_etcd_costs_time_and_nothing_else() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(Duration::from_secs(5))
        .run(async |bed| {
            let leader = bed.leader().await?;
            let sampler = Sampler::start(bed.nodes());
            for node in bed.nodes() {
                node.link_etcd(Link::Delayed(Duration::from_millis(200)));
            }
            tokio::time::sleep(bed.ttl() * 3 / 2).await;
            for seen in sampler.finish() {
                ensure!(seen.contents == 1 && !seen.stale, "{seen:?}");
            }
            bed.add_node().await?;
            bed.agreement(LEASE, &bed.up()).await?;
            ensure!(bed.leader().await? == leader, "leadership moved");
            Ok(())
        })
        .await
}
