//! Who comes when: every order of starting, and coming back after a mistake.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use testbed::Testbed;

use super::{CLOSED, LONG, SOON, nobody_is_reaped};

const START: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_may_come_last() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(0)
        .run(async |bed| {
            bed.etcd.kill_all().await?;
            for _ in 0..3 {
                bed.add_node().await?;
            }
            bed.etcd.start_all()?;
            bed.agreement(START, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_may_come_last_and_etcd_in_the_middle() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(0)
        .run(async |bed| {
            bed.envoy().kill().await?;
            bed.etcd.kill_all().await?;
            bed.add_node().await?;
            bed.etcd.start_all()?;
            bed.add_node().await?;
            bed.lists_agree(START, &bed.up()).await?;
            bed.envoy().start()?;
            bed.agreement(START, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_restarted_at_once_replaces_its_former_self() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            for number in [bed.follower().await?, bed.leader().await?] {
                let before = bed.node_key(number).await?;
                bed.node(number).signal_agent(Signal::SIGKILL)?;
                bed.node(number).ended().await?;
                bed.start_node(number)?;
                // The old key may still be there for a moment; two rows with one address never are.
                testbed::eventually(
                    SOON,
                    "the new instance is registered and the old one gone",
                    async || {
                        let prefix = format!("/muster/nodes/{}-", bed.node(number).name);
                        let keys = bed.etcd.get_prefix(&prefix).await?.keys;
                        ensure!(keys.len() == 1 && keys[0].key != before.key, "{keys:?}");
                        Ok(())
                    },
                )
                .await?;
                bed.agreement(SOON, &bed.up()).await?;
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_reaped_by_mistake_registers_again() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .run(async |bed| {
            let (leader, follower) = (bed.leader().await?, bed.follower().await?);
            for number in [follower, leader] {
                let key = bed.node_key(number).await?;
                let mut value: serde_json::Value = serde_json::from_slice(&key.value)?;
                value["state"] = "lost".into();
                let (lease, value) = (format!("--lease={:x}", key.lease), value.to_string());
                bed.etcd.ctl(&["put", &lease, &key.key, &value], None).await?;
                bed.etcd.ctl(&["del", &key.key], None).await?;
                testbed::eventually(CLOSED, "it is back", async || {
                    let now = bed.node_key(number).await?;
                    ensure!(now.create_revision > key.create_revision, "{now:?}");
                    Ok(())
                })
                .await?;
                bed.agreement(SOON, &bed.up()).await?;
            }
            nobody_is_reaped(bed)?;
            Ok(())
        })
        .await
}
