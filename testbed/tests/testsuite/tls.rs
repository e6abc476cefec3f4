//! A fleet with TLS everywhere: as quick as without, closed to strangers, and renewed while it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use testbed::node::Node;
use testbed::observe::List;
use testbed::{Testbed, eventually};

/// Bound of what needs no lease to end, on a machine that does much else.
const SOON: Duration = Duration::from_secs(30);
/// A lease that plays no part within a test.
const LONG: Duration = Duration::from_secs(60);
/// What a closed stream is noticed within, long before the lease ends.
const CLOSED: Duration = Duration::from_secs(30);
const TAKEN: &str = r#"muster_tls_reloads_total{result="taken"}"#;
const REFUSED: &str = r#"muster_tls_reloads_total{result="refused"}"#;

async fn metric(node: &Node, name: &str) -> anyhow::Result<f64> {
    let metrics = node.metrics().await?;
    metrics.get(name).copied().with_context(|| format!("{} has no {name}", node.name))
}

fn said_anywhere(bed: &Testbed, message: &str) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for node in bed.nodes() {
        all.extend(node.said(message)?);
    }
    Ok(all)
}

/// The list through Envoy, which opens its port a moment after it has the nodes.
async fn edge(bed: &Testbed) -> anyhow::Result<List> {
    eventually(SOON, "the edge answers", async || bed.list_via_envoy().await).await
}

/// How often each node lost a connection, its watch or its lease: while a fleet starts, some do.
async fn interruptions(bed: &Testbed) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut all = BTreeMap::new();
    for message in ["xds stream closed", "presence ended without a goodbye", "no TLS with etcd"] {
        all.insert(message.to_owned(), said_anywhere(bed, message)?.len() as f64);
    }
    for node in bed.nodes() {
        for (name, count) in node.metrics().await? {
            if name.starts_with("muster_watch_restarts") || name.starts_with("muster_lease_losses") {
                all.insert(format!("{} {name}", node.name), count);
            }
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_kill_and_leave_are_as_without() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .tls()
        .run(async |bed| {
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            let follower = bed.follower().await?;
            bed.kill_node(follower).await?;
            bed.agreement(CLOSED, &bed.up()).await?;

            let leader = bed.leader().await?;
            bed.kill_node(leader).await?;
            bed.agreement(CLOSED, &bed.up()).await?;
            eventually(CLOSED, "another leads", async || {
                ensure!(bed.leader().await? != leader, "node{leader} still leads");
                Ok(())
            })
            .await?;

            bed.start_node(leader)?;
            bed.agreement(SOON, &bed.up()).await?;
            bed.stop_node(leader).await?;
            let drained = bed.node(leader).said("drain over")?;
            ensure!(drained.last().is_some_and(|last| last["result"] == "acknowledged"), "{drained:?}");
            bed.agreement(SOON, &bed.up()).await?;
            ensure!(edge(bed).await?.says.ips == bed.up(), "through Envoy");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_takes_its_clients_alone() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(1)
        .tls()
        .run(async |bed| {
            let get = ["get", "--prefix", "/muster", "--command-timeout=2s", "--dial-timeout=1s"];
            for service in ["agent", "operator", "etcd-root", "etcd1"] {
                bed.etcd.ctl_with(Some(&bed.certificates().of(service)), &get).await.context(service)?;
            }
            // Envoy's as what etcd's clients show: another authority signed it.
            let foreign = bed.certificates().dir.join("foreign");
            std::fs::create_dir(&foreign)?;
            for (from, to) in [("control.crt", "etcd.crt"), ("control.key", "etcd.key")] {
                std::fs::copy(bed.certificates().file("envoy", from), foreign.join(to))?;
            }
            std::fs::copy(bed.certificates().file("agent", "etcd-ca.crt"), foreign.join("etcd-ca.crt"))?;
            for shown in [None, Some(foreign.as_path())] {
                ensure!(bed.etcd.ctl_with(shown, &get).await.is_err(), "{shown:?} was let in");
            }
            Ok(())
        })
        .await
}

/// Renews everything for the `count`th time, and waits until all use it. What it cost, in words, if anything.
async fn renewal(bed: &Testbed, count: u32) -> anyhow::Result<Result<(), String>> {
    let (leader, before) = (bed.leader().await?, edge(bed).await?.bytes);
    let interrupted = interruptions(bed).await?;
    bed.certificates().renew().await?;
    eventually(SOON, "every agent has new certificates", async || {
        for node in bed.nodes() {
            ensure!(metric(node, TAKEN).await? == f64::from(count), "{} has not", node.name);
            ensure!(metric(node, REFUSED).await? == 0.0, "{} has refused", node.name);
        }
        Ok(())
    })
    .await?;
    eventually(SOON, "Envoy has a new certificate", async || {
        let days = bed.envoy().certificate_days().await?;
        ensure!(days > 150, "{days} days");
        Ok(())
    })
    .await?;
    let after = interruptions(bed).await?;
    if after != interrupted {
        return Ok(Err(format!("connections: before {interrupted:?}, after {after:?}")));
    }
    let same = bed.leader().await? == leader && edge(bed).await?.bytes == before;
    Ok(if same { Ok(()) } else { Err("the leader or the list".into()) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_costs_no_connection_and_is_used_by_all() -> anyhow::Result<()> {
    Testbed::builder()
        .ttl(LONG)
        .tls()
        .run(async |bed| {
            ensure!(bed.envoy().certificate_days().await? < 101, "100 days at first");
            // A machine that stands still for a second breaks connections too: one of three may have met that.
            let mut costs = Vec::new();
            for count in 1..=3 {
                costs.extend(renewal(bed, count).await?.err());
            }
            ensure!(costs.len() < 2, "of three renewals {} cost something: {costs:?}", costs.len());
            let leader = bed.leader().await?;

            // Old and new get on with each other and with what comes: a new leader, a new node, a member that returns.
            bed.etcd.kill(1).await?;
            bed.etcd.start(1)?;
            bed.kill_node(leader).await?;
            bed.agreement(LONG, &bed.up()).await?;
            bed.add_node().await?;
            bed.agreement(SOON, &bed.up()).await?;
            bed.etcd.healthy(LONG).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_changes_nothing_and_keeps_a_new_agent_from_starting() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(2)
        .tls()
        .run(async |bed| {
            let (before, up) = (edge(bed).await?, bed.up());
            let certificate = bed.certificates().of("agent").join("control.crt");
            let good = std::fs::read(&certificate)?;
            std::fs::write(&certificate, "nothing")?;
            eventually(SOON, "every agent refuses it", async || {
                for node in bed.nodes() {
                    ensure!(metric(node, REFUSED).await? == 1.0, "{} has not", node.name);
                }
                Ok(())
            })
            .await?;
            // It is counted a moment before it is said.
            eventually(SOON, "every agent says so", async || {
                let told = said_anywhere(bed, "new certificates cannot be used, the old ones stay")?;
                let named =
                    |one: &Value| one["error"].as_str().is_some_and(|why| why.contains("control.crt"));
                ensure!(told.len() == 2 && told.iter().all(named), "{told:?}");
                Ok(())
            })
            .await?;
            // Connections made now are made with the old set.
            bed.envoy().kill().await?;
            bed.envoy().start()?;
            bed.agreement(SOON, &up).await?;
            ensure!(edge(bed).await?.bytes == before.bytes, "nothing has changed");

            let late = bed.add_node().await?;
            let exit = bed.node(late).ended().await?;
            ensure!(exit.code == Some(1), "{exit:?}");
            let why = bed.node(late).said("muster ends")?;
            ensure!(why[0]["error"].as_str().is_some_and(|why| why.contains("muster pki renew")), "{why:?}");
            std::fs::write(&certificate, good)?;
            bed.start_node(late)?;
            bed.agreement(SOON, &bed.up()).await?;
            Ok(())
        })
        .await
}
