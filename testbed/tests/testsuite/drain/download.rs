//! A large answer is under way from a node that is told to leave.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use testbed::{Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::SOON;

/// Larger than all buffers on the way together, so that it is under way until it is read.
const LARGE: usize = 24 << 20;
/// Longer than nginx was once given, whatever the grace.
const SLOWLY: Duration = Duration::from_secs(8);
const AMPLE: Duration = Duration::from_secs(60);

/// The beginning of an answer through Envoy, and which node gives it.
async fn begin(bed: &Testbed) -> anyhow::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect(bed.envoy().edge).await?;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n").await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let by = head.lines().find_map(|line| line.strip_prefix("x-served-by: ")).context(head.clone())?;
    let node = bed.nodes().iter().find(|node| node.ip.to_string() == by).context(by.to_owned())?;
    Ok((stream, node.number))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_under_way_is_waited_for_and_the_node_ends_with_it() -> anyhow::Result<()> {
    let bed = Testbed::builder().etcd(1).site_file("large", LARGE).agent_arg("--stop-grace=60");
    bed.run(async |bed| {
        let (mut stream, number) = begin(bed).await?;
        bed.node(number).signal_agent(Signal::SIGTERM)?;
        let (began, mut read) = (Instant::now(), 0);
        while began.elapsed() < SLOWLY {
            let mut piece = vec![0; 64 << 10];
            read += stream.read(&mut piece).await?;
            sleep(Duration::from_millis(100)).await;
        }
        ensure!(bed.node(number).agent()?.exit().is_none(), "it did not wait");
        let mut rest = Vec::new();
        timeout(AMPLE, stream.read_to_end(&mut rest)).await??;
        ensure!(read + rest.len() == LARGE, "{} of {LARGE} bytes", read + rest.len());
        let exit = bed.node(number).ended().await?;
        ensure!(exit.code == Some(0), "{exit:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_download_beyond_the_grace() -> anyhow::Result<()> {
    let bed = Testbed::builder().etcd(1).site_file("large", LARGE).agent_arg("--stop-grace=6");
    bed.run(async |bed| {
        let (mut stream, number) = begin(bed).await?;
        let node = bed.node(number);
        let told = Instant::now();
        node.signal_agent(Signal::SIGTERM)?;
        eventually(SOON * 2, "it ends without the client", async || {
            ensure!(node.agent()?.exit().is_some(), "it runs");
            Ok(())
        })
        .await?;
        ensure!(told.elapsed() >= Duration::from_secs(3), "it waited only {:?}", told.elapsed());
        let mut rest = Vec::new();
        let all = timeout(AMPLE, stream.read_to_end(&mut rest)).await?;
        ensure!(all.is_err() || rest.len() < LARGE, "it was whole");
        Ok(())
    })
    .await
}
