//! [`Dial`]: the way to another agent's control port.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

use super::transport::{Closed, Watched, Wire};
use crate::pki::tls::Tls;

/// HTTP/2 pings: a frozen peer answers none.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a connection, its handshake included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// In the clear, or with the newest certificates.
#[derive(Clone, Debug, Default)]
pub struct Dial {
    pub tls: Option<Tls>,
}

impl Dial {
    /// # Errors
    /// The connection is refused, or the TLS handshake fails ([`crate::pki::tls::TlsFailure::of`]).
    pub(super) async fn connect(&self, address: SocketAddrV4, closed: Closed) -> Result<Channel, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let tls = self.tls.clone();
        let connector = service_fn(move |_: Uri| {
            let (closed, tls) = (closed.clone(), tls.clone());
            async move {
                let stream = TcpStream::connect(SocketAddr::V4(address)).await?;
                stream.set_nodelay(true)?;
                let stream = Watched::new(stream, closed);
                let wire = match &tls {
                    None => Wire::Plain(stream),
                    Some(tls) => Wire::secured(tls.to_agent(*address.ip(), stream).await?),
                };
                std::io::Result::Ok(TokioIo::new(wire))
            }
        });
        endpoint.connect_with_connector(connector).await
    }
}
