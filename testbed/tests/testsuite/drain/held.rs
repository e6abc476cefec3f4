//! With a stand-in that says when it acknowledges: what exactly holds a drain, and what lets it go.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use testbed::{Builder, Testbed, eventually};
use tokio::time::Instant;

use super::standin::StandIn;
use super::{LONG, Leaving, SOON};

/// Longer than a drain that nothing holds takes: its linger is half a second.
const HELD: Duration = Duration::from_millis(1200);

/// One real Envoy, which acknowledges at once, beside the stand-in.
fn fleet() -> Builder {
    Testbed::builder().ttl(LONG)
}

async fn leader(bed: &Testbed) -> anyhow::Result<SocketAddrV4> {
    Ok(bed.node(bed.leader().await?).control)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_that_never_comes_is_given_up_at_the_bound() -> anyhow::Result<()> {
    fleet()
        .ttl(Duration::from_secs(2))
        .run(async |bed| {
            let mut silent = StandIn::settled(leader(bed).await?, "silent").await?;
            let began = Instant::now();
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            let ip = bed.node(leaving.number).ip;
            ensure!(!silent.told().await?.ips.contains(&ip));
            leaving.end(bed, "timeout", LONG).await?;
            let bound = bed.ttl() + Duration::from_secs(2);
            ensure!(began.elapsed() >= bound, "given up after {:?}", began.elapsed());
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_acknowledgement_is_waited_for() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let mut slow = StandIn::settled(leader(bed).await?, "slow").await?;
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            let push = slow.told().await?;
            ensure!(!push.ips.contains(&bed.node(leaving.number).ip), "{:?}", push.ips);
            leaving.holds_for(bed, HELD).await?;
            slow.acknowledge(push).await?;
            leaving.end(bed, "acknowledged", SOON).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leave_that_changes_no_endpoint_is_acknowledged_without_a_push() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let mut envoy = StandIn::settled(leader(bed).await?, "still").await?;
            let number = bed.follower().await?;
            let node = bed.node(number);
            let mark = format!("/muster/marks/{}", node.name);
            bed.etcd
                .ctl(&["put", &mark, r#"{"v":1,"since":"2026-01-01T00:00:00Z","why":"test"}"#], None)
                .await?;
            let push = envoy.told().await?;
            ensure!(!push.ips.contains(&node.ip), "a marked node is routed to: {:?}", push.ips);
            envoy.acknowledge(push).await?;
            // Nothing is routed to it already.
            let leaving = Leaving::begin(bed, number).await?;
            leaving.end(bed, "acknowledged", SOON).await?;
            ensure!(envoy.hears_nothing_for(Duration::from_millis(50)).await, "pushed for nothing");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_has_not_asked_for_endpoints_holds_the_drain() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let mut fresh = StandIn::connect(leader(bed).await?, "fresh").await?;
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            leaving.holds_for(bed, HELD).await?;
            let push = fresh.subscribe().await?;
            ensure!(!push.ips.contains(&bed.node(leaving.number).ip), "{:?}", push.ips);
            leaving.holds_for(bed, HELD).await?;
            fresh.acknowledge(push).await?;
            leaving.end(bed, "acknowledged", SOON).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_leave_and_one_acknowledgement_is_outstanding() -> anyhow::Result<()> {
    fleet()
        .nodes(4)
        .run(async |bed| {
            let mut slow = StandIn::settled(leader(bed).await?, "slow").await?;
            let followers: Vec<u8> = bed.line().await?.into_iter().skip(1).collect();
            let first = Leaving::begin(bed, followers[0]).await?;
            let push = slow.told().await?;
            let second = Leaving::begin(bed, followers[1]).await?;
            // What came meanwhile waits for the first answer.
            slow.acknowledge(push).await?;
            let push = slow.told().await?;
            let gone = [first.number, second.number].map(|number| bed.node(number).ip);
            ensure!(gone.iter().all(|ip| !push.ips.contains(ip)), "{gone:?} in {:?}", push.ips);
            // The first acknowledgement did not cover the second leave.
            second.holds_for(bed, HELD).await?;
            slow.acknowledge(push).await?;
            first.end(bed, "acknowledged", SOON).await?;
            second.end(bed, "acknowledged", SOON).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_waits_for_the_envoy_its_predecessor_knew() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let old = bed.leader().await?;
            let mut slow = StandIn::settled(bed.node(old).control, "slow").await?;
            eventually(SOON, "the leader has written whom it knows", async || {
                let known = bed.etcd.get_prefix("/muster/envoys/slow").await?.keys;
                ensure!(!known.is_empty());
                Ok(())
            })
            .await?;
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            let ip = bed.node(leaving.number).ip;
            slow.told().await?;
            bed.kill_node(old).await?;
            eventually(SOON, "another leads, and Envoy has come to it", async || {
                let leader = bed.leader().await?;
                ensure!(leader != old);
                let streams = bed.node(leader).metrics().await?.get("muster_xds_streams").copied();
                ensure!(streams == Some(1.0), "{streams:?} streams");
                Ok(())
            })
            .await?;
            leaving.holds_for(bed, HELD).await?;
            let mut slow = StandIn::connect(leader(bed).await?, "slow").await?;
            leaving.holds_for(bed, HELD).await?;
            let push = slow.subscribe().await?;
            ensure!(!push.ips.contains(&ip), "{:?}", push.ips);
            slow.acknowledge(push).await?;
            leaving.end(bed, "acknowledged", SOON).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_leaves_leads_until_it_is_acknowledged() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let number = bed.leader().await?;
            let mut slow = StandIn::settled(bed.node(number).control, "slow").await?;
            let leaving = Leaving::begin(bed, number).await?;
            let push = slow.told().await?;
            leaving.holds_for(bed, HELD).await?;
            ensure!(bed.leader().await? == number, "it resigned before its leave was acknowledged");
            slow.acknowledge(push).await?;
            leaving.end(bed, "acknowledged", SOON).await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_key_deleted_while_draining_is_not_repaired() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let mut slow = StandIn::settled(leader(bed).await?, "slow").await?;
            let number = bed.follower().await?;
            let leaving = Leaving::begin(bed, number).await?;
            let push = slow.told().await?;
            let key = bed.node_key(number).await?.key;
            bed.etcd.ctl(&["del", &key], None).await?;
            leaving.holds_for(bed, HELD).await?;
            ensure!(bed.node_key(number).await.is_err(), "registered again while leaving");
            slow.acknowledge(push).await?;
            leaving.end(bed, "acknowledged", SOON).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_the_wait() -> anyhow::Result<()> {
    fleet()
        .run(async |bed| {
            let _silent = StandIn::settled(leader(bed).await?, "silent").await?;
            let number = bed.follower().await?;
            let node = bed.node(number);
            // Without a request under way: it would only be cut off.
            node.signal_agent(Signal::SIGTERM)?;
            eventually(SOON, "it drains", async || {
                ensure!(!node.said("draining")?.is_empty());
                Ok(())
            })
            .await?;
            node.signal_agent(Signal::SIGTERM)?;
            let began = Instant::now();
            let exit = node.ended().await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            ensure!(began.elapsed() < bed.ttl() / 2, "it waited on for {:?}", began.elapsed());
            let said = node.said("drain over")?;
            ensure!(said.len() == 1 && said[0]["result"] == "forced", "{said:?}");
            ensure!(bed.node_key(number).await.is_err(), "its key outlived it");
            Ok(())
        })
        .await
}
