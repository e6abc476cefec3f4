//! The edge with TLS, spoken by a real Envoy: protocols, the redirect, and certificates that come, change and are wrong.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster::envoy::{EdgeSettings, EdgeTls};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use super::envoy::Envoy;
use super::leader::{Leader, eventually};
use super::roster::{published_with, settings};
use super::upstream::{ECHO_PATH, Upstream, fetch};
use crate::part::part;

const NAME: &str = "edge.test";
const PUBLIC_PORT: u16 = 8443;

/// What `make up` is given and makes of it: two files, and one that names them for Envoy.
struct Files(PathBuf);

impl Files {
    fn in_directory(directory: &Path) -> Self {
        for (folder, ..) in [CERTIFICATE, KEY] {
            std::fs::create_dir(directory.join(folder)).unwrap();
        }
        let file = |(folder, name): (&str, &str)| json!({"filename": directory.join(folder).join(name)});
        let secret = json!({"resources": [{
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "edge",
            "tls_certificate": {"certificate_chain": file(CERTIFICATE), "private_key": file(KEY)},
        }]});
        std::fs::write(directory.join("edge.json"), secret.to_string()).unwrap();
        Self(directory.to_owned())
    }

    fn secret(&self) -> String {
        self.0.join("edge.json").display().to_string()
    }

    /// As a renewal does it: another file is moved over the old one.
    fn put(&self, (folder, name): (&str, &str), pem: &str) {
        let next = self.0.join(folder).join("next");
        std::fs::write(&next, pem).unwrap();
        std::fs::rename(next, self.0.join(folder).join(name)).unwrap();
    }
}

/// Directories of their own, as `/etc/ssl/certs` and `/etc/ssl/private` are.
const CERTIFICATE: (&str, &str) = ("certs", "site.crt");
const KEY: (&str, &str) = ("private", "site.key");

struct Issued {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

fn issued() -> Issued {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    Issued {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

/// A client that knows this one certificate; an error when it is shown another.
async fn connect(
    edge: SocketAddrV4,
    trusted: &Issued,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_protocol_versions(&[&version::TLS13]).unwrap().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(edge).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), socket).await
}

async fn shows(edge: SocketAddrV4, certificate: &Issued) {
    eventually("the certificate", async || connect(edge, certificate, &[]).await.ok().map(drop)).await;
}

#[tokio::test]
async fn with_tls_browsers_get_http_2_and_everybody_is_sent_there() {
    let Some(program) = part("envoy") else { return };
    let (first, second) = (issued(), issued());
    let upstream = Upstream::start("127.0.0.10").await;
    let directory = tempfile::tempdir().unwrap();
    let files = Files::in_directory(directory.path());
    let tls = EdgeTls { listen: settings().listen, port: PUBLIC_PORT, secret: files.secret() };
    let settings = EdgeSettings { tls: Some(tls), ..settings() };
    let leader = Leader::start(Some(published_with(&[upstream.address], 1, &settings))).await;
    // A key that belongs to another certificate: nobody is shown anything, and the redirect is there.
    files.put(CERTIFICATE, &first.certificate);
    files.put(KEY, &second.key);
    let envoy = Envoy::start_in(directory, &program, &[leader.address], "{}");
    let plain = envoy.edge().await;
    let edge = envoy.listener("edge-tls").await;
    for wrong in [&first, &second] {
        assert!(connect(edge, wrong, &[]).await.is_err(), "half a certificate is none");
    }
    files.put(KEY, &first.key);
    shows(edge, &first).await;

    for (method, path, status, location) in [
        ("GET", "/ips.json?a=b", 301, Some("https://test:8443/ips.json?a=b")),
        ("HEAD", "/", 301, Some("https://test:8443/")),
        ("GET", "/healthz", 200, None),
        ("GET", "/.well-known/a", 301, Some("https://test:8443/.well-known/a")),
        ("GET", "/.env", 404, None),
        ("POST", "/", 405, None),
    ] {
        let answer = fetch(plain, method, path).await.unwrap();
        let to = answer.head.lines().find_map(|line| line.strip_prefix("location: "));
        assert_eq!((answer.status, to), (status, location), "{method} {path}");
    }
    assert!(fetch(plain, "GET", "/").await.unwrap().head.contains("cache-control: no-store"));

    let stream = connect(edge, &first, &["h2", "http/1.1"]).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("https://{NAME}{ECHO_PATH}")).body(()).unwrap();
    let (answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let echo = answer.into_body().data().await.unwrap().unwrap();
    let echo = String::from_utf8_lossy(&echo).into_owned();
    assert!(echo.contains("x-forwarded-proto: https\r\n") && echo.contains("host: edge.test\r\n"), "{echo}");
    connection.abort();

    let old = connect(edge, &first, &["http/1.1"]).await.unwrap();
    assert_eq!(old.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert_eq!(over(old).await, 200);

    // Half of a renewal is none.
    let rejected = async || {
        let stats = envoy.admin("/stats?filter=sds.edge.key_rotation_failed").await?;
        Some(stats.lines().filter_map(|line| line.rsplit(": ").next()?.parse::<u64>().ok()).sum::<u64>())
    };
    let before = rejected().await.unwrap();
    files.put(CERTIFICATE, &second.certificate);
    eventually("the half", async || (rejected().await? > before).then_some(())).await;
    assert!(connect(edge, &first, &[]).await.is_ok(), "the old one stays in use");
    assert!(connect(edge, &second, &[]).await.is_err(), "and nobody takes it for another");
    files.put(KEY, &second.key);
    shows(edge, &second).await;
    assert!(connect(edge, &first, &[]).await.is_err());
    assert_eq!(leader.counts.of(muster::envoy::xds::AckKind::Nack), 0, "{}", envoy.log());
    let log = envoy.log().to_lowercase();
    assert!(!log.contains("deprecated"), "{log}");
}

/// The status that a GET for the echo gets on this connection.
async fn over(mut stream: TlsStream<TcpStream>) -> u16 {
    let request = format!("GET {ECHO_PATH} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_buf(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap().parse().unwrap()
}
