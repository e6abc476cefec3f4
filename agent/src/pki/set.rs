//! [`Set`]: one reading of a directory of certificates, as TLS wants it.

use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::Wrong;
use super::read::Pair;
use super::server_verifier::ByRole;
use super::tls::PeerRole;

/// gRPC's.
const PROTOCOL: &[u8] = b"h2";

/// What a process needs of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// `etcd.crt` and so on.
    Etcd,
    /// `control.crt` and so on, too.
    EtcdAndControl,
}

/// What was read at one time.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) etcd: Arc<ClientConfig>,
    pub(super) control: Option<(Arc<ServerConfig>, Arc<ClientConfig>)>,
    /// When the first certificate of it ends, in seconds since 1970.
    pub(super) ends: i64,
    pub(super) print: Print,
}

/// Tells one state of the files from another without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Print(Vec<Option<[i64; 5]>>);

impl Set {
    pub(super) fn read(dir: &Path, needs: Needs, now: i64) -> Result<Self, Wrong> {
        // Resolved once, so that all files are of one generation.
        let dir = dir.canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Wrong::Missing { path: dir.to_owned() },
            _ => Wrong::Unreadable { path: dir.to_owned(), why: error.to_string() },
        })?;
        // Before the files: a change while they are read is a change.
        let print = Print::of(&dir, needs);
        let etcd = Pair::read(&dir, "etcd")?;
        etcd.in_time(now)?;
        needs_role(&etcd, etcd.facts.client, "a client of etcd")?;
        let mut ends = etcd.ends();
        let mut control = None;
        if needs == Needs::EtcdAndControl {
            let pair = Pair::read(&dir, "control")?;
            pair.in_time(now)?;
            let agent = PeerRole::named(&pair.facts.names) == PeerRole::Agent
                && pair.facts.client
                && pair.facts.server;
            needs_role(&pair, agent, "an agent")?;
            ends = ends.min(pair.ends());
            control = Some((Arc::new(server(&pair)?), Arc::new(client(&pair, true)?)));
        }
        Ok(Self { etcd: Arc::new(client(&etcd, false)?), control, ends, print })
    }
}

fn needs_role(pair: &Pair, is_right: bool, expected: &str) -> Result<(), Wrong> {
    let seen = || format!("`{}` ({})", pair.facts.common_name, pair.facts.names.join(" "));
    let wrong =
        || Wrong::PeerRole { path: pair.certificate.clone(), seen: seen(), expected: expected.into() };
    if is_right { Ok(()) } else { Err(wrong()) }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(pair: &Pair) -> Result<Arc<RootCertStore>, Wrong> {
    let mut roots = RootCertStore::empty();
    for root in &pair.roots {
        roots.add(root.clone()).map_err(|error| unfit(&pair.authority, &error))?;
    }
    Ok(Arc::new(roots))
}

fn server(pair: &Pair) -> Result<ServerConfig, Wrong> {
    let clients = WebPkiClientVerifier::builder_with_provider(roots(pair)?, provider()).build();
    let clients = clients.map_err(|error| unfit(&pair.authority, &error))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let builder =
        builder.map_err(|error| unfit(&pair.certificate, &error))?.with_client_cert_verifier(clients);
    let config = builder.with_single_cert(pair.chain.clone(), pair.key.clone_key());
    let mut config = config.map_err(|error| unfit(&pair.certificate, &error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// Sessions are resumed: a question to an agent has 20 ms.
fn client(pair: &Pair, of_agents: bool) -> Result<ClientConfig, Wrong> {
    let servers = WebPkiServerVerifier::builder_with_provider(roots(pair)?, provider()).build();
    let servers: Arc<dyn ServerCertVerifier> = servers.map_err(|error| unfit(&pair.authority, &error))?;
    let servers = if of_agents { Arc::new(ByRole::agents(servers)) } else { servers };
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let builder = builder.map_err(|error| unfit(&pair.certificate, &error))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(servers);
    let config = builder.with_client_auth_cert(pair.chain.clone(), pair.key.clone_key());
    let mut config = config.map_err(|error| unfit(&pair.certificate, &error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

fn unfit(path: &Path, error: &dyn Error) -> Wrong {
    Wrong::Malformed { path: path.to_owned(), expected: "certificate for TLS 1.3", why: error.to_string() }
}

impl Print {
    pub(super) fn of(dir: &Path, needs: Needs) -> Self {
        // Of one generation, as a reading is.
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let stems = if needs == Needs::Etcd { &["etcd"][..] } else { &["etcd", "control"] };
        let files = |stem| [".crt", ".key", "-ca.crt"].map(|ending| dir.join(format!("{stem}{ending}")));
        Self(stems.iter().flat_map(files).map(state).collect())
    }
}

/// `None` where there is no file.
fn state(path: PathBuf) -> Option<[i64; 5]> {
    let found = path.metadata().ok()?;
    let (number, size) = (found.ino().cast_signed(), found.size().cast_signed());
    Some([number, size, found.mtime(), found.mtime_nsec(), found.ctime_nsec()])
}
