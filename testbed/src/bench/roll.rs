//! How long `muster status` takes in a large fleet: one real node, and keys of others whose files the bench serves.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use testbed::{Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::times::Times;

/// Nodes of the large fleet, the real one among them.
pub const NODES: u16 = 1000;
/// Puts in one transaction; etcd takes 128.
const AT_ONCE: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer of every node that is only a key.
type File = Arc<OnceLock<Vec<u8>>>;

/// Times of `muster status` on a fleet that runs, as a program that is started and read to its end.
///
/// # Errors
/// When it says that not everybody agrees.
pub async fn status(bed: &Testbed, rounds: u8) -> anyhow::Result<Times> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let output = bed.muster(&["status"]).await?;
        times.push(start.elapsed());
        let said = String::from_utf8_lossy(&output.stdout);
        let first = said.lines().next().unwrap_or_default();
        let nodes = said.lines().filter(|line| line.contains(" agrees @")).count();
        ensure!(first.contains(&format!("{nodes}/{nodes} files agree")), "{first}");
    }
    Ok(times.into())
}

/// The same with [`NODES`] nodes.
///
/// # Errors
/// When the fleet does not come to be.
pub async fn measure(rounds: u8) -> anyhow::Result<Times> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let builder = Testbed::builder().etcd(1).nodes(1).envoys(0).ttl(Duration::from_secs(20));
    let bed = builder.start().await?;
    let measured = many(&bed, rounds).await;
    measured.inspect_err(|_| bed.keep_logs())
}

async fn many(bed: &Testbed, rounds: u8) -> anyhow::Result<Times> {
    let file = File::default();
    let port = bed.addresses.ports.http;
    let mut nodes = Vec::new();
    for number in 1..NODES {
        let [high, low] = number.to_be_bytes();
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::new(127, 254, high, low), port)).await?;
        nodes.push(AbortOnDropHandle::new(tokio::spawn(serve(listener, Arc::clone(&file)))));
    }
    let lease = bed.etcd.grant(Duration::from_secs(600)).await?;
    let puts: Vec<String> = (1..NODES).map(|number| put(number, port, &lease)).collect();
    for puts in puts.chunks(AT_ONCE) {
        // No condition, what to do, and what to do otherwise.
        let txn = format!("\n{}\n\n\n", puts.join("\n"));
        bed.etcd.ctl(&["txn"], Some(txn.as_bytes())).await?;
    }
    let real = bed.node(1);
    eventually(PATIENCE, "all are listed", async || {
        let listed = real.list_on_disk()?.says.count;
        ensure!(listed == usize::from(NODES), "{listed} are listed");
        Ok(())
    })
    .await?;
    file.set(std::fs::read(real.files.join("ips.json"))?).ok().context("set once")?;
    status(bed, rounds).await
}

fn put(number: u16, port: u16, lease: &str) -> String {
    let [high, low] = number.to_be_bytes();
    let (name, instance) = (format!("many{number}"), format!("{number:016x}"));
    let value = json!({
        "v": 1, "ip": format!("127.254.{high}.{low}"), "ports": {"http": port, "control": 18000, "metrics": 9464},
        "name": name, "instance": instance, "state": "serving", "reason": "", "since": "2026-01-01T00:00:00Z",
        "version": "0.1.0",
    });
    format!("put --lease={lease} /muster/nodes/{name}-{instance} '{value}'")
}

async fn serve(listener: TcpListener, file: File) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let file = Arc::clone(&file);
        tokio::spawn(async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                let body = file.get().map(Vec::as_slice).unwrap_or_default();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                if stream.write_all(&[head.as_bytes(), body].concat()).await.is_err() {
                    return;
                }
            }
        });
    }
}
