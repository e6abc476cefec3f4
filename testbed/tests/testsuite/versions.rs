//! Agents of different versions in one fleet, as a rolling update has them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::{Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
const INSTANCE: &str = "0123456789abcdef";

/// All that a later version writes: what this one knows, and more, in every place.
async fn a_later_version_joins(bed: &Testbed) -> anyhow::Result<String> {
    let lease = bed.etcd.grant(Duration::from_secs(600)).await?;
    let more = json!({"sky": ["clear"], "wind": null});
    let node = json!({
        "v": 1, "ip": "127.9.9.9", "ports": {"http": 8080, "control": 18000, "metrics": 9464, "quic": 443},
        "name": "later", "instance": INSTANCE, "state": "serving", "reason": "", "since": "2026-01-01T00:00:00Z",
        "version": "99.0.0", "weather": more,
    });
    let candidate = json!({"v": 1, "instance": INSTANCE, "control": "127.9.9.9:18000", "weather": more});
    let mark = json!({"v": 1, "since": "2026-01-01T00:00:00.000Z", "why": "later", "weather": more});
    let with = format!("--lease={lease}");
    for (key, value, with) in [
        (format!("/muster/leader/{lease}"), candidate, with.as_str()),
        (format!("/muster/nodes/later-{INSTANCE}"), node, with.as_str()),
        ("/muster/marks/node1".to_owned(), mark, "--lease=0"),
    ] {
        bed.etcd.ctl(&["put", &key, with], Some(value.to_string().as_bytes())).await?;
    }
    Ok(lease)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_version_adds_is_ignored() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let lease = a_later_version_joins(bed).await?;
            eventually(SOON, "what it wrote to count everywhere", async || {
                for node in bed.nodes() {
                    let list: Value = serde_json::from_slice(&node.list().await?.bytes)?;
                    let nodes = list["nodes"].as_array().context("no nodes")?;
                    let row = |name: &str| nodes.iter().find(|row| row["name"] == name).context("not listed");
                    ensure!(row("later")?["version"] == "99.0.0", "the later one is not shown: {list}");
                    ensure!(row("node1")?["state"] == "draining", "its mark does not count: {list}");
                }
                Ok(())
            })
            .await?;
            bed.etcd.ctl(&["lease", "revoke", &lease], None).await?;
            bed.etcd.ctl(&["del", "/muster/marks/node1"], None).await?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

/// Nodes of this build and of another one, in turn: each leads, each leaves, each dies, and all serve the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs another build of muster in MUSTER_OTHER_BIN: make test has the image's"]
async fn two_builds_are_one_fleet() -> anyhow::Result<()> {
    let other = std::env::var_os("MUSTER_OTHER_BIN").map(PathBuf::from);
    let other = other.context("MUSTER_OTHER_BIN names no program")?;
    Testbed::builder()
        .nodes(4)
        .every_second(other)
        .run(async |bed| {
            bed.agreement(SOON, &bed.up()).await?;
            let mut led = [false; 2];
            while led != [true; 2] {
                let leader = bed.leader().await?;
                led[usize::from(leader % 2)] = true;
                ensure!(bed.stop_node(leader).await?.code == Some(0), "node{leader} did not leave well");
                bed.agreement(SOON, &bed.up()).await?;
                bed.start_node(leader)?;
                bed.agreement(SOON, &bed.up()).await?;
            }
            for number in [1, 2] {
                bed.kill_node(number).await?;
                bed.agreement(SOON, &bed.up()).await?;
            }
            Ok(())
        })
        .await
}
