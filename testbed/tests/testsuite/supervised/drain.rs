//! One Envoy is told to stop.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use testbed::envoy::Envoy;
use testbed::{Builder, Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{AMPLE, LARGE, UnderWay, ready};

fn with_a_large_file(args: &[&str]) -> Builder {
    Testbed::builder().nodes(1).site_file("large", LARGE).supervised(args)
}

/// Waits until nobody accepts at the edge any more.
async fn closed(envoy: &Envoy) -> anyhow::Result<()> {
    eventually(AMPLE, "the public port is closed", async || {
        ensure!(TcpStream::connect(envoy.edge).await.is_err());
        Ok(())
    })
    .await
}

/// How the drain went, and how long it took.
fn drained(envoy: &Envoy) -> anyhow::Result<(String, Duration)> {
    let said = envoy.said("drain over")?;
    ensure!(said.len() == 1, "{said:?}");
    let took = said[0]["duration_ms"].as_u64().context("no duration")?;
    Ok((said[0]["result"].as_str().unwrap_or_default().to_owned(), Duration::from_millis(took)))
}

/// A small request on a connection that stays open; the head of its answer.
async fn ask(stream: &mut TcpStream) -> anyhow::Result<String> {
    stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: edge\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut part = [0; 4096];
        let length = stream.read(&mut part).await?;
        ensure!(length > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend(&part[..length]);
    }
    Ok(String::from_utf8_lossy(&answer).to_lowercase())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_are_answered_and_kept_connections_told() -> anyhow::Result<()> {
    with_a_large_file(&["--drain-timeout", "60"])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let mut kept = TcpStream::connect(envoy.edge).await?;
            ensure!(!ask(&mut kept).await?.contains("connection: close"), "told before the time");
            let mut large = UnderWay::begin(envoy).await?;
            envoy.process()?.signal(Signal::SIGTERM);
            closed(envoy).await?;
            large.go_on().await?;
            ensure!(envoy.ask_supervisor("/readyz").await?.status == 503, "ready while it leaves");
            let told = ask(&mut kept).await?;
            ensure!(told.contains("connection: close"), "{told}");
            large.go_on().await?;
            ensure!(envoy.process()?.exit().is_none(), "it did not wait");
            large.finish().await?;
            let exit = envoy.process()?.ended(AMPLE).await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            ensure!(drained(envoy)?.0 == "done", "{:?}", drained(envoy)?);
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_takes_a_second_at_least() -> anyhow::Result<()> {
    with_a_large_file(&[])
        .run(async |bed| {
            ready(bed.envoy()).await?;
            let exit = bed.envoy().stop().await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            let (result, took) = drained(bed.envoy())?;
            ensure!(result == "done" && took >= Duration::from_secs(1), "{result} after {took:?}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_ends_is_waited_for_until_the_bound() -> anyhow::Result<()> {
    with_a_large_file(&["--drain-timeout", "2"])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let _never_read = UnderWay::begin(envoy).await?;
            let exit = envoy.stop().await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            let (result, took) = drained(envoy)?;
            ensure!(result == "timeout" && took >= Duration::from_secs(2), "{result} after {took:?}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_drain() -> anyhow::Result<()> {
    with_a_large_file(&["--drain-timeout", "600"])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let _never_read = UnderWay::begin(envoy).await?;
            envoy.process()?.signal(Signal::SIGTERM);
            closed(envoy).await?;
            let exit = envoy.stop().await?;
            ensure!(exit.code == Some(0), "{exit:?}");
            ensure!(drained(envoy)?.0 == "forced", "{:?}", drained(envoy)?);
            Ok(())
        })
        .await
}

/// Nobody needs it any more, so it is not started again, and its end is the container's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_dies_while_it_drains_gives_its_exit_code() -> anyhow::Result<()> {
    with_a_large_file(&["--drain-timeout", "600"])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            let _never_read = UnderWay::begin(envoy).await?;
            envoy.process()?.signal(Signal::SIGTERM);
            closed(envoy).await?;
            envoy.signal_below(Signal::SIGKILL)?;
            let exit = envoy.process()?.ended(AMPLE).await?;
            ensure!(exit.code == Some(128 + 9), "{exit:?}");
            ensure!(drained(envoy)?.0 == "ended", "{:?}", drained(envoy)?);
            ensure!(envoy.said("served process started")?.len() == 1, "it was started again");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_envoy_holds_up_nobody_who_leaves() -> anyhow::Result<()> {
    // It may be silent for so long that only the drain ends it.
    with_a_large_file(&["--drain-timeout", "600", "--silence", "60"])
        .run(async |bed| {
            let envoy = bed.envoy();
            ready(envoy).await?;
            envoy.signal_below(Signal::SIGSTOP)?;
            envoy.stop().await?;
            ensure!(drained(envoy)?.0 == "silent", "{:?}", drained(envoy)?);
            Ok(())
        })
        .await
}
