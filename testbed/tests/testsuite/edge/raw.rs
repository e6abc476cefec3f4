//! HTTP/1 as bytes, so that what no client would send can be sent.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Far above what any answer takes; Envoy gives up on a request sooner.
const PATIENCE: Duration = Duration::from_secs(20);

/// One answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
    }
}

/// Sends `bytes` on a connection of their own and reads the first answer.
///
/// # Errors
/// When there is none.
pub async fn ask(edge: SocketAddrV4, bytes: &[u8]) -> anyhow::Result<Reply> {
    timeout(PATIENCE, exchange(edge, bytes)).await.context("no answer in time")?
}

async fn exchange(edge: SocketAddrV4, bytes: &[u8]) -> anyhow::Result<Reply> {
    let mut socket = TcpStream::connect(edge).await?;
    // A refusal may come, and the connection end, before all is sent.
    let _ = socket.write_all(bytes).await;
    let head_only = bytes.starts_with(b"HEAD ");
    let mut answer = Vec::new();
    loop {
        if let Some(reply) = whole(&answer, head_only) {
            return Ok(reply);
        }
        if socket.read_buf(&mut answer).await.unwrap_or(0) == 0 {
            let seen = String::from_utf8_lossy(&answer).into_owned();
            return parsed(&answer).with_context(|| format!("closed after {seen:?}"));
        }
    }
}

fn parsed(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|at| at == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if status == 100 {
        return parsed(&answer[end + 4..]);
    }
    Some(Reply { status, head, body: answer[end + 4..].to_vec() })
}

fn whole(answer: &[u8], head_only: bool) -> Option<Reply> {
    let reply = parsed(answer)?;
    let length = reply.all("content-length").first().and_then(|length| length.parse::<usize>().ok());
    let complete = head_only
        || reply.status == 304
        || length.is_some_and(|length| reply.body.len() >= length)
        || reply.body.ends_with(b"0\r\n\r\n");
    complete.then_some(reply)
}
