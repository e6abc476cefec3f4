//! Both Envoys start while nobody leads: docs/decisions/two-envoys-one-namespace.md.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use testbed::{Testbed, eventually};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{AMPLE, ready, restarts, serves};

/// Twice as long as a silent Envoy would live.
const WAITING: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_port_opens_before_somebody_leads() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(2)
        .envoys(2)
        .supervised(&[])
        .run(async |bed| {
            for envoy in bed.envoys() {
                ready(envoy).await?;
            }
            bed.etcd.kill_all().await?;
            eventually(AMPLE, "nobody leads", async || {
                for node in bed.nodes() {
                    ensure!(node.metrics().await?.get("muster_leader") == Some(&0.0), "{} leads", node.name);
                }
                Ok(())
            })
            .await?;
            for envoy in bed.envoys() {
                ready(envoy).await?;
                envoy.signal_below(Signal::SIGKILL)?;
            }
            for envoy in bed.envoys() {
                eventually(AMPLE, "the new Envoy waits", async || {
                    ensure!(restarts(envoy, "ended").await? == 1.0);
                    let why = envoy.ask_supervisor("/readyz").await?.body;
                    let why = String::from_utf8_lossy(&why).into_owned();
                    ensure!(why.contains("waits for its configuration"), "{why}");
                    Ok(())
                })
                .await?;
            }
            let began = Instant::now();
            while began.elapsed() < WAITING {
                ensure!(TcpStream::connect(bed.envoy().edge).await.is_err(), "a port without a leader");
                for envoy in bed.envoys() {
                    ensure!(envoy.ask_supervisor("/livez").await?.status == 200);
                    let metrics = envoy.metrics().await?;
                    ensure!(metrics.get("muster_edge_envoy_up") == Some(&1.0), "waiting is no silence");
                    ensure!(metrics.get("muster_edge_envoy_ready") == Some(&0.0), "ready without a port");
                }
            }
            for envoy in bed.envoys() {
                ensure!(envoy.said("killing served process")?.is_empty(), "one that waits was killed");
            }
            bed.etcd.start_all()?;
            serves(bed).await?;
            for envoy in bed.envoys() {
                ready(envoy).await?;
                ensure!(restarts(envoy, "ended").await? == 1.0, "restarted once more");
            }
            Ok(())
        })
        .await
}
