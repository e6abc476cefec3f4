//! The control port over real TLS: who gets in, to what, and what becomes of certificates that change or end.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use crate::certificates::Fleet;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use muster::clock::unix_now;
use muster::envoy::xds::{Published, XdsServer};
use muster::fleet::Leadership;
use muster::fleet::verdict::Ending;
use muster::metrics::{Metrics, Reload};
use muster::pki::Wrong;
use muster::pki::issue::{Pem, Signer, Validity};
use muster::pki::plan::{AGENT_NAME, Authority, CertificateSubject, Consumer, ENVOY_NAME, Usage};
use muster::pki::read::Pair;
use muster::pki::reload::follow;
use muster::pki::tls::{Needs, Tls};
use muster::presence::connect::Dial;
use muster::presence::control_port;
use muster::presence::prober::{Reply, ask_agent};
use muster::presence::server::{Attending, NodeStreamEnded, PresenceService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tower::service_fn;

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: i64 = 86_400;
const INSTANCE: &str = "0123456789abcdef";

/// A control port of an agent that leads, as the agent itself serves it.
struct Port {
    address: SocketAddrV4,
    attending: Attending,
    ended: mpsc::Receiver<NodeStreamEnded>,
    close: CancellationToken,
    _leads: watch::Sender<Option<Leadership>>,
    _published: watch::Sender<Option<Arc<Published>>>,
    serving: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Answer,
    Denied,
    /// The connection ended, or never began.
    Nothing,
}

impl Port {
    async fn open(tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = v4(&listener);
        let leadership = Leadership { key: b"/muster/leader/1".to_vec(), create_revision: 1 };
        let (leads, leadership) = watch::channel(Some(leadership));
        let (published, snapshots) = watch::channel(None);
        let (ended_in, ended) = mpsc::channel(16);
        let attending = Attending::default();
        let presence = PresenceService {
            instance: INSTANCE.into(),
            leadership,
            attending: attending.clone(),
            ended: ended_in,
        };
        let xds = XdsServer::new(snapshots, Arc::new(|| true), Arc::new(()));
        let close = CancellationToken::new();
        let serving = tokio::spawn(control_port::serve(listener, tls, xds, presence, close.clone()));
        Self { address, attending, ended, close, _leads: leads, _published: published, serving }
    }

    /// A connection with this configuration, or in the clear. It may look open before the server has said no.
    async fn connect(&self, config: Option<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
        let (address, config) = (self.address, config.map(Arc::new));
        let connector = service_fn(move |_| {
            let config = config.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let Some(config) = config else { return Ok(TokioIo::new(Either::Left(stream))) };
                let name = AGENT_NAME.try_into().unwrap();
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                std::io::Result::Ok(TokioIo::new(Either::Right(stream)))
            }
        });
        Endpoint::from_static("http://agent").connect_with_connector(connector).await
    }

    /// What becomes of one who asks for everything: presence, a question, ADS.
    async fn knock(&self, config: Option<ClientConfig>) -> [Got; 3] {
        let mut got = [Got::Nothing; 3];
        for (service, got) in got.iter_mut().enumerate() {
            let Ok(channel) = self.connect(config.clone()).await else { continue };
            let asked = async {
                match service {
                    0 => attend(channel).await.map(drop),
                    1 => here(channel).await.map(drop),
                    _ => ads(channel).await,
                }
            };
            *got = match timeout(PATIENCE, asked).await.unwrap() {
                Ok(()) => Got::Answer,
                // No snapshot is published, so that ADS answers as a follower's does.
                Err(status) if status.message() == "another agent leads" => Got::Answer,
                Err(status) if status.code() == Code::PermissionDenied => Got::Denied,
                Err(_) => Got::Nothing,
            };
        }
        got
    }

    async fn close(self) {
        self.close.cancel();
        self.serving.await.unwrap();
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attendance {
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(bool, tag = "2")]
    goodbye: bool,
}

/// `Roll`, `Question` and `Answer` are read by this: each has this field or none.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(string, tag = "1")]
    instance: String,
}

async fn here(channel: Channel) -> Result<String, Status> {
    let path = PathAndQuery::from_static("/muster.presence.v1.Presence/Here");
    let codec = tonic_prost::ProstCodec::<Answer, Answer>::default();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let answer = grpc.unary(Request::new(Answer::default()), path, codec).await?;
    Ok(answer.into_inner().instance)
}

/// An open stream that was heard once.
async fn attend(channel: Channel) -> Result<(mpsc::Sender<Attendance>, Streaming<Answer>), Status> {
    let path = PathAndQuery::from_static("/muster.presence.v1.Presence/Attend");
    let (words, spoken) = mpsc::channel(2);
    words.send(Attendance { instance: "fedcba9876543210".into(), goodbye: false }).await.unwrap();
    let codec = tonic_prost::ProstCodec::<Attendance, Answer>::default();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let mut roll = grpc.streaming(Request::new(ReceiverStream::new(spoken)), path, codec).await?.into_inner();
    roll.message().await?.unwrap();
    Ok((words, roll))
}

async fn ads(channel: Channel) -> Result<(), Status> {
    let (_requests, outgoing) = mpsc::channel(1);
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.map(drop)
}

fn v4(listener: &TcpListener) -> SocketAddrV4 {
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
    address
}

fn agents(fleet: &Fleet) -> Tls {
    Tls::load(&fleet.dir("agent"), Needs::EtcdAndControl, unix_now()).unwrap()
}

fn control_identity(name: &str, names: &[&str], usage: Usage) -> CertificateSubject {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateSubject {
        file: "control",
        authority: Authority::Control,
        common_name: name.into(),
        names,
        usage,
    }
}

fn validity(from: i64, to: i64) -> Validity {
    Validity { from: unix_now() + from, to: unix_now() + to }
}

fn agent() -> CertificateSubject {
    control_identity("agent", &[AGENT_NAME], Usage::Both)
}

fn envoy() -> CertificateSubject {
    control_identity("envoy", &[ENVOY_NAME], Usage::Client)
}

/// Asks until there is an answer: on a busy machine a handshake may take longer than one question has.
async fn asked(dial: &Dial, address: SocketAddrV4, instance: &str) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = ask_agent(dial, address, instance, PATIENCE).await;
        if !matches!(reply, Reply::None | Reply::Late) || Instant::now() > deadline {
            return reply;
        }
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn each_role_gets_what_is_its_own_and_strangers_get_nothing() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let port = Port::open(Some(agents(&fleet))).await;
    let shown = |identity: &CertificateSubject, from, to| fleet.client(Some(&fleet.sign(identity, from, to)));
    let (answer, denied) = (Got::Answer, Got::Denied);
    let mut right = shown(&agent(), -DAY, DAY);
    assert_eq!(port.knock(Some(right.clone())).await, [answer, answer, denied], "an agent");
    assert_eq!(port.knock(Some(shown(&envoy(), -DAY, DAY))).await, [denied, denied, answer], "Envoy");
    for names in
        [&["operator.muster"][..], &[], &[AGENT_NAME, ENVOY_NAME], &["x.agent.muster"], &["*.muster"]]
    {
        let identity = control_identity("agent", names, Usage::Client);
        assert_eq!(port.knock(Some(shown(&identity, -DAY, DAY))).await, [denied; 3], "{names:?}");
    }
    let etcd_user = CertificateSubject { authority: Authority::Etcd, ..agent() };
    let server = control_identity("agent", &[AGENT_NAME], Usage::Server);
    // Whoever has taken an agent over has its key, and that signs nothing.
    let leaf = fleet.sign(&agent(), -DAY, DAY);
    let mut forged = Signer::read(&leaf, i64::MAX).unwrap().sign(&envoy(), validity(-DAY, DAY)).unwrap();
    forged.certificate += &leaf.certificate;
    for (who, config) in [
        ("in the clear", None),
        ("without a certificate", Some(fleet.client(None))),
        ("of another fleet", Some(fleet.client(Some(&other.sign(&agent(), -DAY, DAY))))),
        ("of etcd's authority", Some(shown(&etcd_user, -DAY, DAY))),
        ("expired", Some(shown(&agent(), -2 * DAY, -DAY))),
        ("not yet valid", Some(shown(&agent(), DAY, 2 * DAY))),
        ("a server's", Some(shown(&server, -DAY, DAY))),
        ("signed by an agent", Some(fleet.client(Some(&forged)))),
    ] {
        assert_eq!(port.knock(config).await, [Got::Nothing; 3], "{who}");
    }
    // HTTP/2 is all that is spoken.
    right.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(port.connect(Some(right)).await.is_err());
    port.close().await;
}

#[tokio::test]
async fn a_refusal_says_which_role_was_seen() {
    let fleet = Fleet::new();
    let port = Port::open(Some(agents(&fleet))).await;
    let config = fleet.client(Some(&fleet.sign(&envoy(), -DAY, DAY)));
    let refused = here(port.connect(Some(config)).await.unwrap()).await.unwrap_err();
    assert_eq!(refused.message(), "this is for the role agent, and the certificate shown is of envoy");
    let config = fleet.client(Some(&fleet.sign(&agent(), -DAY, DAY)));
    let refused = ads(port.connect(Some(config)).await.unwrap()).await.unwrap_err();
    assert_eq!(refused.message(), "this is for the role envoy, and the certificate shown is of agent");
    port.close().await;
}

#[tokio::test]
async fn the_end_of_a_stream_is_told_below_tls() {
    let fleet = Fleet::new();
    let mut port = Port::open(Some(agents(&fleet))).await;
    let config = fleet.client(Some(&fleet.sign(&agent(), -DAY, DAY)));
    // Between them stands what ends without a word, as a process that is killed does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (between, real) = (v4(&listener), port.address);
    let link = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(real).await.unwrap();
        _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    port.address = between;
    let _stream = attend(port.connect(Some(config)).await.unwrap()).await.unwrap();
    assert!(port.attending.has("fedcba9876543210"));
    link.abort();
    let ended = timeout(PATIENCE, port.ended.recv()).await.unwrap().unwrap();
    assert_eq!((ended.instance.as_str(), ended.ending), ("fedcba9876543210", Ending::Closed));
    port.close().await;
}

/// Accepts connections with one certificate, whatever it is, and says nothing on them.
async fn server_with(pem: &Pem) -> (SocketAddrV4, JoinHandle<()>) {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
    let config = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = v4(&listener);
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                _ = stream.read(&mut [0; 1]).await;
            }
        }
    });
    (address, serving)
}

#[tokio::test]
async fn an_agent_asks_agents_of_its_fleet_alone_and_certificates_that_ended_kill_nobody() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let dial = Dial { tls: Some(agents(&fleet)) };
    let port = Port::open(Some(agents(&fleet))).await;
    assert_eq!(asked(&dial, port.address, INSTANCE).await, Reply::Alive);
    assert_eq!(asked(&dial, port.address, "another").await, Reply::Gone);
    let strange = Port::open(Some(agents(&other))).await;
    assert_eq!(asked(&dial, strange.address, INSTANCE).await, Reply::Gone, "another fleet's");
    let plain = Port::open(None).await;
    assert_eq!(asked(&dial, plain.address, INSTANCE).await, Reply::Gone, "in the clear");

    for (who, identity, (from, to), reply) in [
        (
            "Envoy as a server",
            control_identity("envoy", &[ENVOY_NAME], Usage::Both),
            (-DAY, DAY),
            Reply::Gone,
        ),
        (
            "an agent for clients",
            control_identity("agent", &[AGENT_NAME], Usage::Client),
            (-DAY, DAY),
            Reply::Gone,
        ),
        ("etcd", CertificateSubject { authority: Authority::Etcd, ..agent() }, (-DAY, DAY), Reply::Gone),
        (
            "one of two roles",
            control_identity("agent", &[AGENT_NAME, ENVOY_NAME], Usage::Both),
            (-DAY, DAY),
            Reply::Gone,
        ),
        ("a wildcard", control_identity("agent", &["*.muster"], Usage::Both), (-DAY, DAY), Reply::Gone),
        ("its certificate ended", agent(), (-2 * DAY, -DAY), Reply::Alive),
        ("its certificate has not begun", agent(), (DAY, 2 * DAY), Reply::Alive),
    ] {
        let (address, serving) = server_with(&fleet.sign(&identity, from, to)).await;
        assert_eq!(asked(&dial, address, INSTANCE).await, reply, "{who}");
        serving.abort();
    }

    // The own certificate has ended: the other side says so, and is alive.
    let past = Fleet::new();
    let port_of_past = Port::open(Some(agents(&past))).await;
    let pem = past.sign(&agent(), -2 * DAY, -DAY);
    std::fs::write(past.dir("agent").join("control.crt"), &pem.certificate).unwrap();
    std::fs::write(past.dir("agent").join("control.key"), &pem.key).unwrap();
    let then = unix_now() - DAY - DAY / 2;
    let refused = Tls::load(&past.dir("agent"), Needs::EtcdAndControl, unix_now()).unwrap_err();
    assert!(matches!(refused, Wrong::Expired { .. }), "{refused}");
    let etcd = past.sign(&Consumer::Agent.identities()[0], -2 * DAY, DAY);
    std::fs::write(past.dir("agent").join("etcd.crt"), &etcd.certificate).unwrap();
    std::fs::write(past.dir("agent").join("etcd.key"), &etcd.key).unwrap();
    let ended = Dial { tls: Some(Tls::load(&past.dir("agent"), Needs::EtcdAndControl, then).unwrap()) };
    assert_eq!(asked(&ended, port_of_past.address, INSTANCE).await, Reply::Alive);

    let nobody = port.address;
    port.close().await;
    assert_eq!(asked(&dial, nobody, INSTANCE).await, Reply::Gone, "nobody listens");
    for port in [strange, plain, port_of_past] {
        port.close().await;
    }
}

#[tokio::test]
async fn a_second_handshake_resumes_the_first() {
    let tls = agents(&Fleet::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = v4(&listener);
    let server = tls.clone();
    let serving = tokio::spawn(async move {
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = server.accept(stream).await.unwrap();
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
            _ = stream.read(&mut [0; 1]).await;
        }
    });
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = tls.to_agent(Ipv4Addr::LOCALHOST, stream).await.unwrap();
        // Tickets come with the first data.
        stream.read_exact(&mut [0; 1]).await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind());
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_session_lets_nobody_in_whose_certificate_has_ended() {
    let fleet = Fleet::new();
    let port = Port::open(Some(agents(&fleet))).await;
    // Long enough for one answer before its end, on any machine.
    for lives in [3, 12, 48] {
        let config = fleet.client(Some(&fleet.sign(&agent(), -DAY, lives)));
        let ends = unix_now() + lives;
        let ask = async || match port.connect(Some(config.clone())).await {
            Ok(channel) => here(channel).await.map_err(|status| status.message().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if ask().await.is_err() && unix_now() > ends {
            continue;
        }
        until("its end", async || unix_now() > ends + 1).await;
        // By a ticket of the first time: without one TLS itself would have turned it away, without these words.
        let refused = ask().await.unwrap_err();
        assert!(refused.contains("the certificate shown is of nobody since 20"), "{refused}");
        return port.close().await;
    }
    panic!("no answer within 48 s");
}

#[tokio::test]
async fn tickets_of_an_authority_that_was_replaced_are_worth_nothing() {
    let (fleet, next) = (Fleet::new(), Fleet::new());
    let tls = agents(&fleet);
    let metrics = Metrics::new("", "");
    let following = tokio::spawn(follow(tls.clone(), metrics.clone()));
    let port = Port::open(Some(tls)).await;
    let config = Fleet::client_of(&[&fleet, &next], Some(&fleet.sign(&agent(), -DAY, DAY)));
    let answer = Got::Answer;
    assert_eq!(port.knock(Some(config.clone())).await, [answer, answer, Got::Denied]);
    for file in std::fs::read_dir(next.dir("agent")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), fleet.dir("agent").join(file.file_name())).unwrap();
    }
    until("the new ones are taken", async || metrics.tls_reloads.get_or_create(&Reload::Taken).get() == 1)
        .await;
    assert_eq!(port.knock(Some(config)).await, [Got::Nothing; 3]);
    let config = Fleet::client_of(&[&next], Some(&next.sign(&agent(), -DAY, DAY)));
    assert_eq!(port.knock(Some(config)).await, [answer, answer, Got::Denied]);
    following.abort();
    port.close().await;
}

#[tokio::test]
async fn whoever_says_nothing_is_shown_out() {
    let port = Port::open(Some(agents(&Fleet::new()))).await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    let mut garbage = TcpStream::connect(port.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    for stream in [&mut silent, &mut garbage] {
        let mut said = Vec::new();
        // An alert at most; reset counts as an end.
        _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the connection ends");
        assert!(said.len() < 16, "{said:?}");
    }
    port.close().await;
}

#[tokio::test]
async fn etcd_is_judged_by_authority_name_and_use() {
    let fleet = Fleet::new();
    let tls = agents(&fleet);
    let server = |authority, name: &str, usage| CertificateSubject {
        file: "server",
        authority,
        common_name: name.into(),
        names: vec![name.into()],
        usage,
    };
    for (who, identity, (from, to), taken) in [
        ("a member", server(Authority::Etcd, "etcd1", Usage::Server), (-DAY, DAY), true),
        ("another member", server(Authority::Etcd, "etcd2", Usage::Server), (-DAY, DAY), false),
        ("another authority's", server(Authority::Control, "etcd1", Usage::Server), (-DAY, DAY), false),
        ("a member for members", server(Authority::Peer, "etcd1", Usage::Both), (-DAY, DAY), false),
        ("a client", server(Authority::Etcd, "etcd1", Usage::Client), (-DAY, DAY), false),
        ("one that has ended", server(Authority::Etcd, "etcd1", Usage::Server), (-2 * DAY, -DAY), false),
    ] {
        let (address, serving) = server_with(&fleet.sign(&identity, from, to)).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let outcome = timeout(PATIENCE, tls.to_etcd("etcd1", stream)).await.unwrap();
        assert_eq!(outcome.is_ok(), taken, "{who}: {:?}", outcome.err());
        serving.abort();
    }
}

#[test]
fn nothing_that_can_be_printed_has_a_key_in_it() {
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let fleet = Fleet::new();
    let pem = fleet.sign(&agent(), -DAY, DAY);
    let (certificate, key) = (fleet.dir("agent").join("control.crt"), fleet.dir("agent").join("control.key"));
    std::fs::write(certificate, &pem.certificate).unwrap();
    std::fs::write(key, &pem.key).unwrap();
    let printed = [
        format!("{pem:#?}{:#?}", Pair::read(&fleet.dir("agent"), "control").unwrap()),
        format!("{pem:?}{:?}", Pair::read(&fleet.dir("agent"), "control").unwrap()),
        format!("{:?}", agents(&fleet)),
    ];
    let der = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
    let bytes = der.secret_der().iter().map(u8::to_string).collect::<Vec<_>>();
    let hex: String = der.secret_der().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = pem.key.lines().nth(1).unwrap();
    for printed in printed {
        assert!(printed.contains("certificate") || printed.contains("etcd"), "something is printed");
        let flat: String = printed.split_whitespace().collect();
        let (secret, dense) = (bytes[40..50].join(","), hex[80..100].to_owned());
        assert!(![text, &secret, &dense].iter().any(|secret| flat.contains(*secret)), "{printed}");
    }
}

/// The certificate that a server shows now.
async fn shown_by(port: &Port, fleet: &Fleet) -> Vec<u8> {
    let config = fleet.client(Some(&fleet.sign(&agent(), -DAY, DAY)));
    let stream = TcpStream::connect(port.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(AGENT_NAME.try_into().unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn new_certificates_are_taken_over_and_open_streams_stay() {
    let fleet = Fleet::new();
    let tls = agents(&fleet);
    let metrics = Metrics::new("", "");
    let following = tokio::spawn(follow(tls.clone(), metrics.clone()));
    let mut port = Port::open(Some(tls)).await;
    let config = fleet.client(Some(&fleet.sign(&agent(), -DAY, DAY)));
    let (_words, mut roll) = attend(port.connect(Some(config)).await.unwrap()).await.unwrap();
    let reloads = |result| metrics.tls_reloads.get_or_create(&result).get();

    let first = shown_by(&port, &fleet).await;
    fleet.renew("agent");
    until("the renewed certificate is shown", async || shown_by(&port, &fleet).await != first).await;
    assert_eq!((reloads(Reload::Taken), reloads(Reload::Refused)), (1, 0));

    // A new certificate without its key: the old pair stays, and it is said once.
    let second = shown_by(&port, &fleet).await;
    let pem = fleet.sign(&agent(), -DAY, DAY);
    std::fs::write(fleet.dir("agent").join("control.crt"), &pem.certificate).unwrap();
    until("the half is refused", async || reloads(Reload::Refused) == 1).await;
    assert_eq!(shown_by(&port, &fleet).await, second);
    std::fs::write(fleet.dir("agent").join("control.key"), &pem.key).unwrap();
    until("the whole is taken", async || reloads(Reload::Taken) == 2).await;
    assert_ne!(shown_by(&port, &fleet).await, second);

    // One that has ended, one of Envoy, one of another fleet, none at all: each is refused, the last good one stays.
    let good = shown_by(&port, &fleet).await;
    let bad = [
        fleet.sign(&agent(), -2 * DAY, -DAY),
        fleet.sign(&envoy(), -DAY, DAY),
        Fleet::new().sign(&agent(), -DAY, DAY),
        Pem { certificate: String::new(), key: pem.key.clone() },
    ];
    for (number, pem) in (2..).zip(&bad) {
        std::fs::write(fleet.dir("agent").join("control.crt"), &pem.certificate).unwrap();
        std::fs::write(fleet.dir("agent").join("control.key"), &pem.key).unwrap();
        until("it is refused", async || reloads(Reload::Refused) == number).await;
        assert_eq!(shown_by(&port, &fleet).await, good);
    }
    fleet.renew("agent");
    until("a good one is taken", async || reloads(Reload::Taken) == 3).await;

    assert!(
        timeout(Duration::from_millis(100), roll.message()).await.is_err(),
        "the stream is as open as before"
    );
    assert!(port.ended.try_recv().is_err() && port.attending.has("fedcba9876543210"));
    assert!(!following.is_finished());
    following.abort();
    port.close().await;
}

/// On a clock of its own, so that a look at the files comes when the test says.
#[tokio::test(start_paused = true)]
async fn files_that_come_one_by_one_are_no_mistake() {
    let fleet = Fleet::new();
    let metrics = Metrics::new("", "");
    let following = tokio::spawn(follow(agents(&fleet), metrics.clone()));
    let looks = async |count| sleep(Duration::from_secs(count) + Duration::from_millis(1)).await;
    let reloads = || [Reload::Taken, Reload::Refused].map(|of| metrics.tls_reloads.get_or_create(&of).get());
    looks(3).await;
    let pem = fleet.sign(&agent(), -DAY, DAY);
    std::fs::write(fleet.dir("agent").join("control.crt"), &pem.certificate).unwrap();
    looks(1).await;
    assert_eq!(reloads(), [0, 0], "one half has come");
    std::fs::write(fleet.dir("agent").join("control.key"), &pem.key).unwrap();
    looks(1).await;
    assert_eq!(reloads(), [1, 0], "and the other");
    std::fs::write(fleet.dir("agent").join("control.key"), "nothing").unwrap();
    looks(10).await;
    assert_eq!(reloads(), [1, 1], "what stays half is told, and once");
    following.abort();
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let fleet = Fleet::new();
    let load = |service: &str, needs| Tls::load(&fleet.dir(service), needs, unix_now());
    assert!(load("agent", Needs::EtcdAndControl).is_ok());
    assert!(load("operator", Needs::Etcd).is_ok());
    assert!(load("etcd1", Needs::Etcd).is_ok(), "for the operator beside a member");
    for (service, needs, word) in [
        ("operator", Needs::EtcdAndControl, "control.crt is missing"),
        ("envoy", Needs::EtcdAndControl, "etcd.crt is missing"),
        ("nowhere", Needs::Etcd, "nowhere/current is missing"),
    ] {
        let error = load(service, needs).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let put = |service: &str, file: &str, pem: Pem| {
        std::fs::write(fleet.dir(service).join(format!("{file}.crt")), pem.certificate).unwrap();
        std::fs::write(fleet.dir(service).join(format!("{file}.key")), pem.key).unwrap();
    };
    let operator = Consumer::Operator.identities().remove(0);
    for ((from, to), word) in [((-2 * DAY, -DAY), "ended at"), ((DAY, 2 * DAY), "begins at")] {
        put("operator", "etcd", fleet.sign(&operator, from, to));
        let error = load("operator", Needs::Etcd).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("etcd.crt"), "{error}");
    }
    let control = |pem: Pem| {
        put("agent", "control", pem);
        load("agent", Needs::EtcdAndControl).unwrap_err().to_string()
    };
    let error = control(fleet.sign(&envoy(), -DAY, DAY));
    assert!(error.contains("is for `envoy` (envoy.muster), and an agent is needed"), "{error}");
    let error = control(fleet.sign(&agent(), DAY, 2 * DAY));
    assert!(error.contains("begins at"), "{error}");
}
