//! `node.json`: each node about itself, anew every second.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use testbed::node::Node;
use testbed::{Testbed, eventually};

const SOON: Duration = Duration::from_secs(20);

async fn itself(node: &Node) -> anyhow::Result<Value> {
    let answer = node.get("/node.json").await?;
    ensure!(answer.status == 200, "{}: status {}", node.name, answer.status);
    ensure!(answer.header("cache-control") == "no-store", "{:?}", answer.headers);
    ensure!(answer.header("content-type") == "application/json", "{:?}", answer.headers);
    Ok(serde_json::from_slice(&answer.body)?)
}

/// RFC 3339 in UTC of one width: text order is the order in time.
fn time(value: &Value) -> anyhow::Result<String> {
    Ok(value.as_str().with_context(|| format!("no time: {value}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_says_how_it_is_and_says_it_anew() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            bed.lists_agree(SOON, &bed.up()).await?;
            for node in bed.nodes() {
                let agrees = async || {
                    let (leader, list) = (bed.leader().await?, node.list().await?);
                    let own = itself(node).await?;
                    ensure!(own["name"] == *node.name && own["ip"] == *node.ip.to_string(), "{own}");
                    ensure!(own["leader"] == (node.number == leader), "{own}");
                    ensure!(own["revision"] == list.says.revision, "{own}");
                    ensure!(own["registry"]["state"] == "fresh", "{own}");
                    ensure!(own["registry"]["stale_since"].is_null(), "{own}");
                    ensure!(own["nginx"]["pid"] == node.nginx_pids()?[0], "{own}");
                    Ok(own)
                };
                let first = eventually(SOON, "it says what the list says", agrees).await?;
                ensure!(time(&first["started_at"])? < time(&first["lease_expires_at"])?, "{first}");
                eventually(SOON, "all that moves has moved", async || {
                    let later = itself(node).await?;
                    for at in ["/registry/last_contact_at", "/lease_expires_at", "/nginx/last_probe_at"] {
                        let moment = |value: &Value| time(value.pointer(at).context(at)?);
                        ensure!(moment(&first)? < moment(&later)?, "{at} stands still: {later}");
                    }
                    ensure!(later["started_at"] == first["started_at"], "{later}");
                    Ok(())
                })
                .await?;
            }
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_touch_it_says_since_when() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(1)
        .envoys(0)
        .run(async |bed| {
            bed.lists_agree(SOON, &bed.up()).await?;
            bed.etcd.kill_all().await?;
            let node = bed.node(1);
            eventually(SOON, "stale, as the list is", async || {
                let own = itself(node).await?;
                let list: Value = serde_json::from_slice(&node.get("/ips.json").await?.body)?;
                ensure!(own["registry"]["state"] == "stale", "{own}");
                ensure!(
                    time(&own["registry"]["stale_since"])? == time(&list["stale_since"])?,
                    "{own} {list}"
                );
                ensure!(own["registry"]["last_contact_at"].is_string(), "{own}");
                Ok(())
            })
            .await?;
            Ok(())
        })
        .await
}
