//! `muster edge`: what clients, the log and the metrics see when an Envoy hangs, dies, is stopped, has no leader, or has
//! lost its network.

mod commands;
mod drain;
mod leaderless;
mod life;
mod network;
mod pair;

use std::time::Duration;

use anyhow::ensure;
use testbed::envoy::Envoy;
use testbed::{Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bound of everything that takes a second or two on an idle machine.
const AMPLE: Duration = Duration::from_secs(30);

/// Larger than all buffers on the way together, so that it is under way until it is read.
const LARGE: usize = 32 << 20;

/// Starts of Envoy after the first, by why the one before is gone.
async fn restarts(envoy: &Envoy, reason: &str) -> anyhow::Result<f64> {
    let name = format!("muster_edge_envoy_restarts_total{{reason=\"{reason}\"}}");
    let metrics = envoy.metrics().await?;
    metrics.get(&name).copied().ok_or_else(|| anyhow::anyhow!("no {name}"))
}

/// Waits until its supervisor says that Envoy is ready.
async fn ready(envoy: &Envoy) -> anyhow::Result<()> {
    eventually(AMPLE, "Envoy is ready", async || {
        let answer = envoy.ask_supervisor("/readyz").await?;
        ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
        Ok(())
    })
    .await
}

/// Waits until the public gets the list.
async fn serves(bed: &Testbed) -> anyhow::Result<()> {
    eventually(AMPLE, "the list is served", async || {
        let answer = bed.envoy().get("/ips.json").await?;
        ensure!(answer.status == 200, "status {}", answer.status);
        Ok(())
    })
    .await
}

/// A request for the large file of which only the beginning has been read.
struct UnderWay {
    stream: TcpStream,
    read: Vec<u8>,
}

impl UnderWay {
    async fn begin(envoy: &Envoy) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(envoy.edge).await?;
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").await?;
        let mut read = vec![0; 4096];
        let length = stream.read(&mut read).await?;
        read.truncate(length);
        ensure!(read.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&read));
        Ok(Self { stream, read })
    }

    /// Reads a little: the edge takes somebody who reads nothing for two minutes for gone.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        let mut part = vec![0; 1 << 20];
        self.stream.read_exact(&mut part).await?;
        self.read.extend(part);
        Ok(())
    }

    /// Reads the rest; all of it must come.
    async fn finish(mut self) -> anyhow::Result<()> {
        tokio::time::timeout(AMPLE, self.stream.read_to_end(&mut self.read)).await??;
        let head = self.read.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0) + 4;
        ensure!(self.read.len() - head == LARGE, "{} bytes came", self.read.len() - head);
        Ok(())
    }
}
