//! One HTTP request on one fresh connection, so that an answer is always the listener's of this moment.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

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
    tokio::time::timeout(patience, request(address, path))
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

async fn request(address: SocketAddrV4, path: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.into_body().collect().await?.to_bytes().to_vec();
    Ok(Answer { status, headers, body })
}
