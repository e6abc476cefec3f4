//! Two Envoys on one port, in a network where the kernel hands connections on that a closed listener had not taken.

use anyhow::ensure;
use nix::sys::signal::Signal;
use testbed::envoy::Envoy;
use testbed::network::alone;
use testbed::observe::Traffic;
use testbed::{Testbed, eventually};

use super::{AMPLE, LARGE, UnderWay, ready};

/// Clients that ask at once.
const CLIENTS: usize = 4;
/// Answers that prove something went on meanwhile.
const SOME: u64 = 20;

/// Connections that were ever taken at the public port.
async fn taken(envoy: &Envoy) -> anyhow::Result<u64> {
    Ok(envoy.stats(r"^http\.edge\.downstream_cx_total$").await?.into_values().sum())
}

async fn under_way(envoy: &Envoy) -> anyhow::Result<u64> {
    Ok(envoy.stats(r"^http\.edge\.downstream_rq_active$").await?.into_values().sum())
}

#[test]
fn nobody_notices_that_one_of_two_is_stopped() -> anyhow::Result<()> {
    alone(|| {
        Testbed::builder().nodes(2).envoys(2).supervised(&[]).run(async |bed| {
            for envoy in bed.envoys() {
                ready(envoy).await?;
            }
            let clients: Vec<Traffic> = (0..CLIENTS).map(|_| Traffic::start(bed.envoy().edge)).collect();
            for (one, other) in [(0, 1), (1, 0)] {
                let (one, other) = (&bed.envoys()[one], &bed.envoys()[other]);
                let before = [taken(one).await?, taken(other).await?];
                eventually(AMPLE, "both are asked", async || {
                    ensure!(taken(one).await? > before[0] + SOME && taken(other).await? > before[1] + SOME);
                    Ok(())
                })
                .await?;
                let exit = one.stop().await?;
                ensure!(exit.code == Some(0), "{exit:?}");
                let before = taken(other).await?;
                eventually(AMPLE, "the other goes on", async || {
                    ensure!(taken(other).await? > before + SOME);
                    Ok(())
                })
                .await?;
                one.start()?;
                ready(one).await?;
            }
            for client in clients {
                let answers = client.finish().await;
                ensure!(answers.failures.is_empty(), "of {}: {:?}", answers.asked, answers.failures);
            }
            Ok(())
        })
    })
}

#[test]
fn new_connections_go_to_the_other_while_one_finishes_its_last() -> anyhow::Result<()> {
    alone(|| {
        let builder = Testbed::builder().nodes(1).envoys(2).site_file("large", LARGE);
        builder.supervised(&["--drain-timeout", "60"]).run(async |bed| {
            for envoy in bed.envoys() {
                ready(envoy).await?;
            }
            let mut large = UnderWay::begin(bed.envoy()).await?;
            let first = under_way(bed.envoy()).await? > 0;
            let (one, other) = if first { (0, 1) } else { (1, 0) };
            let (one, other) = (&bed.envoys()[one], &bed.envoys()[other]);
            one.process()?.signal(Signal::SIGTERM);
            eventually(AMPLE, "its listeners are closed", async || {
                let stopped = one.stats(r"^listener_manager\.listener_stopped$").await?;
                ensure!(stopped.into_values().sum::<u64>() > 0);
                Ok(())
            })
            .await?;
            let before = [taken(one).await?, taken(other).await?];
            for _ in 0..SOME {
                large.go_on().await?;
                ensure!(other.get("/ips.json").await?.status == 200);
            }
            ensure!(taken(one).await? == before[0], "it still takes connections");
            ensure!(taken(other).await? >= before[1] + SOME, "the other was not asked");
            large.finish().await?;
            let exit = one.process()?.ended(AMPLE).await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            Ok(())
        })
    })
}
