//! A tiny HTTP/1.1 server in nginx's place, and a client as tiny.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Says its own address, on every path but those below.
pub struct Upstream {
    pub address: SocketAddrV4,
    /// Requests for [`BROKEN_PATH`] and [`BUSY_PATH`].
    pub broken: Arc<AtomicU32>,
    serving: JoinHandle<()>,
}

/// One answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers in lower case.
    pub head: String,
    pub body: String,
}

/// A body that takes longer than Envoy's patience with silence, a piece at a time.
pub const SLOW_PATH: &str = "/slow";
pub const SLOW_PIECES: usize = 12;
const SLOW_PAUSE: Duration = Duration::from_millis(500);
/// Answered only after Envoy has tried, timed out and ejected.
pub const LATE_PATH: &str = "/late";
const LATE: Duration = Duration::from_millis(400);
/// By which Envoy's health check knows the fleet of [`settings`](super::roster::settings).
const FLEET: &str = "X-Envoy-Upstream-Healthchecked-Cluster: /muster\r\n";
/// Answered with the request's own line and headers, in lower case.
pub const ECHO_PATH: &str = "/echo";
/// Answered with 500.
pub const BROKEN_PATH: &str = "/broken";
/// Answered with 503, as by an nginx that has enough.
pub const BUSY_PATH: &str = "/busy";
/// Never answered.
pub const SILENT_PATH: &str = "/silent";

impl Upstream {
    /// On a free port of `ip`, which is one of 127.0.0.0/8.
    pub async fn start(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        let broken = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&broken);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, address, Arc::clone(&counted)));
            }
        });
        Self { address, broken, serving }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Requests `path` as written, on a connection of its own; `None` when there is no answer.
pub async fn fetch(address: SocketAddrV4, method: &str, path: &str) -> Option<Answer> {
    fetch_with(address, method, path, "").await
}

/// The same with more headers, each with its line's end.
pub async fn fetch_with(address: SocketAddrV4, method: &str, path: &str, headers: &str) -> Option<Answer> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    // Not to the end of the connection, which Envoy holds open for up to a second after an answer of its own.
    while !is_whole(&bytes, method) && socket.read_buf(&mut bytes).await.ok()? > 0 {}
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

fn is_whole(bytes: &[u8], method: &str) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    method == "HEAD"
        || length.is_some_and(|length| body.len() >= length)
        || head.contains("chunked") && body.ends_with("0\r\n\r\n")
}

async fn serve(mut socket: TcpStream, address: SocketAddrV4, broken: Arc<AtomicU32>) -> Option<()> {
    let mut received = Vec::new();
    loop {
        while !received.windows(4).any(|end| end == b"\r\n\r\n") {
            if socket.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        }
        let request = String::from_utf8_lossy(&received).into_owned();
        received.clear();
        let path = request.split(' ').nth(1)?;
        match path {
            SLOW_PATH => slowly(&mut socket).await?,
            SILENT_PATH => std::future::pending().await,
            _ => {
                if path == LATE_PATH {
                    tokio::time::sleep(LATE).await;
                }
                let body = if path == ECHO_PATH { request.to_lowercase() } else { address.to_string() };
                let length = body.len();
                let (status, header) = match path {
                    "/healthz" => ("200 OK", FLEET),
                    BROKEN_PATH => ("500 Broken", ""),
                    BUSY_PATH => ("503 Busy", "X-Envoy-RateLimited: true\r\n"),
                    _ => ("200 OK", ""),
                };
                broken.fetch_add(u32::from([BROKEN_PATH, BUSY_PATH].contains(&path)), Ordering::SeqCst);
                let head =
                    format!("HTTP/1.1 {status}\r\nServer: tiny\r\n{header}Content-Length: {length}\r\n\r\n");
                let shown = if request.starts_with("HEAD") { "" } else { body.as_str() };
                socket.write_all(format!("{head}{shown}").as_bytes()).await.ok()?;
            }
        }
    }
}

async fn slowly(socket: &mut TcpStream) -> Option<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SLOW_PIECES}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.ok()?;
    for _ in 0..SLOW_PIECES {
        tokio::time::sleep(SLOW_PAUSE).await;
        socket.write_all(b".").await.ok()?;
    }
    Some(())
}
