//! [`Tls`]: the certificates a process shows and judges others by. TLS 1.3 only; both sides show one.

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Wrong;
use super::plan::{AGENT_NAME, ENVOY_NAME};
use super::read::{moment, shown_facts};
pub use super::set::Needs;
use super::set::{Print, Set};
use crate::clock::unix_now;

/// A stream with TLS on it.
pub type TlsStream<IO> = tokio_rustls::TlsStream<IO>;

/// How long a refused peer may take to receive the TLS alert.
const LAST_WORD: Duration = Duration::from_millis(500);
/// The peer's role, by the names in its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRole {
    Agent,
    Envoy,
    /// What its certificate says instead.
    Other(String),
}

/// The newest usable certificates of a directory; clones share them. Connections that are open keep what they began
/// with.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    needs: Needs,
    set: RwLock<Arc<Set>>,
}

/// What TLS tells of the other side when it does not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// It is none of this fleet, or speaks no TLS.
    Stranger,
    /// It answered by itself and moves; only the certificates, its or ours, are not accepted.
    Disagreement,
}

impl Tls {
    /// Reads `dir`.
    ///
    /// # Errors
    /// The first thing that is wrong with the files.
    pub fn load(dir: &Path, needs: Needs, now: i64) -> Result<Self, Wrong> {
        let set = RwLock::new(Arc::new(Set::read(dir, needs, now)?));
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), needs, set })))
    }

    /// Makes a stream to an etcd member one with TLS; `host` has to be in its certificate.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn to_etcd<IO>(&self, host: &str, stream: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.set().etcd));
        connector.connect(name, stream).await.map(TlsStream::from)
    }

    /// The same to an agent's control port. Sessions are resumed by address.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn to_agent<IO>(&self, ip: Ipv4Addr, stream: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let set = self.set();
        let (_, client) = set.control.as_ref().ok_or_else(no_control)?;
        let connector = TlsConnector::from(Arc::clone(client));
        connector.connect(ServerName::from(std::net::IpAddr::V4(ip)), stream).await.map(TlsStream::from)
    }

    /// The other end, on this agent's control port.
    ///
    /// # Errors
    /// The handshake's; the other side shows no certificate, or one of another authority.
    pub async fn accept<IO>(&self, stream: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let set = self.set();
        let (server, _) = set.control.as_ref().ok_or_else(no_control)?;
        let accepted = TlsAcceptor::from(Arc::clone(server)).accept(stream).into_fallible().await;
        match accepted {
            Ok(stream) => Ok(stream.into()),
            Err((error, stream)) => {
                _ = timeout(LAST_WORD, let_hear(stream)).await;
                Err(error)
            }
        }
    }

    pub(super) fn set(&self) -> Arc<Set> {
        Arc::clone(&self.0.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn print(&self) -> Print {
        Print::of(&self.0.dir, self.0.needs)
    }

    /// Takes over what is in the directory now, if it can be used.
    pub(super) fn reload(&self, now: i64) -> Result<Arc<Set>, Wrong> {
        let set = Arc::new(Set::read(&self.0.dir, self.0.needs, now)?);
        *self.0.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&set);
        Ok(set)
    }
}

impl PeerRole {
    /// The role of a stream's peer, from its certificate.
    pub fn of<IO>(stream: &TlsStream<IO>) -> Self {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let facts = certificates.first().map(shown_facts).unwrap_or_default();
        // A resumed session brings its certificate along, and TLS does not check again whether that has expired.
        if facts.to < unix_now() {
            return Self::Other(format!("nobody since {}", moment(facts.to)));
        }
        Self::named(&facts.names)
    }

    /// One certificate is one role: one with the names of two is neither.
    pub(super) fn named(names: &[String]) -> Self {
        match names {
            [name] if name == AGENT_NAME => Self::Agent,
            [name] if name == ENVOY_NAME => Self::Envoy,
            [] => Self::Other("no name".into()),
            names => Self::Other(names.join(" ")),
        }
    }
}

impl std::fmt::Display for PeerRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent => f.write_str("agent"),
            Self::Envoy => f.write_str("envoy"),
            Self::Other(names) => write!(f, "{}", names.escape_debug()),
        }
    }
}

impl TlsFailure {
    /// `None` when TLS had no part in it.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let error = tls_error(error)?;
        Some(match error {
            rustls::Error::AlertReceived(alert) if *alert != AlertDescription::CloseNotify => {
                Self::Disagreement
            }
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Self::Disagreement,
            _ => Self::Stranger,
        })
    }
}

/// What TLS has to say of an error, for people. Once a stream is HTTP/2's only the words of its errors are left.
pub fn complaint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = tls_error(error) {
        return Some(error.to_string());
    }
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if let Some(io) = io.filter(|io| io.kind() == io::ErrorKind::InvalidData) {
            return Some(io.to_string());
        }
        next = error.source();
    }
    None
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error hides what it carries from the chain.
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let carried = carried.map(|inner| inner as &(dyn Error + 'static));
        let found = carried.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = carried.or_else(|| error.source());
    }
    None
}

/// A socket that is closed with bytes unread is reset, and the alert that says why would be lost: to the other side
/// we would look dead.
async fn let_hear<IO: AsyncRead + AsyncWrite + Unpin>(mut stream: IO) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
}

fn no_control() -> io::Error {
    io::Error::other("these certificates are for etcd alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_with_two_roles_has_none() {
        let named = |names: &[&str]| {
            PeerRole::named(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(named(&["agent.muster"]), PeerRole::Agent);
        assert_eq!(named(&["envoy.muster"]), PeerRole::Envoy);
        for other in
            [&[][..], &["agent.muster", "envoy.muster"], &["AGENT.muster"], &["x.agent.muster"], &["agent"]]
        {
            assert!(matches!(named(other), PeerRole::Other(_)), "{other:?}");
        }
    }

    #[test]
    fn an_alert_says_that_somebody_lives_there() {
        let wrapped = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let alert = wrapped(rustls::Error::AlertReceived(AlertDescription::CertificateExpired));
        assert_eq!(TlsFailure::of(&alert), Some(TlsFailure::Disagreement));
        let expired = wrapped(rustls::Error::InvalidCertificate(CertificateError::Expired));
        assert_eq!(TlsFailure::of(&io::Error::other(expired)), Some(TlsFailure::Disagreement));
        let unknown = wrapped(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert_eq!(TlsFailure::of(&unknown), Some(TlsFailure::Stranger));
        assert_eq!(TlsFailure::of(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }
}
