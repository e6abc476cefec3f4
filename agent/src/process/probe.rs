//! Probes over HTTP. A probe needs an answer and not only a connection: the kernel accepts connections for a hung process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::http::{self, RequestError};

/// The header by which `/healthz` names the agent's instance, so that another node on a re-used address is not
/// mistaken for this one.
pub const INSTANCE_HEADER: &str = "X-Muster-Instance";

/// The header by which `/healthz` names the fleet. The name is Envoy's own: its health check accepts no host whose answer
/// says something else there (`service_name_matcher`).
pub const FLEET_HEADER: &str = "X-Envoy-Upstream-Healthchecked-Cluster";

/// More of a body than this is not read; the answer counts all the same.
const BODY_LIMIT: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    pub status: StatusCode,
    /// The value of [`INSTANCE_HEADER`].
    pub instance: Option<String>,
}

#[derive(Debug, Error)]
pub enum ProbeError {
    /// No socket listens there.
    #[error("connection refused")]
    Refused,
    /// The connection was accepted and then reset.
    #[error("connection reset")]
    Reset,
    /// Accepted and closed in order, without an answer.
    #[error("closed without an answer")]
    Closed,
    /// Nothing within the bound: hung, cut off, or too slow.
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Other(String),
}

/// Where a server that listens on `listen` is asked from this machine: loopback when it listens on every address.
pub fn local_address(listen: Ipv4Addr, port: u16) -> SocketAddr {
    let ip = if listen.is_unspecified() { Ipv4Addr::LOCALHOST } else { listen };
    SocketAddr::from((ip, port))
}

/// Asks `GET path` of `addr`; connecting and the whole exchange are bounded by `bound` together.
pub async fn probe(addr: SocketAddr, path: &str, bound: Duration) -> Result<ProbeAnswer, ProbeError> {
    timeout(bound, async { ask(TcpStream::connect(addr).await?, &addr.to_string(), path).await })
        .await
        .unwrap_or(Err(ProbeError::Timeout))
}

/// A plain `http://` URL, as `--ready-url` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyUrl {
    host: String,
    port: u16,
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a plain http URL without a user, such as http://127.0.0.1:3000/ready")]
pub struct ReadyUrlError;

impl FromStr for ReadyUrl {
    type Err = ReadyUrlError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let uri = Uri::from_str(given).map_err(|_| ReadyUrlError)?;
        let authority = uri.authority().ok_or(ReadyUrlError)?;
        let user = authority.as_str().contains('@');
        let ipv6 = authority.host().starts_with('[');
        let port = authority.as_str().strip_prefix(authority.host()).filter(|rest| !rest.is_empty());
        let port = match port {
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0),
            None => Some(80),
        };
        match (uri.scheme_str(), port) {
            (Some("http"), Some(port)) if !user && !ipv6 => Ok(Self {
                host: authority.host().to_owned(),
                port,
                path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            }),
            _ => Err(ReadyUrlError),
        }
    }
}

impl ReadyUrl {
    /// As [`probe`]; looking the name up counts too, and every address it has is tried.
    pub async fn probe(&self, bound: Duration) -> Result<ProbeAnswer, ProbeError> {
        let host = format!("{}:{}", self.host, self.port);
        let asked = async {
            // Looked up each time: a name may move.
            let addrs: Vec<_> = lookup_host((self.host.as_str(), self.port)).await?.collect();
            ask(TcpStream::connect(addrs.as_slice()).await?, &host, &self.path).await
        };
        timeout(bound, asked).await.unwrap_or(Err(ProbeError::Timeout))
    }
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<RequestError> for ProbeError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Malformed(error) => Self::Other(error.to_string()),
            RequestError::Connection(error) => error.into(),
        }
    }
}

impl From<hyper::Error> for ProbeError {
    fn from(error: hyper::Error) -> Self {
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            if let Some(cause) = cause.downcast_ref::<io::Error>() {
                return io::Error::from(cause.kind()).into();
            }
            source = cause.source();
        }
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return Self::Closed;
        }
        Self::Other(error.to_string())
    }
}

async fn ask(stream: TcpStream, host: &str, path: &str) -> Result<ProbeAnswer, ProbeError> {
    // The status counts, whatever becomes of the body.
    let answer = http::request(stream, Method::GET, host, path, &[], BODY_LIMIT).await?;
    let instance = answer.headers.get(INSTANCE_HEADER).and_then(|value| value.to_str().ok());
    Ok(ProbeAnswer { status: answer.status, instance: instance.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_millis(200);
    const AMPLE: Duration = Duration::from_secs(10);

    /// A server that reads the request, answers the bytes given, and closes.
    async fn answering(answer: &'static [u8], bound: Duration) -> Result<ProbeAnswer, ProbeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer).await.unwrap();
        };
        tokio::join!(probe(addr, "/healthz", bound), server).0
    }

    #[tokio::test]
    async fn an_answer_brings_status_and_instance() {
        let answer =
            b"HTTP/1.1 200 OK\r\nx-muster-instance: 0123456789abcdef\r\ncontent-length: 3\r\n\r\nok\n";
        let answer = answering(answer, AMPLE).await.unwrap();
        assert_eq!(answer, ProbeAnswer { status: StatusCode::OK, instance: Some("0123456789abcdef".into()) });
    }

    #[tokio::test]
    async fn a_refusal_of_the_server_is_an_answer() {
        let answer = answering(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", AMPLE).await.unwrap();
        assert_eq!(answer, ProbeAnswer { status: StatusCode::SERVICE_UNAVAILABLE, instance: None });
    }

    #[tokio::test]
    async fn closing_without_an_answer_is_not_a_reset() {
        assert!(matches!(answering(b"", AMPLE).await, Err(ProbeError::Closed)));
        assert!(matches!(answering(b"HTTP/1.1 200", AMPLE).await, Err(ProbeError::Closed)));
    }

    #[tokio::test]
    async fn what_is_not_http_is_an_error_of_its_own() {
        assert!(matches!(answering(b"SSH-2.0-OpenSSH_9.2\r\n", AMPLE).await, Err(ProbeError::Other(_))));
    }

    #[tokio::test]
    async fn nobody_there_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(probe(addr, "/healthz", AMPLE).await, Err(ProbeError::Refused)));
    }

    #[tokio::test]
    async fn a_reset_is_told_from_an_orderly_close() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = async {
            // Closed with the request unread: the kernel resets.
            let (stream, _) = listener.accept().await.unwrap();
            stream.peek(&mut [0]).await.unwrap();
        };
        let (answer, ()) = tokio::join!(probe(addr, "/healthz", AMPLE), server);
        assert!(matches!(answer, Err(ProbeError::Reset)), "{answer:?}");
    }

    #[tokio::test]
    async fn an_accept_without_an_answer_times_out() {
        // The kernel completes the connection, nobody ever takes it: a stopped process looks just so.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answer = probe(listener.local_addr().unwrap(), "/healthz", SOON).await;
        assert!(matches!(answer, Err(ProbeError::Timeout)), "{answer:?}");
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_bounded_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n").await.unwrap();
            stream
        };
        let (answer, _stream) = tokio::join!(probe(addr, "/", SOON), server);
        assert!(matches!(answer, Err(ProbeError::Timeout)), "{answer:?}");
    }

    #[tokio::test]
    async fn a_ready_url_is_asked_by_name_with_its_query() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: ReadyUrl =
            format!("http://localhost:{}/up?deep=1", listener.local_addr().unwrap().port()).parse().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /up?deep=1 HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(url.probe(AMPLE), server);
        assert_eq!(answer.unwrap().status, StatusCode::NO_CONTENT);
    }

    #[test]
    fn ready_urls_are_plain_http() {
        let url: ReadyUrl = "http://app.local".parse().unwrap();
        assert_eq!(url, ReadyUrl { host: "app.local".into(), port: 80, path: "/".into() });
        for wrong in [
            "",
            "app.local",
            "/ready",
            "app.local:80",
            "https://app.local/",
            "ftp://app.local/",
            "http://",
            "http://a:0/",
            "http://a:70000/",
            "http://a:x/",
            "http://me:pw@a/",
            "http://[::1]:80/",
            "http://a b/",
        ] {
            assert!(wrong.parse::<ReadyUrl>().is_err(), "{wrong}");
        }
    }
}
