//! A drain is proven by acknowledgement: who is waited for, for how long, and what is said about it.

mod download;
mod envoys;
mod fleet;
mod held;
mod standin;
mod woken;

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use testbed::node::Node;
use testbed::{Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Bound of what needs no lease to end.
const SOON: Duration = Duration::from_secs(10);
/// A lease, and with it the bound of a drain, that ends no drain here: only an acknowledgement does.
const LONG: Duration = Duration::from_secs(20);

/// nginx gives a request half of which has come ten seconds.
const UNFINISHED: Duration = Duration::from_secs(5);

/// A drain that was begun and whose result can be asked for: its nginx always has a request half of which has come, so
/// that it takes its time to quit and the agent still answers for its metrics when the drain is over.
struct Leaving {
    number: u8,
    request: Mutex<(Instant, TcpStream)>,
}

impl Leaving {
    /// Sends SIGTERM and waits until all others are told.
    async fn begin(bed: &Testbed, number: u8) -> anyhow::Result<Self> {
        let node = bed.node(number);
        let own = Self { number, request: Mutex::new((Instant::now(), half_a_request(node).await?)) };
        node.signal_agent(Signal::SIGTERM)?;
        eventually(SOON, "the node is draining", async || {
            let key = bed.node_key(number).await?;
            let value: serde_json::Value = serde_json::from_slice(&key.value)?;
            ensure!(value["state"] == "draining", "{value}");
            Ok(())
        })
        .await?;
        Ok(own)
    }

    /// The result as the metric says it, once the drain is over.
    async fn result(&self, bed: &Testbed, patience: Duration) -> anyhow::Result<String> {
        let node = bed.node(self.number);
        eventually(patience, "the drain is over", async || {
            let result = counted(node).await;
            let mut request = self.request.lock().await;
            if result.is_err() && request.0.elapsed() > UNFINISHED {
                *request = (Instant::now(), half_a_request(node).await?);
            }
            result
        })
        .await
    }

    /// Fails if the drain is over within `span`.
    async fn holds_for(&self, bed: &Testbed, span: Duration) -> anyhow::Result<()> {
        if let Ok(result) = self.result(bed, span).await {
            anyhow::bail!("node{} is drained: {result}", self.number);
        }
        // That nothing was counted must be the agent's own word, not that of metrics which do not answer.
        let metrics =
            bed.node(self.number).metrics().await.context("a node that drains answers for its metrics")?;
        let over =
            metrics.iter().find(|(name, count)| name.starts_with("muster_drains_total") && **count > 0.0);
        ensure!(over.is_none(), "node{} is drained: {over:?}", self.number);
        Ok(())
    }

    /// Waits for the end of drain and agent, and checks that the log says the same as the metric.
    async fn end(self, bed: &Testbed, expected: &str, patience: Duration) -> anyhow::Result<()> {
        let result = self.result(bed, patience).await?;
        ensure!(result == expected, "node{}: {result}, expected {expected}", self.number);
        let node = bed.node(self.number);
        let (_, mut request) = self.request.into_inner();
        request.write_all(b"Host: node\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        request.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "a request under way was answered with {answer:?}");
        let exit = node.ended().await?;
        ensure!(exit.code == Some(0), "{} ended with {exit:?}", node.name);
        if expected == "acknowledged" {
            // Revoked and not left to end: the leases of these tests outlast them.
            let left = bed.etcd.get_prefix(&format!("/muster/nodes/{}-", node.name)).await?.keys;
            ensure!(left.is_empty(), "{} has ended and left {left:?}", node.name);
        }
        let said = node.said("drain over")?;
        let last = said.last().context("the log says nothing of a drain")?;
        ensure!(last["result"] == expected, "{last}");
        Ok(())
    }
}

async fn half_a_request(node: &Node) -> anyhow::Result<TcpStream> {
    let mut request = TcpStream::connect(node.http).await?;
    request.write_all(b"GET /healthz HTTP/1.1\r\n").await?;
    // One that came later is answered: nginx has this one, too.
    node.get("/healthz").await?;
    Ok(request)
}

/// The result of the one drain that this agent counts.
async fn counted(node: &Node) -> anyhow::Result<String> {
    let metrics = node.metrics().await?;
    let drains =
        metrics.iter().filter(|(name, count)| name.starts_with("muster_drains_total") && **count > 0.0);
    let drains: Vec<_> = drains.collect();
    ensure!(drains.len() == 1 && *drains[0].1 == 1.0, "drains counted: {drains:?}");
    let result = drains[0].0.split('"').nth(1).context("no label")?;
    Ok(result.to_owned())
}
