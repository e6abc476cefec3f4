//! The main job: nodes come, go and crash, and every list, Envoy and etcd follow.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::ensure;
use testbed::observe::Traffic;
use testbed::{Testbed, eventually};

/// Bound of what needs no lease to expire.
const SOON: Duration = Duration::from_secs(30);
/// Bound of what does: the TTL of 2 s, etcd's own second, and a busy machine.
const LEASE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lists_follow_a_join_a_leave_a_kill_and_a_return() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            let exit = bed.stop_node(2).await?;
            ensure!(exit.code == Some(0), "a leave ended with {exit:?}");
            bed.agreement(SOON, &bed.up()).await?;
            bed.kill_node(3).await?;
            bed.agreement(LEASE, &bed.up()).await?;
            bed.start_node(3)?;
            bed.start_node(2)?;
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(bed.up().len() == 4);
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_join_at_once_and_four_leave_at_once() -> anyhow::Result<()> {
    Testbed::builder()
        .nodes(1)
        .run(async |bed| {
            for _ in 0..5 {
                bed.add_node().await?;
            }
            bed.agreement(SOON, &bed.up()).await?;
            tokio::try_join!(bed.stop_node(1), bed.stop_node(3), bed.stop_node(4), bed.stop_node(6))?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_format_says_the_same_and_names_who_served_it() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let expected = bed.up();
            let json = bed.lists_agree(SOON, &expected).await?;
            for node in bed.nodes() {
                for path in ["/", "/ips.html", "/ips.txt", "/ips.json", "/sd.json", "/healthz"] {
                    let answer = node.get(path).await?;
                    ensure!(answer.status == 200, "{path} of {}: status {}", node.name, answer.status);
                    ensure!(
                        answer.header("x-served-by") == node.ip.to_string(),
                        "{path}: {:?}",
                        answer.headers
                    );
                    if path == "/ips.txt" {
                        let text = String::from_utf8(answer.body)?;
                        let ips: Result<Vec<Ipv4Addr>, _> = text.split_whitespace().map(str::parse).collect();
                        ensure!(ips.as_ref() == Ok(&expected), "{text:?}");
                    } else if path.ends_with('/') || path.ends_with(".html") {
                        let text = String::from_utf8(answer.body)?;
                        let missing = expected.iter().find(|ip| !text.contains(&ip.to_string()));
                        ensure!(missing.is_none(), "{path} lacks {missing:?}");
                    }
                }
            }
            let leaders: Vec<_> = json.says.nodes.iter().filter(|node| node.leader).collect();
            ensure!(leaders.len() == 1, "{leaders:?}");
            ensure!(leaders[0].ip == bed.node(bed.leader().await?).ip, "{leaders:?}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_spreads_requests_over_all_nodes() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            let list = bed.lists_agree(SOON, &bed.up()).await?;
            let mut served = std::collections::BTreeSet::new();
            eventually(SOON, "each node has served a request", async || {
                let answer = bed.envoy().get("/ips.json").await?;
                ensure!(answer.body == list.bytes, "Envoy's answer is another list");
                served.insert(answer.header("x-served-by").to_owned());
                ensure!(served.len() == 3, "only {served:?}");
                Ok(())
            })
            .await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_nodes_join_leave_and_die() -> anyhow::Result<()> {
    Testbed::builder()
        .run(async |bed| {
            // The edge opens a moment after Envoy knows the endpoints.
            eventually(SOON, "the edge answers", async || bed.list_via_envoy().await).await?;
            let traffic = Traffic::start(bed.envoy().edge);
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            bed.stop_node(1).await?;
            bed.agreement(SOON, &bed.up()).await?;
            bed.kill_node(2).await?;
            bed.agreement(LEASE, &bed.up()).await?;
            let answers = traffic.finish().await;
            ensure!(answers.failures.is_empty(), "{answers:?}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_leaves_no_nginx_behind() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(1)
        .envoys(0)
        .run(async |bed| {
            // Only the agent: nginx has to notice by itself, or a stranger would answer on a listed address.
            bed.node(1).signal_agent(nix::sys::signal::Signal::SIGKILL)?;
            bed.node(1).ended().await?;
            eventually(SOON, "nginx is gone too", async || {
                ensure!(bed.node(1).get("/healthz").await.is_err(), "nginx still answers");
                Ok(())
            })
            .await
        })
        .await
}
