//! One HTTP request on one fresh connection, so that an answer is always the listener's of this moment.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use hyper::Method;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// An answer whose body has been read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// Any status is an answer.
///
/// # Errors
/// When there was none within `patience`.
pub async fn get(address: SocketAddrV4, path: &str, patience: Duration) -> anyhow::Result<Answer> {
    let asked = async { request(TcpStream::connect(address).await?, &address.to_string(), path).await };
    tokio::time::timeout(patience, asked)
        .await
        .map_err(anyhow::Error::new)
        .flatten()
        .with_context(|| format!("GET http://{address}{path}"))
}

/// The body of a 200.
///
/// # Errors
/// Any other status, and no answer within a second.
pub async fn body(address: SocketAddrV4, path: &str) -> anyhow::Result<Vec<u8>> {
    let answer = get(address, path, Duration::from_secs(1)).await?;
    ensure!(answer.status == 200, "GET http://{address}{path}: status {}", answer.status);
    Ok(answer.body)
}

/// The same by a socket file.
///
/// # Errors
/// As [`body`].
pub async fn body_by(socket: &Path, path: &str) -> anyhow::Result<Vec<u8>> {
    let asked = async { request(UnixStream::connect(socket).await?, "admin", path).await };
    let answer =
        tokio::time::timeout(Duration::from_secs(1), asked).await.map_err(anyhow::Error::new).flatten();
    let answer = answer.with_context(|| format!("GET {path} of {}", socket.display()))?;
    ensure!(answer.status == 200, "GET {path} of {}: status {}", socket.display(), answer.status);
    Ok(answer.body)
}

/// Samples of a scrape, by name and labels.
///
/// # Errors
/// As [`body`].
pub async fn metrics(address: SocketAddrV4) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = body(address, "/metrics").await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let sample = |line: &str| -> Option<(String, f64)> {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> anyhow::Result<Answer> {
    let answer = muster::http::request(stream, Method::GET, host, path, &[], usize::MAX).await?;
    let body = answer.body.map_err(|error| anyhow!("{error}"))?.to_vec();
    Ok(Answer { status: answer.status.as_u16(), headers: answer.headers, body })
}
