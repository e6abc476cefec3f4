//! One HTTP/1.1 request on a connection of its own, so that an answer is the listener's of this moment.

use std::error::Error;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The whole body; an error when it broke off or was longer than the limit.
    pub body: Result<Bytes, Box<dyn Error + Send + Sync>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Path or host cannot stand in a request.
    #[error(transparent)]
    Malformed(#[from] hyper::http::Error),
    #[error(transparent)]
    Connection(#[from] hyper::Error),
}

/// Asks for `path` over a stream that is connected, with `more` headers than the two every request has, and reads at most `limit` bytes of the answer's body. Unbounded in time.
///
/// # Errors
/// The connection broke or was closed before an answer, or the other side speaks no HTTP.
pub async fn request<IO>(
    stream: IO,
    method: Method,
    host: &str,
    path: &str,
    more: &[(HeaderName, &str)],
    limit: usize,
) -> Result<Answer, RequestError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request =
        Request::builder().method(method).uri(path).header(HOST, host).header(CONNECTION, "close");
    for (name, value) in more {
        request = request.header(name, *value);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        // Read to its end: closing on unread bytes would reset the connection under the server.
        let body = Limited::new(body, limit).collect().await.map(|body| body.to_bytes());
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    // The connection has to be polled for anything to move. One that ends in order has delivered what the exchange is
    // about to take; what breaks it comes out of the exchange as well.
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}
