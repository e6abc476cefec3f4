//! A leader that slept while another took over.

use std::time::Duration;

use anyhow::ensure;
use testbed::{Link, Testbed, eventually};
use tokio::time::{Instant, sleep, sleep_until};

use super::standin::StandIn;
use super::{LONG, SOON};

/// No candidate deposes a silent leader sooner: a ping's interval or time-out, probes, and the lease's word.
const DEPOSED: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_that_wakes_tells_nobody_anything() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let sleeper = bed.leader().await?;
            let lease = bed.node_key(sleeper).await?.lease;
            let node = bed.node(sleeper);
            node.pause()?;
            let asleep = Instant::now();
            // It cannot be told by etcd, neither then nor on waking: all it has is its doubt.
            node.link_etcd(Link::Silent);
            // By hand, because its lease has to be young still: by its own clock it may lead.
            bed.etcd.ctl(&["del", &format!("/muster/leader/{lease:x}")], None).await?;
            eventually(SOON, "another leads", async || {
                ensure!(bed.leader().await? != sleeper);
                Ok(())
            })
            .await?;
            sleep_until(asleep + DEPOSED).await;
            let waking = async {
                // The request is to lie in its socket when it wakes: nothing else comes before.
                sleep(Duration::from_millis(100)).await;
                node.resume()
            };
            let (told, woken) = tokio::join!(StandIn::connect(node.control, "early"), waking);
            woken?;
            ensure!(told.is_err(), "it tells an Envoy what it knew before it slept");
            node.link_etcd(Link::Open);
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.leader().await? != sleeper, "it leads again");
            Ok(())
        })
        .await
}
