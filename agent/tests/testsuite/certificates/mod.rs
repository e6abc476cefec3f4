//! A fleet's certificates in a temporary directory, and others that no fleet should accept.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::PathBuf;
use std::sync::Arc;

use muster::clock::unix_now;
use muster::pki::authorities::Authorities;
use muster::pki::init::init;
use muster::pki::issue::{Pem, Validity};
use muster::pki::plan::{Authority, CertificateSubject, Consumer};
use muster::pki::renew::renew;
use muster::pki::store::Store;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

pub struct Fleet {
    tmp: TempDir,
    authorities: Authorities,
}

impl Fleet {
    pub fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let store = store(&tmp);
        let member = Consumer::Member("etcd1".parse().unwrap());
        let services: Vec<Consumer> = [member].into_iter().chain(Consumer::OTHERS).collect();
        init(&store, &services, 365, unix_now()).unwrap();
        let authorities = Authorities::read(&store, unix_now()).unwrap().unwrap();
        Self { tmp, authorities }
    }

    /// What a service is given as its directory.
    pub fn dir(&self, service: &str) -> PathBuf {
        self.tmp.path().join(service).join("current")
    }

    pub fn renew(&self, service: &str) {
        renew(&store(&self.tmp), &[service.into()], &[], 365, unix_now()).unwrap();
    }

    /// A certificate good between these times, in seconds from now.
    pub fn sign(&self, identity: &CertificateSubject, from: i64, to: i64) -> Pem {
        let validity = Validity { from: unix_now() + from, to: unix_now() + to };
        self.authorities.of(identity.authority).sign(identity, validity).unwrap()
    }

    /// Shows `shown` and accepts servers of this fleet's control authority.
    pub fn client(&self, shown: Option<&Pem>) -> ClientConfig {
        Self::client_of(&[self], shown)
    }

    /// Shows `shown` and accepts servers of any of these fleets' control authorities.
    pub fn client_of(fleets: &[&Self], shown: Option<&Pem>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for fleet in fleets {
            let authority = &fleet.authorities.of(Authority::Control).certificate;
            roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn store(tmp: &TempDir) -> Store {
    Store { dir: tmp.path().to_owned(), owner: nix::unistd::geteuid().as_raw() }
}
