//! The way to an etcd member over TLS.

use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{Channel, Error};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport;
use tower::service_fn;
use tracing::warn;

use super::{CONNECT_TIMEOUT, PING_INTERVAL, PING_TIMEOUT};
use crate::config::Endpoint;
use crate::pki::tls::{Tls, complaint};

/// A channel that is connected when it is first used, with the certificates that are the newest then. The client's own
/// TLS would hold on to the ones it was made with.
///
/// # Errors
/// The endpoint's address is none.
pub(super) fn secured(endpoint: &Endpoint, tls: &Tls) -> Result<Channel, transport::Error> {
    let at = transport::Endpoint::from_shared(format!("http://{}:{}", endpoint.host, endpoint.port));
    let at = at?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let (host, port, tls) = (endpoint.host.clone(), endpoint.port, tls.clone());
    let connector = service_fn(move |_: transport::Uri| {
        let (host, tls) = (host.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            tls.to_etcd(&host, stream).await.map(TokioIo::new)
        }
    });
    Ok(Channel::Tonic(at.connect_with_connector_lazy(connector)))
}

/// What TLS last said against a member: told once until one answers. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Complaints(Arc<Mutex<Option<String>>>);

impl Complaints {
    /// A member that cannot be reached is nothing new. One that is refused, or refuses, needs an operator.
    pub(super) fn tell(&self, endpoint: &Endpoint, error: &Error) {
        let Some(said) = complaint(error) else { return };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&said) {
            warn!(name: "no-tls-with-etcd", %endpoint, error = said, "no TLS with etcd");
            *told = Some(said);
        }
    }

    pub(super) fn are_over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
