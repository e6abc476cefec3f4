//! With real Envoys.

use std::time::Duration;

use anyhow::{bail, ensure};
use testbed::{Testbed, eventually};
use tokio::time::Instant;

use super::{LONG, Leaving, SOON};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leave_is_acknowledged_and_logged() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            let ip = bed.node(leaving.number).ip;
            leaving.result(bed, SOON).await?;
            ensure!(!bed.envoy().endpoints().await?.contains(&ip), "Envoy still routes to it");
            leaving.end(bed, "acknowledged", SOON).await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_answered_after_the_drain() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            leaving.result(bed, SOON).await?;
            // nginx quits from here on: its port is closed, which the agent's own probe must not take for a death.
            eventually(SOON, "its port is closed", async || {
                ensure!(bed.node(leaving.number).get("/healthz").await.is_err());
                Ok(())
            })
            .await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            leaving.end(bed, "acknowledged", SOON).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_stands_still_is_waited_for() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .envoys(2)
        .run(async |bed| {
            let number = bed.follower().await?;
            let ip = bed.node(number).ip;
            let silent = &bed.envoys()[1];
            silent.pause();
            let paused = Instant::now();
            let leaving = Leaving::begin(bed, number).await?;
            eventually(SOON, "the other Envoy knows", async || {
                ensure!(!bed.envoy().endpoints().await?.contains(&ip));
                Ok(())
            })
            .await?;
            // Its stream ends by a ping without an answer after a second at least, and is expected for one more:
            // until then nobody may say that it knows. The linger alone would be over in half a second.
            let held = Duration::from_millis(1000).saturating_sub(paused.elapsed());
            leaving.holds_for(bed, held).await?;
            silent.resume();
            leaving.result(bed, SOON).await?;
            ensure!(!silent.endpoints().await?.contains(&ip), "drained before the second Envoy knew");
            leaving.end(bed, "acknowledged", SOON).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_envoy_is_waited_for_no_longer_than_it_takes_to_reconnect() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .envoys(2)
        .run(async |bed| {
            bed.envoys()[1].kill().await?;
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            // Half a second of linger and one more for the Envoy: far from the bound.
            leaving.end(bed, "acknowledged", SOON).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_just_began_waits_for_an_envoy_it_has_not_met() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(Duration::from_secs(5))
        // Longer than the ten seconds in which a new leader does not say that there is no Envoy.
        .agent_arg("--drain-timeout")
        .agent_arg("30")
        .envoys(0)
        .run(async |bed| {
            let leader = bed.leader().await?;
            let began = Instant::now();
            let leaving = Leaving::begin(bed, bed.follower().await?).await?;
            // Ten seconds of its term are not over yet; the linger alone would be.
            leaving.holds_for(bed, Duration::from_millis(1200)).await?;
            leaving.end(bed, "acknowledged", LONG).await?;
            ensure!(bed.leader().await? == leader, "leadership moved after {:?}", began.elapsed());
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_a_leave_ends_at_its_bound_and_says_that_nobody_was_told() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let number = bed.follower().await?;
            bed.etcd.kill_all().await?;
            let exit = bed.stop_node(number).await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            let said = bed.node(number).said("drain over")?;
            ensure!(said.len() == 1, "{said:?}");
            let bound = bed.ttl() + Duration::from_secs(2);
            // What cannot be written is given up before the bound, and those on their way are served for the linger.
            let least = match said[0]["result"].as_str() {
                Some("timeout") => bound,
                Some("unannounced") => Duration::from_millis(500),
                _ => bail!("{}", said[0]),
            };
            let took = Duration::from_millis(said[0]["duration_ms"].as_u64().unwrap_or(u64::MAX));
            ensure!((least..bound + Duration::from_secs(1)).contains(&took), "{}", said[0]);
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_leaves_acknowledged_and_hands_over() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let leader = bed.leader().await?;
            Leaving::begin(bed, leader).await?.end(bed, "acknowledged", SOON).await?;
            bed.start_node(leader)?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.leader().await? != leader, "it leads again");
            Ok(())
        })
        .await
}
