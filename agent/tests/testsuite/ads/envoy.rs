//! A real Envoy against the real server: it accepts every resource, routes, and follows.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use muster::envoy::xds::AckKind;
use serde_json::json;

use super::leader::{Leader, eventually};
use super::roster::published;
use super::upstream::{Answer, BUSY_PATH, LATE_PATH, SILENT_PATH, SLOW_PATH, SLOW_PIECES, Upstream, fetch};
use crate::part::part;

/// An Envoy that knows only where agents live. It is killed when dropped.
pub struct Envoy {
    process: Child,
    directory: tempfile::TempDir,
}

impl Envoy {
    pub fn start(program: &Path, agents: &[SocketAddr]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), program, agents, "{}")
    }

    /// With further configuration, in Envoy's YAML.
    pub fn start_in(
        directory: tempfile::TempDir,
        program: &Path,
        agents: &[SocketAddr],
        further: &str,
    ) -> Self {
        let config = directory.path().join("envoy.json");
        std::fs::write(&config, bootstrap(agents).to_string()).unwrap();
        let process = Command::new(program)
            .arg("--config-path")
            .arg(config)
            .args(["--config-yaml", further])
            .arg("--admin-address-path")
            .arg(directory.path().join("admin"))
            .arg("--log-path")
            .arg(directory.path().join("log"))
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, directory }
    }

    /// Where the listener `edge` was opened.
    pub async fn edge(&self) -> SocketAddrV4 {
        self.listener("edge").await
    }

    pub async fn listener(&self, name: &str) -> SocketAddrV4 {
        eventually("a listener", async || {
            let listeners = self.admin("/listeners").await?;
            let address = |line: &str| line.strip_prefix(name)?.strip_prefix("::")?.parse().ok();
            listeners.lines().find_map(address)
        })
        .await
    }

    pub async fn admin(&self, path: &str) -> Option<String> {
        let address = std::fs::read_to_string(self.directory.path().join("admin")).ok()?;
        let answer = fetch(address.trim().parse().ok()?, "GET", path).await?;
        // The body may be chunked: fine for looking at lines, and no more is done with it.
        Some(answer.body)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            println!("envoy's log:\n{}", self.log());
        }
    }
}

/// As in envoy/: every agent in one cluster, walked round robin with short back-offs.
fn bootstrap(agents: &[SocketAddr]) -> serde_json::Value {
    let socket = |address: &SocketAddr| json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } });
    let endpoints: Vec<_> =
        agents.iter().map(|agent| json!({ "endpoint": { "address": socket(agent) } })).collect();
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "node": { "id": "envoy-test", "cluster": "edge" },
        "admin": { "address": socket(&"127.0.0.1:0".parse().unwrap()) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds", "retry_policy": {
                    "retry_back_off": { "base_interval": "0.05s", "max_interval": "0.2s" } } } }],
            },
            "cds_config": ads, "lds_config": ads,
        },
        "static_resources": { "clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "0.3s", "lb_policy": "ROUND_ROBIN",
            "load_assignment": { "cluster_name": "xds", "endpoints": [{ "lb_endpoints": endpoints }] },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} },
                },
            },
        }] },
    })
}

/// The end of envoy/bootstrap.yaml, as it is: what holds in containers and in tests alike.
fn shared() -> &'static str {
    let bootstrap = include_str!("../../../../envoy/bootstrap.yaml");
    &bootstrap[bootstrap.find("layered_runtime:").expect("a part that is shared")..]
}

async fn get(edge: SocketAddrV4) -> Option<Answer> {
    fetch(edge, "GET", "/").await.filter(|answer| answer.status == 200)
}

pub async fn answered_by(edge: SocketAddrV4, upstream: &Upstream) {
    let wanted = upstream.address.to_string();
    eventually("an answer of the wanted node", async || {
        get(edge).await.filter(|answer| answer.body == wanted).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_real_envoy_routes_follows_and_finds_the_next_leader() {
    let Some(program) = part("envoy") else { return };
    let (a, b) = (Upstream::start("127.0.0.2").await, Upstream::start("127.0.0.3").await);
    let (first, second) = (Leader::start(None).await, Leader::start(None).await);
    let directory = tempfile::tempdir().unwrap();
    let runtime = shared().split("overload_manager:").next().unwrap();
    let envoy = Envoy::start_in(directory, &program, &[first.address, second.address], runtime);
    eventually("an Envoy that asks", async || {
        let asked = |leader: &Leader| leader.counts.refused.load(Ordering::SeqCst) > 0;
        (asked(&first) && asked(&second)).then_some(())
    })
    .await;
    let before = envoy.admin("/listeners").await.unwrap_or_default();
    assert!(!before.contains("edge::"), "no roster, no public port: {before}");

    first.publish(published(&[a.address], 10));
    let edge = envoy.edge().await;
    answered_by(edge, &a).await;
    first.through_reaches(10).await;
    assert_eq!(first.streams.list()[0].envoy.as_deref(), Some("envoy-test"));

    first.publish(published(&[a.address, b.address], 11));
    answered_by(edge, &b).await;
    first.publish(published(&[b.address], 12));
    first.through_reaches(12).await;
    for _ in 0..50 {
        assert_eq!(get(edge).await.expect("an answer").body, b.address.to_string(), "a has left");
    }

    first.demote();
    assert_eq!(get(edge).await.expect("the last configuration stays").body, b.address.to_string());
    second.publish(published(&[a.address], 13));
    answered_by(edge, &a).await;
    second.through_reaches(13).await;
    for leader in [&first, &second] {
        assert_eq!(leader.counts.of(AckKind::Nack), 0, "{}", envoy.log());
    }
    let rejected = envoy.admin("/stats?filter=update_rejected").await.unwrap();
    let refused: Vec<&str> =
        rejected.lines().filter(|line| line.contains("rejected:") && !line.ends_with(": 0")).collect();
    assert!(refused.is_empty() && rejected.contains("cds.update_rejected: 0"), "{rejected}");
    let log = envoy.log().to_lowercase();
    assert!(!log.contains("deprecated"), "no field that Envoy is about to drop: {log}");
}

#[tokio::test]
async fn the_edge_refuses_what_nobody_should_ask() {
    let Some(program) = part("envoy") else { return };
    let upstream = Upstream::start("127.0.0.4").await;
    let leader = Leader::start(Some(published(&[upstream.address], 1))).await;
    let envoy = Envoy::start(&program, &[leader.address]);
    let edge = envoy.edge().await;
    answered_by(edge, &upstream).await;

    let paths = [
        ("/ips.json", 200),
        ("//ips.json", 200),
        ("/a/../ips.json", 200),
        ("/%2e%2e/ips.json", 200),
        ("/file.with.dots", 200),
        ("/?q=/.x", 200),
        ("/.well-known/security.txt", 200),
        ("/.well-known/acme-challenge/a.b_c-d", 200),
        ("/.well-known/", 200),
        ("/.well-known/x?a=/.b", 200),
        ("//.well-known/./x", 200),
        ("/.well-known", 404),
        ("/.well-known/.env", 404),
        ("/.well-known/a/.env", 404),
        ("/.well-known/%2eenv", 404),
        ("/.well-known/../.env", 404),
        ("/.well-knownx/y", 404),
        ("/a/.well-known/x", 404),
        ("/.ips.json.tmp", 404),
        ("/.git/config", 404),
        ("/a/.env", 404),
        ("/%2eenv", 404),
        ("/%2Eenv", 404),
        ("//.env", 404),
        ("/a/..%2f.env", 400),
        ("/a%2fb", 400),
    ];
    for (path, status) in paths {
        assert_eq!(fetch(edge, "GET", path).await.map(|answer| answer.status), Some(status), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = fetch(edge, method, "/").await.unwrap();
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("\r\nallow: get, head"), "{method}: {}", answer.head);
        assert!(answer.head.contains("\r\ncache-control: no-store"), "{method}: {}", answer.head);
    }
    let head = fetch(edge, "HEAD", "/").await.unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("\r\nserver: tiny") && !head.head.contains("x-envoy"), "{}", head.head);

    // Its only node timed out and was ejected, and still is better than nobody.
    assert_eq!(fetch(edge, "GET", LATE_PATH).await.unwrap().status, 200);

    // Both take longer than the patience with silence, so they share the wait.
    let began = std::time::Instant::now();
    let silent = async { (fetch(edge, "GET", SILENT_PATH).await, began.elapsed()) };
    let (slow, (silent, after)) = tokio::join!(fetch(edge, "GET", SLOW_PATH), silent);
    assert_eq!(slow.unwrap().body, ".".repeat(SLOW_PIECES), "a long answer is not cut off");
    let silent = silent.unwrap();
    assert_eq!(silent.status, 504);
    assert!((4..30).contains(&after.as_secs()), "a silent node is waited for {after:?}");
    assert!(silent.head.contains("\r\nx-content-type-options: nosniff"), "{}", silent.head);
    assert!(silent.head.contains("\r\ncache-control: no-store"), "{}", silent.head);
    assert!(!silent.head.contains("server: envoy") && !silent.head.contains("x-envoy"), "{}", silent.head);
}

#[tokio::test]
async fn short_of_memory_envoy_sheds_load_and_recovers() {
    let Some(program) = part("envoy") else { return };
    let upstream = Upstream::start("127.0.0.9").await;
    let leader = Leader::start(Some(published(&[upstream.address], 1))).await;
    let directory = tempfile::tempdir().unwrap();
    let pressure = directory.path().join("pressure");
    let press = |value: &str| {
        let next = pressure.with_extension("next");
        std::fs::write(&next, value).unwrap();
        std::fs::rename(next, &pressure).unwrap();
    };
    press("0.1");
    // All as it is, but the monitor: this one believes a file.
    let monitor = "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig";
    let injected = "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig";
    let injected = format!("{injected}, filename: {:?}", pressure.display().to_string());
    let further =
        shared().replace(monitor, &injected).replace("monitors.cgroup_memory", "monitors.injected_resource");
    let envoy = Envoy::start_in(directory, &program, &[leader.address], &further);
    let edge = envoy.edge().await;
    answered_by(edge, &upstream).await;

    let wait = async |status: Option<u16>| {
        eventually("what is done about the pressure", async || {
            let answer = fetch(edge, "GET", "/").await;
            (answer.as_ref().map(|answer| answer.status) == status).then_some(answer)
        })
        .await
    };
    let under_way = tokio::spawn(fetch(edge, "GET", SLOW_PATH));
    press("0.96");
    let shed = wait(Some(503)).await.unwrap();
    assert!(shed.head.contains("\r\nx-content-type-options: nosniff\r\n"), "{}", shed.head);
    press("0.985");
    assert!(wait(None).await.is_none(), "no new connection");
    press("0.1");
    wait(Some(200)).await;
    let actions = envoy.admin("/stats?filter=overload.*active").await.unwrap();
    assert_eq!(actions.matches("overload_actions").count(), 5, "{actions}");
    let whole = under_way.await.unwrap().expect("an answer that had begun is not cut off");
    assert_eq!(whole.body, ".".repeat(SLOW_PIECES));
    assert!(!envoy.log().to_lowercase().contains("deprecated"), "{}", envoy.log());
}

#[tokio::test]
async fn a_dead_and_a_frozen_node_cost_no_request() {
    let Some(program) = part("envoy") else { return };
    let living = Upstream::start("127.0.0.5").await;
    let dying = Upstream::start("127.0.0.6").await;
    // A frozen node completes handshakes in the kernel and never answers.
    let frozen = std::net::TcpListener::bind("127.0.0.7:0").unwrap();
    let SocketAddr::V4(frozen_address) = frozen.local_addr().unwrap() else { unreachable!() };
    let leader = Leader::start(Some(published(&[living.address, dying.address], 1))).await;
    let envoy = Envoy::start(&program, &[leader.address]);
    let edge = envoy.edge().await;
    answered_by(edge, &living).await;
    answered_by(edge, &dying).await;
    leader.publish(published(&[living.address, dying.address, frozen_address], 2));
    leader.through_reaches(2).await;
    drop(dying);
    for _ in 0..200 {
        let answer = get(edge).await.expect("no request fails");
        assert_eq!(answer.body, living.address.to_string());
    }
}

/// An overload that is repeated on every node is carried to every one, and a fleet whose nodes are all taken out routes in panic.
#[tokio::test]
async fn what_a_node_has_too_much_of_is_asked_of_no_other_and_takes_no_node_out() {
    let Some(program) = part("envoy") else { return };
    let upstreams = [Upstream::start("127.0.0.12").await, Upstream::start("127.0.0.13").await];
    let leader = Leader::start(Some(published(&upstreams.each_ref().map(|node| node.address), 1))).await;
    let envoy = Envoy::start(&program, &[leader.address]);
    let edge = envoy.edge().await;
    for upstream in &upstreams {
        answered_by(edge, upstream).await;
    }
    // In a row: a 200 in between would let Envoy count anew.
    for _ in 0..20 {
        let busy = fetch(edge, "GET", BUSY_PATH).await.unwrap();
        assert_eq!(busy.status, 503);
    }
    for upstream in &upstreams {
        answered_by(edge, upstream).await;
    }
    let asked: u32 = upstreams.iter().map(|node| node.broken.load(Ordering::SeqCst)).sum();
    assert_eq!(asked, 20, "each once");
    // Not the total: on a busy machine a connection may come too late, and that does take a node out for a moment.
    let ejected = envoy.admin("/stats?filter=nginx.outlier_detection.ejections_enforced").await.unwrap();
    for answers in ["consecutive_5xx", "consecutive_gateway_failure"] {
        let none = format!("outlier_detection.ejections_enforced_{answers}: 0");
        assert!(ejected.contains(&none), "{ejected}");
    }
}
