//! Those who try to get in, on a fleet as people run it: who reaches what, with which certificate, and what a container
//! may. Needs an engine, its images and root (it looks from inside the containers' networks), so it is ignored unless
//! asked for: `make test` runs it.

mod forged;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::engine::{Fleet, eventually};
use serde_json::Value;

const STARTED: Duration = Duration::from_secs(60);
const NETWORKS: [&str; 3] = ["edge", "fleet", "etcd"];

#[test]
#[ignore = "needs a container engine and the images of `make images`"]
fn nobody_gets_in_who_does_not_belong() {
    let fleet = Fleet::up(2);
    fleet.agrees("up", 2, STARTED);
    let parts = Parts::of(&fleet);
    containers_may_only_what_they_need(&parts);
    what_listens_is_in_the_table(&parts);
    each_port_answers_as_the_table_says(&fleet, &parts);
    etcd_lets_each_do_what_is_his(&fleet, &parts);
    forged::certificates_open_what_they_are_for(&fleet, &parts);
    secrets_stay_where_they_are(&fleet, &parts);
    idle_and_slow_clients_cost_nobody_else(&fleet);
    fleet.agrees("after all attempts", 2, STARTED);
    certificates_are_renewed_under_way(&fleet);
    site::what_is_linked_in_a_site_stays_in_it(&fleet);
}

/// One running container, as `docker inspect` has it.
struct Part {
    service: String,
    pid: String,
    says: Value,
    /// By network, without the project's name.
    addresses: BTreeMap<String, Ipv4Addr>,
}

impl Part {
    /// Whether it has the network of `other`: it is the same, or has joined it.
    fn is_in(&self, other: &Part) -> bool {
        let joined = format!("container:{}", other.says["Id"].as_str().unwrap());
        self.pid == other.pid || self.says["HostConfig"]["NetworkMode"] == joined.as_str()
    }
}

struct Parts(Vec<Part>);

impl Parts {
    fn of(fleet: &Fleet) -> Self {
        let ids = fleet.compose(["ps", "-q"]);
        let says = fleet.docker(["inspect"].into_iter().chain(ids.split_whitespace()));
        let says: Vec<Value> = serde_json::from_str(&says).expect("what docker inspect prints");
        let network = |name: &str| name.rsplit('_').next().unwrap_or_default().to_owned();
        let part = |says: Value| Part {
            service: says["Config"]["Labels"]["com.docker.compose.service"].as_str().unwrap().to_owned(),
            pid: says["State"]["Pid"].to_string(),
            addresses: says["NetworkSettings"]["Networks"]
                .as_object()
                .unwrap()
                .iter()
                .filter_map(|(name, at)| Some((network(name), at["IPAddress"].as_str()?.parse().ok()?)))
                .collect(),
            says,
        };
        Self(says.into_iter().map(part).collect())
    }

    /// Those of a service in docs/security.md, which has `etcd` for all its members.
    fn named<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Part> {
        self.0
            .iter()
            .filter(move |part| part.service.trim_end_matches(|c: char| c.is_ascii_digit()) == service)
    }
}

/// A row of the table in docs/security.md.
struct Row {
    service: String,
    port: u16,
    /// By network: `open`, `TLS` or `-`.
    answers: BTreeMap<&'static str, String>,
}

fn table() -> Vec<Row> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/security.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| service | port |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let answers = NETWORKS.into_iter().zip(cells[3..].iter().map(|cell| (*cell).to_owned()));
        Row { service: cells[0].to_owned(), port: cells[1].parse().unwrap(), answers: answers.collect() }
    });
    let rows: Vec<Row> = rows.collect();
    assert!(!rows.is_empty(), "docs/security.md has no table of ports");
    rows
}

fn containers_may_only_what_they_need(parts: &Parts) {
    for part in &parts.0 {
        let (name, host) = (&part.service, &part.says["HostConfig"]);
        assert_eq!(part.says["Config"]["User"], "65532:65532", "{name}");
        assert_eq!(host["ReadonlyRootfs"], true, "{name}");
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "{name}");
        assert_eq!(host["Privileged"], false, "{name}");
        assert!(host["SecurityOpt"].to_string().contains("no-new-privileges:true"), "{name}");
        assert!(!host["SecurityOpt"].to_string().contains("unconfined"), "{name}");
        assert!(host["PidsLimit"].as_i64().is_some_and(|limit| limit > 0), "{name}");
        assert!(host["Memory"].as_i64().is_some_and(|limit| limit > 0), "{name}");
        assert!(host["LogConfig"]["Config"]["max-size"].is_string(), "{name}");
        assert!(!part.says["Mounts"].to_string().contains("docker.sock"), "{name}");
        let published = host["PortBindings"].as_object().map_or(0, serde_json::Map::len);
        assert_eq!(published, usize::from(name == "front"), "{name} publishes {published} ports");
        let status = fs::read_to_string(format!("/proc/{}/status", part.pid)).unwrap();
        for line in [
            "Uid:\t65532\t65532\t65532\t65532",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{name}: {line} is not in {status}");
        }
    }
    let published = parts.named("front").next().unwrap().says["NetworkSettings"]["Ports"].to_string();
    assert!(published.contains("127.0.0.1") && !published.contains("0.0.0.0"), "{published}");
}

/// Read from the kernel, so that no port can be forgotten.
fn what_listens_is_in_the_table(parts: &Parts) {
    let table = table();
    for part in &parts.0 {
        let mut listening = BTreeSet::new();
        for file in ["tcp", "tcp6"] {
            let sockets = fs::read_to_string(format!("/proc/{}/net/{file}", part.pid)).unwrap_or_default();
            for line in sockets.lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let (address, port) = fields[1].rsplit_once(':').unwrap();
                // State 0A listens; 7F in the last byte is loopback, where the engine's name server is.
                if fields[3] == "0A" && !address.ends_with("7F") {
                    listening.insert(u16::from_str_radix(port, 16).unwrap());
                }
            }
        }
        let rows = table.iter().filter(|row| parts.named(&row.service).any(|named| part.is_in(named)));
        let allowed: BTreeSet<u16> = rows.map(|row| row.port).collect();
        assert_eq!(listening, allowed, "{} listens elsewhere than docs/security.md says", part.service);
    }
}

fn each_port_answers_as_the_table_says(fleet: &Fleet, parts: &Parts) {
    let table = table();
    std::thread::scope(|scope| {
        for network in NETWORKS {
            let table = &table;
            scope.spawn(move || {
                let stranger = Stranger::on(fleet, network);
                std::thread::scope(|scope| {
                    for row in table {
                        let stranger = &stranger;
                        scope.spawn(move || {
                            for part in parts.named(&row.service) {
                                for address in part.addresses.values() {
                                    let found = stranger.tries(*address, row.port);
                                    // Another network of the same container is no way around.
                                    let here = part.addresses.get(network) == Some(address);
                                    let wanted = if here { row.answers[network].as_str() } else { "-" };
                                    assert_eq!(
                                        found, wanted,
                                        "{} {address}:{} from {network}",
                                        row.service, row.port
                                    );
                                }
                            }
                        });
                    }
                });
            });
        }
    });
}

/// A container on one network that belongs to nobody.
struct Stranger<'a> {
    fleet: &'a Fleet,
    id: String,
    pid: String,
}

impl<'a> Stranger<'a> {
    fn on(fleet: &'a Fleet, network: &str) -> Self {
        let network = fleet.network().replace("_fleet", &format!("_{network}"));
        let image = "muster/node:local";
        let id =
            fleet.docker(["run", "-d", "--rm", "--network", &network, "--entrypoint", "sleep", image, "300"]);
        let id = id.trim().to_owned();
        let pid = fleet.docker(["inspect", "-f", "{{.State.Pid}}", &id]).trim().to_owned();
        Self { fleet, id, pid }
    }

    /// A program of this machine in the stranger's network.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--net", program]);
        command
    }

    fn tries(&self, address: Ipv4Addr, port: u16) -> &'static str {
        let curl = |scheme: &str| {
            let url = format!("{scheme}://{address}:{port}/");
            let mut command = self.command("curl");
            command.args(["-sko", "/dev/null", "-w", "%{http_code} %{num_connects}", "--http1.1"]);
            command.args(["--connect-timeout", "1", "--max-time", "3", &url]);
            let Output { status, stdout, .. } = command.output().expect("curl");
            (status.success(), String::from_utf8_lossy(&stdout).into_owned())
        };
        match curl("http") {
            (false, said) if said.ends_with(" 0") => "-",
            // 400 is what a TLS server says to plain HTTP, where it says anything.
            (true, said) if !said.starts_with("400") => "open",
            _ => match curl("https") {
                (true, said) => panic!("{address}:{port} answers {said} without a certificate"),
                _ => "TLS",
            },
        }
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.fleet.docker(["rm", "-f", &self.id]);
    }
}

/// The certificates are read off the containers that have them, as root of this machine may.
fn etcd_lets_each_do_what_is_his(fleet: &Fleet, parts: &Parts) {
    let stranger = Stranger::on(fleet, "fleet");
    let etcd = parts.named("etcd").next().unwrap().addresses["fleet"];
    let files = |service: &str, volume: &str, name: &str| -> [PathBuf; 3] {
        let part = parts.named(service).next().unwrap();
        let current = fs::read_link(format!("/proc/{}/root{volume}/current", part.pid)).unwrap();
        let dir = PathBuf::from(format!("/proc/{}/root{volume}", part.pid)).join(current);
        ["-ca.crt", ".crt", ".key"].map(|end| dir.join(format!("{name}{end}")))
    };
    let operator = files("etcd", "/pki", "etcd");
    let ask = |shown: Option<&[PathBuf; 3]>, words: &[&str]| -> Result<String, String> {
        let root =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".cache/parts/bin/etcdctl");
        let mut command = stranger.command(root.to_str().unwrap());
        command.args(words).env("ETCDCTL_ENDPOINTS", format!("https://{etcd}:2379"));
        command.env("ETCDCTL_CACERT", &operator[0]).args(["--command-timeout=3s", "--dial-timeout=2s"]);
        // The member's names are etcd1 and its like, and not its address.
        command.arg("--insecure-skip-tls-verify");
        if let Some([_, certificate, key]) = shown {
            command.env("ETCDCTL_CERT", certificate).env("ETCDCTL_KEY", key);
        }
        let Output { status, stdout, stderr } = command.output().expect("etcdctl of images/parts.sh");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if status.success() { Ok(said(&stdout)) } else { Err(said(&stderr)) }
    };
    let read = ["get", "--prefix", "/muster"];

    ask(None, &read).expect_err("etcd answers without a certificate");
    let envoy = files("envoy-a", "/pki", "control");
    ask(Some(&envoy), &read).expect_err("etcd answers Envoy");
    let control = files("nginx", "/pki/agent", "control");
    ask(Some(&control), &read).expect_err("etcd takes an agent's certificate for the control port");
    let peer = files("etcd", "/pki", "peer");
    ask(Some(&peer), &read).expect_err("etcd takes a member's certificate for the other members");

    let denied = |outcome: Result<String, String>| {
        let said = outcome.expect_err("it was allowed");
        assert!(said.contains("permission denied"), "{said}");
    };
    let listed = ask(Some(&operator), &read).expect("the operator reads");
    assert!(listed.contains("/muster/nodes/"), "{listed}");
    ask(Some(&operator), &["put", "/muster/marks/intruders", "{}"]).expect("the operator marks");
    ask(Some(&operator), &["del", "/muster/marks/intruders"]).expect("and takes the mark back");
    denied(ask(Some(&operator), &["put", "/muster/nodes/x-0123456789abcdef", "{}"]));
    denied(ask(Some(&operator), &["put", "/elsewhere", "x"]));
    denied(ask(Some(&operator), &["user", "add", "me:me"]));

    let agent = files("nginx", "/pki/agent", "etcd");
    denied(ask(Some(&agent), &["put", "/elsewhere", "x"]));
    denied(ask(Some(&agent), &["get", "/elsewhere"]));
    denied(ask(Some(&agent), &["user", "list"]));
    denied(ask(Some(&agent), &["auth", "disable"]));

    let keys = ask(Some(&operator), &["get", "--prefix", "/muster/leader/", "--keys-only"]).unwrap();
    let lease =
        keys.lines().find_map(|key| key.strip_prefix("/muster/leader/")).expect("a candidate").to_owned();
    denied(ask(Some(&operator), &["lease", "revoke", &lease]));
    denied(ask(Some(&operator), &["lease", "keep-alive", "--once", &lease]));
}

fn secrets_stay_where_they_are(fleet: &Fleet, parts: &Parts) {
    let key = b"PRIVATE KEY-----\nM";
    let holds = |bytes: &[u8]| bytes.windows(key.len()).any(|at| at == key);
    let mut images = BTreeSet::new();
    for part in &parts.0 {
        let id = part.says["Id"].as_str().unwrap();
        assert!(!holds(part.says.to_string().as_bytes()), "{} has a key in its settings", part.service);
        let log = Command::new("docker").args(["logs", id]).output().unwrap();
        assert!(!holds(&log.stdout) && !holds(&log.stderr), "{} has logged a key", part.service);
        images.insert(part.says["Image"].as_str().unwrap().to_owned());
    }
    for image in images {
        let history = fleet.docker(["history", "--no-trunc", &image]);
        assert!(!holds(history.as_bytes()), "{image}");
        // 1: nothing found. The name of a key alone stands in every program that reads one.
        let search = format!("set -o pipefail; docker save {image} | grep -qaPz 'PRIVATE KEY-----\\nM'");
        let found = Command::new("bash").args(["-c", &search]).status().unwrap();
        assert_eq!(found.code(), Some(1), "{image} has a key in a layer");
    }
}

/// New ones for everybody, and nobody restarts; whoever connects afterwards shows and accepts them.
fn certificates_are_renewed_under_way(fleet: &Fleet) {
    let again = fleet.compose(["run", "--rm", "--no-deps", "-T", "etcd-auth"]);
    assert!(again.contains("on as it should be"), "{again}");
    let before = fleet.files();
    let renew = ["run", "--rm", "--no-deps", "-T", "pki", "pki", "renew", "--dir", "/pki"];
    let made = fleet.compose(renew);
    assert!(made.contains("made"), "{made}");
    for node in fleet.nodes() {
        eventually("the agents to take the new certificates", STARTED, || {
            let log = fleet.docker(["logs", &node.id]);
            if log.contains("new certificates in use") { Ok(()) } else { Err(format!("{} has not", node.ip)) }
        });
    }
    assert_eq!(fleet.files(), before, "a renewal is no change of the fleet");
    let leader = fleet.leader();
    fleet.docker(["kill", &leader.id]);
    fleet.agrees("the leader killed after the renewal", 1, STARTED);
    fleet.docker(["start", &leader.id]);
    fleet.agrees("and started with the new certificates", 2, STARTED);
    fleet.scale(3);
    fleet.agrees("and another one joins", 3, STARTED);
}

/// Connections that say nothing, and others that say a byte now and then, while somebody asks as usual.
fn idle_and_slow_clients_cost_nobody_else(fleet: &Fleet) {
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most.min(8192), most).unwrap();
    assert!(
        most >= 2400,
        "this test holds 2,000 connections, and a process may have {most} descriptors here: ulimit -Hn"
    );
    let many = 2000;
    let edge = fleet.edge();
    let open = |count: usize, first: &[u8]| -> Vec<TcpStream> {
        let connect = |_| {
            let mut stream = TcpStream::connect(edge).expect("a connection");
            stream.write_all(first).expect("room for a few bytes");
            stream
        };
        (0..count).map(connect).collect()
    };
    let idle = open(many, b"");
    let mut slow = open(200, b"GET / HTTP/1.1\r\nHost: fleet\r\nX-Slow: ");
    let began = Instant::now();
    let mut cut = 0;
    while cut < slow.len() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{cut} of {} slow senders were cut off",
            slow.len()
        );
        assert_eq!(
            fleet.ask("GET", "/ips.json").status,
            200,
            "a usual request beside {} idle ones",
            idle.len()
        );
        cut = slow.iter_mut().filter_map(|stream| is_over(stream).then_some(())).count();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether the other side has answered or closed; one byte more otherwise.
fn is_over(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let mut answer = [0; 256];
    match stream.read(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            _ = stream.write(b"x");
            false
        }
        _ => true,
    }
}
