//! What guards the removal of a mark, on a real etcd: each guard is met by what it is there for.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::part::part;

use etcd_client::{Client, PutOptions};
use muster::config::Endpoint;
use muster::fleet::{KeySpace, Leadership, Roster};
use muster::metrics::Metrics;
use muster::registry::client::Etcd;
use muster::registry::leader::mark_expiry::ExpireMarks;
use muster::registry::leader::term::Term;
use tempfile::TempDir;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(30);
const MARK: &str = r#"{"v":1,"since":"2026-01-01T00:00:00Z","why":""}"#;

/// An etcd of this test alone, with a candidate that leads.
struct Registry {
    etcd: Etcd,
    marks: ExpireMarks,
    client: Client,
    leading: Leadership,
    process: Child,
    _tmp: TempDir,
}

impl Registry {
    async fn start() -> Option<Self> {
        let etcd = part("etcd")?;
        let tmp = tempfile::tempdir().unwrap();
        let ip = crate::address::own();
        let ports = [(); 2].map(|()| TcpListener::bind((ip, 0)).unwrap());
        let [url, peer] = ports.map(|port| format!("http://{}", port.local_addr().unwrap()));
        let process = Command::new(etcd)
            .args(["--name", "e", "--log-level", "warn", "--unsafe-no-fsync"])
            .args(["--grpc-keepalive-min-time", "1s"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("e={peer}"), "--data-dir"])
            .arg(tmp.path().join("etcd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(tmp.path().join("etcd.log")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let (client, lease) = loop {
            if let Ok(client) = Client::connect([&url], None).await
                && let Ok(granted) = client.lease_client().grant(3600, None).await
            {
                break (client, granted.id());
            }
            assert!(Instant::now() < deadline, "no etcd");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let space = KeySpace::new("/muster", vec!["127.0.0.0/8".parse().unwrap()]);
        let key = space.candidate_key(lease);
        let options = PutOptions::new().with_lease(lease);
        let put = client.kv_client().put(key.clone(), "{}", Some(options)).await.unwrap();
        let leading = Leadership { key, create_revision: put.header().unwrap().revision() };
        let endpoints: [Endpoint; 1] = [url.parse().unwrap()];
        let etcd = Etcd::new(&endpoints, 0, None, Metrics::new("", ""));
        let roster = watch::channel(Arc::default()).1;
        let marks = ExpireMarks { space, keep: Duration::ZERO, roster };
        Some(Self { etcd, marks, client, leading, process, _tmp: tmp })
    }

    async fn put(&self, key: &str, value: &str) {
        self.client.kv_client().put(format!("/muster/{key}"), value, None).await.unwrap();
    }

    async fn roster(&self) -> Roster {
        let (start, end) = self.marks.space.range();
        let listing = self.etcd.list(&start, &end, 0).await.unwrap();
        Roster::from_list(&self.marks.space, 1, &listing.entries, listing.revision, None).0
    }

    /// Whether the mark of `web` was said to be removed; and it is there if, and only if, it was not.
    async fn removes(&self, leading: &Leadership, roster: &Roster) -> bool {
        let term = Term { etcd: self.etcd.clone(), leadership: leading.clone() };
        let removed = self.marks.remove(&term, roster, "web").await.unwrap();
        let there = self.client.kv_client().get("/muster/marks/web", None).await.unwrap();
        assert_eq!(there.count(), i64::from(!removed));
        removed
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_mark_is_removed_unless_leader_mark_or_node_have_changed() {
    let Some(registry) = Registry::start().await else { return };
    // A neighbour by name is no node of that name.
    registry.put("nodes/web-1-0000000000000001", "what an agent of another version wrote").await;
    registry.put("marks/web", MARK).await;
    let roster = registry.roster().await;
    assert!(roster.marks().contains_key("web"));

    let deposed =
        Leadership { create_revision: registry.leading.create_revision - 1, ..registry.leading.clone() };
    assert!(!registry.removes(&deposed, &roster).await, "another leads");

    registry.put("marks/web", MARK).await;
    assert!(!registry.removes(&registry.leading, &roster).await, "it was marked again meanwhile");

    let roster = registry.roster().await;
    registry.put("nodes/web-0000000000000002", "just registered").await;
    assert!(!registry.removes(&registry.leading, &roster).await, "a node came meanwhile");

    registry.client.kv_client().delete("/muster/nodes/web-0000000000000002", None).await.unwrap();
    assert!(registry.removes(&registry.leading, &roster).await);
}
