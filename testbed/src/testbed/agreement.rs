//! Waiting until registry, lists and Envoy say the same.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::Testbed;
use crate::observe::{List, eventually};

impl Testbed {
    /// Waits until the whole fleet is up and agrees. A fleet without nodes or with a command in place of nginx has no
    /// lists to wait for.
    ///
    /// # Errors
    /// As [`Testbed::agreement`].
    pub async fn complete(&self, patience: Duration) -> anyhow::Result<Duration> {
        let up = self.up();
        if up.is_empty() || !self.settings.command.is_empty() {
            return Ok(Duration::ZERO);
        }
        let took = self.agreement(patience, &up).await?;
        // Envoy opens its port a moment after it knows the nodes.
        eventually(patience, "every edge answers", async || {
            for envoy in &self.envoys {
                envoy.get("/healthz").await?;
            }
            Ok(())
        })
        .await?;
        Ok(took)
    }

    /// Waits until the list on every expected node is the same in every byte and names exactly `expected`, fresh; and
    /// every Envoy routes to exactly these, and etcd holds exactly these as serving. Returns the time it took.
    ///
    /// # Errors
    /// The last difference.
    pub async fn agreement(&self, patience: Duration, expected: &[Ipv4Addr]) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.lists_agree(patience, expected).await?;
        self.envoys_know(patience.saturating_sub(start.elapsed()), expected).await?;
        let took = start.elapsed();
        eventually(patience.saturating_sub(took).max(Duration::from_secs(1)), "etcd agrees", async || {
            let serving = self.etcd.serving().await?;
            ensure!(serving == expected, "etcd says {serving:?}, expected {expected:?}");
            Ok(())
        })
        .await?;
        Ok(took)
    }

    /// Waits for the nodes' part of [`Testbed::agreement`].
    ///
    /// # Errors
    /// The last difference.
    pub async fn lists_agree(&self, patience: Duration, expected: &[Ipv4Addr]) -> anyhow::Result<List> {
        eventually(patience, "the lists agree", async || {
            let mut first: Option<(String, List)> = None;
            for node in self.nodes.iter().filter(|node| expected.contains(&node.ip)) {
                let list = node.list().await?;
                let (name, ips) = (&node.name, &list.says.ips);
                ensure!(ips == expected, "{name} lists {ips:?}, expected {expected:?}");
                ensure!(list.says.count == ips.len(), "{name} counts {}", list.says.count);
                ensure!(list.says.stale_since.is_none(), "{name} is stale");
                match &first {
                    Some((other, before)) => ensure!(
                        before.bytes == list.bytes,
                        "{other} and {name} differ: {} | {}",
                        String::from_utf8_lossy(&before.bytes),
                        String::from_utf8_lossy(&list.bytes)
                    ),
                    None => first = Some((node.name.clone(), list)),
                }
            }
            first.map(|(_, list)| list).context("no node is expected, so there is no list")
        })
        .await
    }

    /// Waits for the Envoys' part of [`Testbed::agreement`].
    ///
    /// # Errors
    /// The last difference.
    pub async fn envoys_know(&self, patience: Duration, expected: &[Ipv4Addr]) -> anyhow::Result<()> {
        eventually(patience, "Envoy agrees", async || {
            for envoy in &self.envoys {
                let known = envoy.endpoints().await?;
                ensure!(known == expected, "envoy{} knows {known:?}, expected {expected:?}", envoy.number);
            }
            Ok(())
        })
        .await
    }

    /// The list as a client gets it through Envoy.
    ///
    /// # Errors
    /// When the answer is no list.
    pub async fn list_via_envoy(&self) -> anyhow::Result<List> {
        let answer = self.envoy().get("/ips.json").await?;
        ensure!(answer.status == 200, "status {} through Envoy", answer.status);
        List::parse(answer.body)
    }
}
