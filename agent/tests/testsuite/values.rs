//! Bad values in the registry, tried on a real etcd with the real program and a real nginx: good nodes stay listed in
//! every file ever published, bad ones never are, each is counted and logged once, and nothing ends or starts again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::part::part;
use etcd_client::{Client, PutOptions, Txn, TxnOp};
use muster::fleet::{Node, NodeState, Ports, candidate_value, life_value, node_value};
use muster::process::{Pid, Signal};
use nix::sys::signal::kill;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(120);
/// What a node's container may use of memory. The debug build of these tests uses more than a release.
const MEMORY_KB: u64 = 128 * 1024;

/// A process of this test, killed with the test.
struct Process(Child);

impl Process {
    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    /// The most memory it ever used, in KB.
    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// One etcd and the network of one fleet, both of this test alone.
struct Registry {
    runtime: Runtime,
    client: Client,
    lease: i64,
    url: String,
    nginx: PathBuf,
    net: [u8; 2],
    _etcd: Process,
    tmp: TempDir,
}

impl Registry {
    fn start() -> Option<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let (etcd, nginx) = (part("etcd")?, part("nginx")?);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let net = [high.wrapping_mul(61) ^ low | 0x80, COUNT.fetch_add(1, Ordering::Relaxed)];
        let tmp = tempfile::tempdir().unwrap();
        // Free ones: a stranger's etcd on all addresses must not be taken for this test's own, and filled with garbage.
        let taken = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::new(127, net[0], net[1], 2), 0)).unwrap());
        let [url, peer] = taken.map(|port| format!("http://{}", port.local_addr().unwrap()));
        let log = File::create(tmp.path().join("etcd.log")).unwrap();
        let etcd = Command::new(etcd)
            .args([
                "--name",
                "e",
                "--log-level",
                "warn",
                "--unsafe-no-fsync",
                "--grpc-keepalive-min-time",
                "1s",
            ])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("e={peer}"), "--data-dir"])
            .arg(tmp.path().join("etcd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, lease) = poll("etcd", || {
            runtime.block_on(async {
                let client = Client::connect([&url], None).await.ok()?;
                let lease = client.lease_client().grant(3600, None).await.ok()?.id();
                Some((client, lease))
            })
        });
        Some(Self { runtime, client, lease, url, nginx, net, _etcd: Process(etcd), tmp })
    }

    fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.net[0], self.net[1], host)
    }

    /// A node's value as an agent at `host` would write it.
    fn entry(&self, host: u8) -> Node {
        Node {
            name: format!("good-{host}"),
            instance: format!("{host:016x}"),
            ip: self.ip(host),
            ports: Ports { http: 8080, control: 18000, metrics: 9464 },
            state: NodeState::Serving,
            reason: String::new(),
            since: "2026-11-20T10:00:07Z".into(),
            version: "0.1.0".into(),
            took_ms: None,
            lease: 0,
            create_revision: 0,
            mod_revision: 0,
        }
    }

    fn txn(&self, operations: Vec<TxnOp>) {
        let mut kv = self.client.kv_client();
        self.runtime.block_on(kv.txn(Txn::new().and_then(operations))).unwrap();
    }

    fn put_op(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, leased: bool) -> TxnOp {
        let options = leased.then(|| PutOptions::new().with_lease(self.lease));
        TxnOp::put(key, value, options)
    }

    fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, leased: bool) {
        self.txn(vec![self.put_op(key, value, leased)]);
    }

    fn put_entry(&self, node: &Node) {
        self.put(key_of(node), node_value(node), true);
    }

    /// A node of the program itself at `host`, running until dropped.
    fn node(&self, host: u8, good: &[Ipv4Addr]) -> Running {
        let dir = self.tmp.path().join(host.to_string());
        fs::create_dir(&dir).unwrap();
        let log = dir.join("log");
        let ip = self.ip(host);
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_"))
        {
            command.env_remove(name);
        }
        let command = command
            .args([
                "run",
                "--etcd",
                &self.url,
                "--name",
                &format!("node-{host}"),
                "--allow",
                &format!("{}/24", self.ip(0)),
            ])
            .args(["--listen", &ip.to_string(), "--advertise", &ip.to_string(), "--nginx"])
            .arg(&self.nginx)
            .args(["--ttl", "30", "--drain-timeout", "1", "--linger", "0", "--log-format", "json", "--dir"])
            .arg(dir.join("list"))
            .arg("--run-dir")
            .arg(dir.join("run"))
            .arg("--site")
            .arg(dir.join("site"))
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::create(dir.join("stderr")).unwrap());
        let process = Process(command.spawn().unwrap());
        let list = dir.join("list/ips.json");
        poll("the first list", || read_ips(&list).filter(|ips| ips.contains(&ip)));
        let witness = Witness::start(list.clone(), good.to_vec(), [self.ip(11), self.ip(12)]);
        Running { process, ip, list, log, stderr: dir.join("stderr"), witness }
    }
}

fn key_of(node: &Node) -> String {
    format!("/muster/nodes/{}-{}", node.name, node.instance)
}

/// The addresses of a published list; `None` before the first. Anything but a whole list is a failure.
fn read_ips(list: &Path) -> Option<Vec<Ipv4Addr>> {
    let text = fs::read(list).ok()?;
    let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    Some(list["ips"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect())
}

/// Reads the list again and again, and remembers what was missing of the planted good entries, and what was there
/// beside them. The agents' own addresses may come and go: a starved machine makes them rightly doubt their nginx.
struct Witness {
    done: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<usize>>,
}

impl Witness {
    fn start(list: PathBuf, good: Vec<Ipv4Addr>, agents: [Ipv4Addr; 2]) -> Self {
        let (done, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, found) = (done.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let ips = read_ips(&list).unwrap();
                for missing in good.iter().filter(|ip| !ips.contains(ip)) {
                    found.lock().unwrap().push(format!("{missing} was not listed"));
                }
                for extra in ips.iter().filter(|ip| !good.contains(ip) && !agents.contains(ip)) {
                    found.lock().unwrap().push(format!("{extra} was listed"));
                }
                reads += 1;
                sleep(Duration::from_millis(5));
            }
            reads
        });
        Self { done, seen, thread: Some(thread) }
    }

    fn finish(mut self) {
        self.done.store(true, Ordering::Relaxed);
        let reads = self.thread.take().unwrap().join().expect("a list that cannot be read");
        assert!(reads > 0);
        assert_eq!(*self.seen.lock().unwrap(), [""; 0]);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

struct Running {
    process: Process,
    ip: Ipv4Addr,
    list: PathBuf,
    log: PathBuf,
    stderr: PathBuf,
    witness: Witness,
}

impl Running {
    fn ips(&self) -> Vec<Ipv4Addr> {
        read_ips(&self.list).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(&self.list).unwrap()).unwrap()
    }

    /// Names of the nodes that the list calls leader.
    fn leaders(&self) -> Vec<String> {
        let list = self.json();
        let nodes = list["nodes"].as_array().unwrap().iter().filter(|node| node["leader"] == true);
        nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect()
    }

    /// `name-instance` of this node, as in its key.
    fn id(&self) -> String {
        let list = self.json();
        let rows = list["nodes"].as_array().unwrap();
        let row = rows.iter().find(|row| row["ip"] == self.ip.to_string()).unwrap();
        row["id"].as_str().unwrap().to_owned()
    }

    fn log_has(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(words)
    }

    fn get(&self, port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(SocketAddrV4::new(self.ip, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The sum of a counter over its series, or of the one series that contains `label`.
    fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.get(9464, "/metrics");
        let series = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    fn refused(&self) -> u64 {
        self.metric("muster_registry_refused_total", "")
    }

    /// How often each key was logged as skipped.
    fn skipped(&self) -> BTreeMap<String, usize> {
        let mut skipped = BTreeMap::new();
        for line in fs::read_to_string(&self.log).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("a log line is JSON");
            if line["msg"] == "entry skipped" {
                *skipped.entry(line["key"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        skipped
    }

    /// Good nodes were in every list, nothing else was, each of `bad` keys was counted and logged once, and the agent
    /// lives its first life on its first lease. Then it leaves in peace.
    fn finish(mut self, bad: usize) {
        assert_eq!(self.refused(), bad as u64);
        let skipped = self.skipped();
        let twice: Vec<_> = skipped.iter().filter(|(_, times)| **times != 1).collect();
        assert_eq!((skipped.len(), twice), (bad, vec![]));
        assert_eq!(self.metric("muster_lease_losses_total", ""), 0);
        self.witness.finish();
        kill(Pid::from_raw(self.process.pid()), Signal::SIGTERM).unwrap();
        let status = poll("the agent's end", || self.process.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        let words = fs::read_to_string(&self.log).unwrap() + &fs::read_to_string(&self.stderr).unwrap();
        assert!(!words.contains("panicked") && !words.contains("must not"), "{words}");
    }
}

#[track_caller]
fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(5));
    }
}

/// One bad entry: key, value, whether it hangs on a lease, and what it is counted as.
type Bad = (Vec<u8>, Vec<u8>, bool, &'static str);

/// Every bad entry for a node key. Each has a key of its own, so that each is counted.
fn bad_nodes(registry: &Registry) -> Vec<Bad> {
    let mut bad: Vec<Bad> = Vec::new();
    let entry = |n: usize| {
        let node = Node { name: format!("bad-{n}"), instance: format!("{n:016x}"), ..registry.entry(66) };
        (key_of(&node).into_bytes(), String::from_utf8(node_value(&node)).unwrap())
    };
    let good = entry(0).1;
    let ip = registry.ip(66).to_string();
    let mut changed = |from: &str, to: &str, reason| {
        let (key, value) = entry(bad.len());
        assert!(value.contains(from), "{from}");
        bad.push((key, value.replacen(from, to, 1).into_bytes(), true, reason));
    };
    for (from, to) in [
        ("{", "\u{feff}{"),
        ("{", "[{"),
        ("{", "{{"),
        ("}", ""),
        ("}", "},"),
        ("}", "}{"),
        ("\"v\":1", "\"v\":2"),
        ("\"v\":1", "\"v\":0"),
        ("\"v\":1", "\"v\":-1"),
        ("\"v\":1", "\"v\":1e0"),
        ("\"v\":1", "\"v\":\"1\""),
        ("\"v\":1", "\"v\":1,\"v\":1"),
        ("\"v\":1", "\"v\":null"),
        ("\"v\":1", "\"v\":99999999999999999999"),
        ("\"v\":1", "\"w\":1"),
        ("\"ip\":", "\"ip\":\"127.0.0.1\",\"ip\":"),
        ("\"ip\":", "\"IP\":"),
        (&*ip, ""),
        (&ip, "010.0.0.1"),
        (&ip, "1.2.3"),
        (&ip, "1.2.3.4.5"),
        (&ip, "::1"),
        (&ip, "::ffff:10.0.0.1"),
        (&ip, "fe80::1%eth0"),
        (&ip, "nginx-1"),
        (&ip, "<script>alert(1)</script>"),
        (&ip, "\\\"}{\\\""),
        (&ip, "10.0.0.1\\n10.0.0.2"),
        (&ip, "\u{202e}1.0.0.10"),
        (&ip, "10.0.0.1 "),
        ("8080", "0"),
        ("8080", "70000"),
        ("8080", "-1"),
        ("8080", "\"80\""),
        ("18000", "0"),
        ("\"serving\"", "\"SERVING\""),
        ("\"serving\"", "\"asleep\""),
        ("\"serving\"", "null"),
        ("2026-11-20", "yesterday"),
        ("\"0.1.0\"", "\"\\u202e0.1.0\""),
        ("\"0.1.0\"", "\"0.1.0\\n\""),
        ("\"reason\":\"\"", "\"reason\":\"\\u0000\""),
    ] {
        changed(from, to, "unreadable");
    }
    for outside in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "255.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "8.8.8.8",
    ] {
        changed(&ip, outside, "not-allowed");
    }
    changed("\"name\":\"bad", "\"name\":\"other", "misnamed");
    changed("\"instance\":\"0", "\"instance\":\"f", "misnamed");
    let reason = format!("\"reason\":\"{}\"", "x".repeat(300));
    changed("\"reason\":\"\"", &reason, "unreadable");
    let deep = format!("\"version\":{}{}", "[".repeat(1500), "]".repeat(1500));
    changed("\"version\":\"0.1.0\"", &deep, "unreadable");
    for value in
        [&b""[..], b" ", b"null", b"[]", b"0", b"\"\"", b"not JSON", b"\xff\xfe", b"\0", &[b'['; 4000]]
    {
        bad.push((entry(bad.len()).0, value.to_vec(), true, "unreadable"));
    }
    for length in [4097, 1_500_000] {
        bad.push((entry(bad.len()).0, vec![b' '; length], true, "too-long"));
    }
    let (key, value) = entry(bad.len());
    bad.push((key, value.into_bytes(), false, "no-lease"));

    for key in [
        "",
        "/",
        "/x",
        "/-",
        "/../leader/0",
        "/a/b-0000000000000000",
        "/bad-0000000000000000/",
        "/bad-0000000000000000\n",
        "/bad-000000000000000G",
        "/<script>-0000000000000000",
        "/\u{202e}-0000000000000000",
    ] {
        bad.push((format!("/muster/nodes{key}").into(), good.clone().into(), true, "misnamed"));
    }
    for key in [
        &b"/muster/nodes/\xff\xfe"[..],
        b"/muster/nodes/\0",
        b"/muster/nodes/a\x1b[31m",
        b"/muster/marks/\x80",
    ] {
        bad.push((key.to_vec(), good.clone().into(), true, "misnamed"));
    }
    bad.push((format!("/muster/nodes/{}", "k".repeat(100_000)).into(), good.into(), true, "misnamed"));
    bad
}

/// Every bad entry beside the nodes: candidates, marks.
fn bad_neighbours(registry: &Registry) -> Vec<Bad> {
    let candidate = candidate_value("00000000000000ff", SocketAddrV4::new(registry.ip(66), 18000));
    let hex = format!("{:x}", registry.lease);
    let leader = |name: &str, leased, reason| {
        (format!("/muster/leader/{name}").into_bytes(), candidate.clone(), leased, reason)
    };
    let mark = |name: &str, value: &str, reason| {
        (format!("/muster/marks/{name}").into_bytes(), value.as_bytes().to_vec(), false, reason)
    };
    vec![
        leader("0", false, "no-lease"),
        leader("1", true, "misnamed"),
        leader("", true, "misnamed"),
        leader("../0", true, "misnamed"),
        leader(&format!("0{hex}"), true, "misnamed"),
        leader(&format!("0x{hex}"), true, "misnamed"),
        leader(&hex.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A"), true, "misnamed"),
        leader(&format!("{hex}/"), true, "misnamed"),
        leader(&hex, false, "no-lease"),
        mark("good-201", "drain it", "unreadable"),
        mark("good-202", r#"{"v":7}"#, "unreadable"),
        mark("node-11", "", "unreadable"),
        mark("", r#"{"v":1}"#, "misnamed"),
        mark("a/b", r#"{"v":1}"#, "misnamed"),
    ]
}

#[test]
fn bad_values_never_hide_good_ones_and_never_lead() {
    let Some(registry) = Registry::start() else { return };
    let good = [registry.ip(201), registry.ip(202)];
    for host in [201, 202] {
        registry.put_entry(&registry.entry(host));
    }
    // Candidates' garbage is there before the first honest one: an older key must not lead either.
    let (nodes, neighbours) = (bad_nodes(&registry), bad_neighbours(&registry));
    for (key, value, leased, _) in &neighbours {
        registry.put(key.clone(), value.clone(), *leased);
    }
    let first = registry.node(11, &good);
    poll("a leader", || (first.leaders() == ["node-11"]).then_some(()));
    for (key, value, leased, reason) in &nodes {
        let before = first.metric("muster_registry_refused_total", reason);
        registry.put(key.clone(), value.clone(), *leased);
        poll(&format!("{} counted as {reason}", key.escape_ascii()), || {
            (first.metric("muster_registry_refused_total", reason) == before + 1).then_some(())
        });
    }
    // Neighbours in key order that are nobody's, and a second fleet beside this one: neither is a mistake.
    for key in
        ["/muster/lost", "/muster/mark", "/muster/node", "/muster/nodes2/x", "/muster2/nodes/x", "/must"]
    {
        registry.put(key, "?", false);
    }
    // Nor are unknown fields, however deep.
    let unknown = String::from_utf8(node_value(&registry.entry(201))).unwrap();
    let deep = format!(r#"{{"later":{{"a":{}{}}},"#, "[".repeat(1500), "]".repeat(1500));
    registry.put(key_of(&registry.entry(201)), unknown.replacen('{', &deep, 1), true);

    // Who comes later reads it all as one list, and says the same.
    let all = nodes.len() + neighbours.len();
    poll("the good ones in the list", || (first.ips() == [&[first.ip], &good[..]].concat()).then_some(()));
    for reason in ["no-lease", "misnamed", "too-long", "unreadable", "not-allowed"] {
        let expected = nodes.iter().chain(&neighbours).filter(|bad| bad.3 == reason).count();
        assert_eq!(first.metric("muster_registry_refused_total", reason), expected as u64, "{reason}");
    }
    poll("the leader of before", || (first.leaders() == ["node-11"]).then_some(()));
    assert_eq!(first.metric("muster_leader ", ""), 1);
    let status = Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["status", "--etcd", &registry.url, "--allow", &format!("{}/24", registry.ip(0))])
        .output()
        .unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(&format!("unreadable keys are skipped: {all}")), "{status}");
    assert!(status.contains("node-11") && !status.contains("bad-"), "{status}");
    first.finish(all);

    let second = registry.node(12, &good);
    poll("a leader", || (second.leaders() == ["node-12"]).then_some(()));
    second.finish(all);
}

#[test]
fn a_value_changed_in_place_speaks_for_its_own_key_alone() {
    let Some(registry) = Registry::start() else { return };
    let good = registry.entry(201);
    registry.put_entry(&good);
    let node = registry.node(11, &[good.ip]);
    let mut other = registry.entry(12);
    let life = |node: &Running| node.json()["registry"].as_str().map(ToOwned::to_owned);

    // The registry's life, which hangs on no lease: garbage in it hides nothing else, and is replaced.
    let before = life(&node).expect("a life");
    registry.put("/muster/life", "?", false);
    poll("another life", || life(&node).filter(|id| id.len() == 16 && *id != before));
    registry.put("/muster/life", life_value("0123456789abcdef"), false);
    poll("the life", || (life(&node).as_deref() == Some("0123456789abcdef")).then_some(()));

    // A text for people may hold anything printable; the page escapes it. Draining, so that it is in no list.
    other.state = NodeState::Draining;
    other.reason = r#"<script>alert("1")</script>'{{x}}&amp;"#.into();
    registry.put_entry(&other);
    poll("the draining row", || node.get(8080, "/ips.html").contains("good-12").then_some(()));
    for path in ["/ips.html", "/ips.json", "/sd.json", "/ips.txt"] {
        let answer = node.get(8080, path);
        assert!(path.ends_with("json") || !answer.contains("<script>alert"), "{path}: {answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(!path.ends_with("json") || serde_json::from_str::<serde_json::Value>(body).is_ok(), "{path}");
    }
    registry.put(key_of(&other), "{", true);
    poll("the row gone", || (!node.get(8080, "/ips.html").contains("good-12")).then_some(()));

    // Three states of one key, and each bad one is told.
    registry.put_entry(&other);
    poll("the row again", || node.get(8080, "/ips.html").contains("good-12").then_some(()));
    registry.put(key_of(&other), "}", true);
    poll("the second refusal", || (node.refused() == 3).then_some(()));
    assert_eq!(node.skipped(), BTreeMap::from([("/muster/life".into(), 1), (key_of(&other), 2)]));
    node.witness.finish();
}

#[test]
fn a_transaction_is_one_change_and_of_two_keys_with_one_address_the_newest_wins() {
    let Some(registry) = Registry::start() else { return };
    let (old, new) = (registry.entry(201), Node { name: "newer".into(), ..registry.entry(201) });
    let newest = Node { name: "newest".into(), instance: "f".repeat(16), ..registry.entry(201) };
    registry.put_entry(&old);
    let node = registry.node(11, &[old.ip]);
    let name = |node: &Running| {
        let list = node.json();
        let rows = list["nodes"].as_array().unwrap().iter().filter(|row| row["ip"] == old.ip.to_string());
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    // The address moves to another key at once, and the same transaction brings garbage: the witness sees no gap.
    registry.txn(vec![
        TxnOp::delete(key_of(&old), None),
        registry.put_op(key_of(&new), node_value(&new), true),
        registry.put_op("/muster/nodes/garbage", "{", true),
        registry.put_op("/muster/leader/garbage", "{", true),
    ]);
    poll("the newer", || (name(&node) == ["newer"]).then_some(()));
    registry.put_entry(&newest);
    poll("the newest", || (name(&node) == ["newest"]).then_some(()));
    // An older key is not younger for being put again, and a newer one that is garbage does not count.
    registry.put_entry(&new);
    registry.put(key_of(&Node { name: "garbage".into(), ..old.clone() }), "{", true);
    poll("all refused", || (node.refused() == 3).then_some(()));
    assert_eq!(name(&node), ["newest"]);
    registry.txn(vec![TxnOp::delete(key_of(&newest), None)]);
    poll("the one that is left", || (name(&node) == ["newer"]).then_some(()));
    node.finish(3);
}

#[test]
fn squatters_on_the_own_address_do_not_keep_a_node_out() {
    let Some(registry) = Registry::start() else { return };
    let squatter = |n: usize| Node {
        name: format!("squatter-{n}"),
        instance: format!("{n:016x}"),
        ..registry.entry(11)
    };
    // More than etcd takes operations in one transaction.
    for n in 0..200 {
        registry.put_entry(&squatter(n));
    }
    let node = registry.node(11, &[]);
    poll("the node itself in its list", || {
        let nodes = node.json()["nodes"].clone();
        (nodes.as_array().unwrap().len() == 1 && nodes[0]["name"] == "node-11").then_some(())
    });
    // A younger one takes the row, and on the node's own lease at that: the node takes it back.
    let leases = registry.runtime.block_on(registry.client.lease_client().leases()).unwrap();
    let own =
        leases.leases().iter().map(etcd_client::LeaseStatus::id).find(|id| *id != registry.lease).unwrap();
    let late = squatter(900);
    let put = TxnOp::put(key_of(&late), node_value(&late), Some(PutOptions::new().with_lease(own)));
    registry.txn(vec![put, TxnOp::delete(format!("/muster/nodes/{}", node.id()), None)]);
    poll("the node itself again", || {
        let nodes = node.json()["nodes"].clone();
        (nodes[0]["name"] == "node-11" && node.log_has("own key was deleted")).then_some(())
    });
    node.finish(0);
}

#[test]
fn ten_thousand_bad_keys_and_the_longest_values_cost_time_but_no_node() {
    let Some(registry) = Registry::start() else { return };
    let good: Vec<Ipv4Addr> = (201..=205).map(|host| registry.ip(host)).collect();
    for host in 201..=205 {
        registry.put_entry(&registry.entry(host));
    }
    let first = registry.node(11, &good);
    let started = Instant::now();
    for part in 0..100 {
        let put = |n| registry.put_op(format!("/muster/nodes/garbage-{:05}", part * 100 + n), "{", true);
        registry.txn((0..100).map(put).collect());
    }
    poll("10,000 refusals", || (first.refused() == 10_000).then_some(()));
    println!("10,000 bad keys written and refused in {:?}", started.elapsed());

    let started = Instant::now();
    for n in 0..60 {
        registry.put(format!("/muster/nodes/long-{n}"), vec![b'x'; 1_500_000], true);
    }
    poll("60 more", || (first.refused() == 10_060).then_some(()));
    println!("90 MB of values written and refused in {:?}", started.elapsed());

    let started = Instant::now();
    let second = registry.node(12, &good);
    println!("a node joined in {:?}", started.elapsed());
    poll("the same list of both", || {
        let same = fs::read(&first.list).unwrap() == fs::read(&second.list).unwrap();
        (first.ips().len() == 7 && same).then_some(())
    });
    for node in [&first, &second] {
        println!("peak memory {} KB", node.process.peak_memory());
        assert!(node.process.peak_memory() < MEMORY_KB, "{} KB", node.process.peak_memory());
    }
    second.finish(10_060);
    first.finish(10_060);
}
