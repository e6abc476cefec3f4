//! Many leave at once, under traffic.

use anyhow::ensure;
use nix::sys::signal::Signal;
use testbed::observe::Traffic;
use testbed::{Testbed, eventually};

use super::{LONG, SOON};

async fn all_but_one_leave(spared: impl AsyncFn(&Testbed) -> anyhow::Result<u8>) -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .nodes(6)
        .run(async |bed| {
            eventually(SOON, "the edge answers", async || bed.list_via_envoy().await).await?;
            let spared = spared(bed).await?;
            let clients = [Traffic::start(bed.envoy().edge), Traffic::start(bed.envoy().edge)];
            let leaving: Vec<_> = bed.nodes().iter().filter(|node| node.number != spared).collect();
            for node in &leaving {
                node.signal_agent(Signal::SIGTERM)?;
            }
            for node in &leaving {
                let exit = node.ended().await?;
                let said = node.said("drain over")?;
                ensure!(exit.code == Some(0), "{} ended with {exit:?}", node.name);
                ensure!(said.len() == 1 && said[0]["result"] == "acknowledged", "{}: {said:?}", node.name);
            }
            bed.agreement(SOON, &bed.up()).await?;
            for client in clients {
                let answers = client.finish().await;
                ensure!(answers.failures.is_empty(), "{answers:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_of_six_leave_at_once_and_no_request_fails() -> anyhow::Result<()> {
    // The leader is among them.
    all_but_one_leave(async |bed| bed.follower().await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_followers_of_six_leave_at_once_and_no_request_fails() -> anyhow::Result<()> {
    all_but_one_leave(async |bed| bed.leader().await).await
}
