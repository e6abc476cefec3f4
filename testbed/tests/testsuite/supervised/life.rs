//! From start to start.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use testbed::http::get;
use testbed::{Testbed, eventually};

use super::{AMPLE, ready, restarts, serves};

/// Generous: two seconds of silence, and a start.
const RECOVERED: Duration = Duration::from_secs(10);
/// What `prometheus/prometheus.yaml` waits for an answer.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_envoy_is_killed_and_serves_again() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(1)
        .supervised(&[])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let (frozen, before) = (envoy.below()?, restarts(envoy, "silent").await?);
            let began = Instant::now();
            envoy.signal_below(Signal::SIGSTOP)?;
            eventually(AMPLE, "another Envoy runs", async || {
                ensure!(envoy.below()? != frozen && restarts(envoy, "silent").await? == before + 1.0);
                Ok(())
            })
            .await?;
            ready(envoy).await?;
            serves(bed).await?;
            let took = began.elapsed();
            println!("frozen, found, killed, started, serves: {:.1} s", took.as_secs_f64());
            ensure!(took < RECOVERED, "it took {took:?}");
            let killed = envoy.said("killing served process")?;
            ensure!(killed.len() == 1 && killed[0]["reason"] == "it does not answer", "{killed:?}");
            ensure!(!envoy.said("envoy is not ready")?.is_empty(), "nobody said that it was not ready");
            ensure!(restarts(envoy, "ended").await? == 0.0, "counted twice");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_envoy_is_started_again_after_a_pause_that_grows() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(1)
        .supervised(&[])
        .run(async |bed| {
            let envoy = bed.envoy();
            let began = restarts(envoy, "ended").await?;
            for round in 1..=3 {
                ready(envoy).await?;
                let dead = envoy.below()?;
                envoy.signal_below(Signal::SIGKILL)?;
                eventually(AMPLE, "another Envoy runs", async || {
                    ensure!(envoy.below()? != dead);
                    ensure!(restarts(envoy, "ended").await? == began + f64::from(round));
                    Ok(())
                })
                .await?;
            }
            serves(bed).await?;
            let said = envoy.said("served process ended, starting again")?;
            ensure!(said.iter().all(|line| line["end"] == "signal 9 (SIGKILL)"), "{said:?}");
            let pauses: Option<Vec<u64>> = said.iter().map(|line| line["delay_ms"].as_u64()).collect();
            let pauses = pauses.context("no pause in the log")?;
            ensure!(pauses.len() == 3, "{pauses:?}");
            // Jittered between half and all of 100, 200 and 400 ms; one that ran for long begins anew.
            ensure!(pauses[2] >= 200 && pauses[2] <= 400 && pauses[0] <= 100, "{pauses:?}");
            ensure!(restarts(envoy, "silent").await? == 0.0, "counted twice");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_port_tells_envoys_metrics_and_its_own() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(1)
        .supervised(&[])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let metrics = envoy.metrics().await?;
            ensure!(
                metrics.keys().any(|name| name.starts_with("envoy_server_uptime")),
                "Envoy's are missing"
            );
            ensure!(metrics.get("muster_edge_envoy_up") == Some(&1.0), "it is not up");
            ensure!(metrics.get("muster_edge_envoy_ready") == Some(&1.0), "it is not ready");
            ensure!(envoy.ask_supervisor("/livez").await?.status == 200);
            ensure!(envoy.ask_supervisor("/quitquitquit").await?.status == 404, "Envoy can be stopped here");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_envoy_leaves_its_supervisors_metrics_readable() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(1)
        .supervised(&["--silence", "60"])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let frozen = envoy.below()?;
            envoy.signal_below(Signal::SIGSTOP)?;
            eventually(AMPLE, "a scraper is told that it is silent", async || {
                let answer = get(envoy.supervisor()?, "/metrics", SCRAPE_TIMEOUT).await?;
                let text = String::from_utf8(answer.body)?;
                ensure!(answer.status == 200, "status {}", answer.status);
                ensure!(text.lines().any(|line| line == "muster_edge_envoy_up 0"), "{text}");
                Ok(())
            })
            .await?;
            ensure!(envoy.below()? == frozen, "it was killed, and this has shown nothing");
            Ok(())
        })
        .await
}
