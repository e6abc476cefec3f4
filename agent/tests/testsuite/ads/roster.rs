//! Rosters to publish.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU8, Ordering};

use muster::envoy::EdgeSettings;
use muster::envoy::xds::Published;
use muster::fleet::{Change, KeySpace, Node, NodeState, Ports, Put, Roster, node_value};

thread_local! {
    /// One for each test, which has its thread: at a fixed port of it Envoy opens what answers late.
    static OWN: Ipv4Addr = {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, high | 0x40, low, COUNT.fetch_add(1, Ordering::Relaxed))
    };
}

/// A port of 0 lets Envoy choose a free one.
pub fn settings() -> EdgeSettings {
    EdgeSettings {
        listen: SocketAddrV4::new(OWN.with(|own| *own), 0),
        prefix: "/muster".to_owned(),
        log_from: Some(400),
        trusted_proxies: 0,
        tls: None,
    }
}

/// A complete roster of these endpoints, as of revision `applied`.
pub fn published(endpoints: &[SocketAddrV4], applied: i64) -> Published {
    published_with(endpoints, applied, &settings())
}

pub fn published_with(endpoints: &[SocketAddrV4], applied: i64, settings: &EdgeSettings) -> Published {
    let space = KeySpace::new("/muster", vec!["127.0.0.0/8".parse().unwrap()]);
    let entries: Vec<Change> = endpoints.iter().map(|endpoint| entry(&space, endpoint)).collect();
    let (mut roster, rejections) = Roster::from_list(&space, 1, &entries, applied, None);
    assert!(rejections.is_empty(), "{rejections:?}");
    roster.applied = applied;
    Published::of(&roster, settings)
}

/// 127.1.0.1 to 127.1.0.`count`: for streams that never connect to them.
pub fn numbered(count: u8) -> Vec<SocketAddrV4> {
    (1..=count).map(|last| SocketAddrV4::new(Ipv4Addr::new(127, 1, 0, last), 8080)).collect()
}

fn entry(space: &KeySpace, endpoint: &SocketAddrV4) -> Change {
    let name = endpoint.ip().to_string();
    let instance = format!("{:016x}", endpoint.ip().to_bits());
    let node = Node {
        name: name.clone(),
        instance: instance.clone(),
        ip: *endpoint.ip(),
        ports: Ports { http: endpoint.port(), control: 18000, metrics: 9464 },
        state: NodeState::Serving,
        reason: String::new(),
        since: "2026-01-01T00:00:00Z".to_owned(),
        version: "1".to_owned(),
        took_ms: None,
        lease: 1,
        create_revision: 1,
        mod_revision: 1,
    };
    let put = Put { value: node_value(&node), create_revision: 1, lease: 1 };
    Change { key: space.node_key(&name, &instance), revision: 1, put: Some(put) }
}
