//! nginx dies or hangs while its agent lives.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use testbed::{Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nginx_is_withdrawn_restarted_and_registered_again() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let number = bed.follower().await?;
            let (before, agent) = (bed.node_key(number).await?, bed.node(number).agent()?.pid);
            bed.node(number).signal_nginx(Signal::SIGKILL)?;
            eventually(SOON, "the key was deleted and made anew", async || {
                let after = bed.node_key(number).await?;
                ensure!(after.create_revision > before.create_revision, "still {after:?}");
                Ok(())
            })
            .await?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.node(number).agent()?.pid == agent, "the agent was replaced");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_nginx_dies_stays_a_candidate() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let leader = bed.leader().await?;
            let before = bed.node_key(leader).await?;
            bed.node(leader).signal_nginx(Signal::SIGKILL)?;
            eventually(SOON, "the key was deleted and made anew", async || {
                ensure!(bed.node_key(leader).await?.create_revision > before.create_revision);
                Ok(())
            })
            .await?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.leader().await? == leader, "leadership moved for a restart of nginx");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_nginx_is_withdrawn_and_replaced() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let number = bed.follower().await?;
            let frozen = bed.node(number).nginx_pids()?;
            bed.node(number).signal_nginx(Signal::SIGSTOP)?;
            // It accepts connections all the time: only a request tells.
            eventually(SOON, "it is withdrawn", async || {
                ensure!(!bed.node(number).said("withdrawn: the served process does not answer")?.is_empty());
                Ok(())
            })
            .await?;
            bed.agreement(Duration::from_secs(10), &bed.up()).await?;
            let now = bed.node(number).nginx_pids()?;
            ensure!(
                !now.is_empty() && now.iter().all(|pid| !frozen.contains(pid)),
                "{frozen:?} became {now:?}"
            );
            Ok(())
        })
        .await
}
