//! [`ByRole`]: a server is judged by its role, not by the name or address it was reached at.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::plan::AGENT_NAME;
use super::read::shown_facts;
use super::tls::PeerRole;

/// Verifies as `inner` does, with a name of its own: containers get new addresses all the time, and the registry, from
/// which they come, must not be what tells an agent from a stranger.
#[derive(Debug)]
pub(super) struct ByRole {
    inner: Arc<dyn ServerCertVerifier>,
    name: ServerName<'static>,
}

impl ByRole {
    /// Takes agents alone.
    pub(super) fn agents(inner: Arc<dyn ServerCertVerifier>) -> Self {
        Self { inner, name: ServerName::try_from(AGENT_NAME).expect("it is a DNS name") }
    }
}

impl ServerCertVerifier for ByRole {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _reached_at: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)?;
        // Not one among several names, nor what a wildcard covers: agents judge their callers as strictly.
        if PeerRole::named(&shown_facts(end_entity).names) == PeerRole::Agent {
            Ok(verified)
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
