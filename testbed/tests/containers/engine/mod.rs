//! Compose, the engine and HTTP, as much as the end-to-end test asks of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

mod project;

use serde_json::Value;

const HTTP_BOUND: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One running nginx container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    pub ip: Ipv4Addr,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// A project of its own, removed with its volumes when dropped.
pub struct Fleet {
    project: String,
    port: u16,
    root: PathBuf,
}

impl Fleet {
    pub fn up(nodes: usize) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let fleet = Self {
            // images/test.sh names it, to remove it when this program is killed.
            project: std::env::var("MUSTER_TEST_PROJECT")
                .unwrap_or_else(|_| format!("muster-test-{}", std::process::id())),
            port: free.expect("a free port").port(),
            root: Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned(),
        };
        step(&format!("up: project {}, port {}", fleet.project, fleet.port));
        fleet.compose(["up", "-d", "--no-build", "--scale", &format!("nginx={nodes}")]);
        fleet
    }

    pub fn scale(&self, nodes: usize) {
        let scale = format!("nginx={nodes}");
        self.compose(["up", "-d", "--no-build", "--no-deps", "--no-recreate", "--scale", &scale, "nginx"]);
    }

    /// Waits until the engine runs `nodes` containers and the registry, every node's file and Envoy name exactly them.
    pub fn agrees(&self, after: &str, nodes: usize, bound: Duration) {
        let started = Instant::now();
        eventually(after, bound, || self.disagreement(nodes));
        step(&format!(
            "{after}: everybody agrees on {nodes} nodes after {} ms",
            started.elapsed().as_millis()
        ));
    }

    fn disagreement(&self, count: usize) -> Result<(), String> {
        let nodes = self.nodes();
        let expected: BTreeSet<Ipv4Addr> = nodes.iter().map(|node| node.ip).collect();
        if expected.len() != count {
            return Err(format!("the engine runs {expected:?}"));
        }
        let registered = self.registered()?;
        if registered != expected {
            return Err(format!("the engine runs {expected:?}, the registry has {registered:?}"));
        }
        let mut files = BTreeSet::new();
        for node in &nodes {
            let body = self.file(node)?;
            let listed = ips(&parse(&body)?);
            if listed != expected {
                return Err(format!("{} lists {listed:?} instead of {expected:?}", node.ip));
            }
            files.insert(body);
        }
        if files.len() != 1 {
            return Err(format!("{} different files: {files:#?}", files.len()));
        }
        for _ in 0..2 * count {
            let answer = self.try_ask("GET", "/ips.json")?;
            if answer.status != 200 || !files.contains(&answer.body) {
                return Err(format!("Envoy answers {} with {}", answer.status, answer.body));
            }
        }
        Ok(())
    }

    /// Every running, unpaused nginx container of this project.
    pub fn nodes(&self) -> Vec<Node> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let filters = ["--filter", &project, "--filter", "label=com.docker.compose.service=nginx"];
        let ids = self.docker(["ps", "-q", "--filter", "status=running"].into_iter().chain(filters));
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Vec::new();
        }
        let format = "{{.Id}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        // What was removed since it was listed is no node any more, and `inspect` prints the others.
        let inspected = Command::new("docker").args(["inspect", "-f", format]).args(ids).output();
        let inspected = String::from_utf8(inspected.expect("docker starts").stdout).expect("text");
        let lines = inspected.lines().filter_map(|line| line.split_once(' '));
        lines.filter_map(|(id, ip)| Some(Node { id: id[..12].to_owned(), ip: ip.parse().ok()? })).collect()
    }

    pub fn find(&self, id: &str) -> Option<Node> {
        self.nodes().into_iter().find(|node| node.id == id)
    }

    /// The network that nodes, Envoy and etcd's clients share.
    pub fn network(&self) -> String {
        format!("{}_fleet", self.project)
    }

    /// Where Envoy is published.
    pub fn edge(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn leader(&self) -> Node {
        self.find(&self.leads()).expect("the leader's container")
    }

    /// The leader's name, which is its container's short id; waits for one.
    pub fn leads(&self) -> String {
        let mut leader = String::new();
        eventually("a leader", Duration::from_secs(15), || {
            let list = parse(&self.try_ask("GET", "/ips.json")?.body)?;
            let found = list["nodes"].as_array().into_iter().flatten().find(|node| node["leader"] == true);
            leader = found.and_then(|node| node["name"].as_str()).ok_or("nobody leads")?.to_owned();
            Ok(())
        });
        leader
    }

    pub fn follower(&self) -> Node {
        let leader = self.leads();
        self.nodes().into_iter().find(|node| node.id != leader).expect("a follower")
    }

    pub fn instance(&self, node: &Node) -> String {
        self.try_instance(node).expect("the node is listed")
    }

    pub fn try_instance(&self, node: &Node) -> Result<String, String> {
        self.row(node, "id")
    }

    pub fn since(&self, node: &Node) -> String {
        self.try_since(node).expect("the node is listed")
    }

    pub fn try_since(&self, node: &Node) -> Result<String, String> {
        self.row(node, "since")
    }

    /// The generated list of every node, byte for byte.
    pub fn files(&self) -> Vec<String> {
        self.nodes().iter().map(|node| self.file(node).expect("the node answers")).collect()
    }

    pub fn is_stale(&self, node: &Node) -> bool {
        self.file(node).is_ok_and(|body| body.contains("\"stale_since\""))
    }

    pub fn list_through_envoy(&self) -> Value {
        parse(&self.ask("GET", "/ips.json").body).expect("a list")
    }

    pub fn ask(&self, method: &str, path: &str) -> Answer {
        self.try_ask(method, path).expect("Envoy answers")
    }

    /// SIGKILL from outside: the engine sees a crash and applies its restart policy.
    pub fn kill_on_host(&self, id: &str) {
        let pid = self.docker(["inspect", "-f", "{{.State.Pid}}", id]);
        run(Command::new("kill").args(["-9", pid.trim()]));
    }

    pub fn exited_with(&self, id: &str, code: i32) {
        let found = self.docker(["inspect", "-f", "{{.State.ExitCode}}", id]);
        assert_eq!(found.trim(), code.to_string(), "exit code of {id}");
    }

    pub fn restarts(&self, id: &str) -> u32 {
        self.docker(["inspect", "-f", "{{.RestartCount}}", id]).trim().parse().expect("a number")
    }

    pub fn docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        run(Command::new("docker").args(args))
    }

    pub fn compose<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        run(&mut self.composing(args))
    }

    fn composing<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("docker");
        command.args(["compose", "-p", &self.project]).args(args).current_dir(&self.root);
        command.env("MUSTER_PORT", self.port.to_string()).env("MUSTER_BIND", "127.0.0.1");
        command
    }

    fn registered(&self) -> Result<BTreeSet<Ipv4Addr>, String> {
        let get =
            ["exec", "-T", "etcd2", "etcdctl", "get", "--prefix", "/muster/nodes/", "--print-value-only"];
        let output = self.composing(get).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("etcdctl: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let values = String::from_utf8_lossy(&output.stdout).into_owned();
        let values = values.lines().filter(|line| !line.is_empty()).map(parse);
        let values: Vec<Value> = values.collect::<Result<_, _>>()?;
        let serving = values.iter().filter(|value| value["state"] == "serving");
        Ok(serving.filter_map(|value| value["ip"].as_str()?.parse().ok()).collect())
    }

    fn row(&self, node: &Node, field: &str) -> Result<String, String> {
        let list = parse(&self.try_ask("GET", "/ips.json")?.body)?;
        let rows = list["nodes"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["name"] == *node.id).ok_or("it is not listed")?;
        Ok(row[field].as_str().unwrap_or_default().to_owned())
    }

    fn file(&self, node: &Node) -> Result<String, String> {
        http((node.ip, 8080).into(), "GET", "/ips.json").map(|answer| answer.body)
    }

    fn try_ask(&self, method: &str, path: &str) -> Result<Answer, String> {
        http(self.edge(), method, path)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut logs =
                self.composing(["logs", "--no-color", "--tail", "15", "nginx", "envoy-a", "envoy-b"]);
            if let Ok(Output { stdout, .. }) = logs.output() {
                step(&String::from_utf8_lossy(&stdout));
            }
        }
        // Without a grace period, paused ones too; nothing of it may stay behind.
        let down = ["--profile", "*", "down", "-v", "-t", "0"];
        let removed = self.composing(["--profile", "*", "kill"]).output().and(self.composing(down).output());
        if !removed.is_ok_and(|output| output.status.success()) {
            step(&format!("project {} could not be removed: docker compose -p {0} down -v", self.project));
        }
    }
}

/// Polls until `check` holds.
///
/// # Panics
/// With the last complaint when the bound is over.
pub fn eventually(what: &str, bound: Duration, mut check: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + bound;
    loop {
        let Err(complaint) = check() else { return };
        assert!(Instant::now() < deadline, "waited {bound:?} for: {what}; {complaint}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Past the test harness's capture: a run of minutes says what it is doing.
fn step(text: &str) {
    let mut line = String::new();
    writeln!(line, "  {text}").expect("a string grows");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

fn ips(list: &Value) -> BTreeSet<Ipv4Addr> {
    let ips = list["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{error} in {text:?}"))
}

/// One request on one connection. A client of our own because it must send paths as given, `..` and all.
fn http(address: SocketAddr, method: &str, path: &str) -> Result<Answer, String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, HTTP_BOUND)?;
        stream.set_read_timeout(Some(HTTP_BOUND))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        // Not to the end of the connection, which Envoy holds open for a while after an answer of its own.
        let mut part = [0; 4096];
        while !is_whole(&answer, method) {
            match stream.read(&mut part)? {
                0 => break,
                length => answer.extend(&part[..length]),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange().map_err(|error| format!("{address}: {error}"))?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| format!("{address} answers {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.ok_or_else(|| format!("{address} answers {head:?}"))?, body: body.to_owned() })
}

/// Whether the head has come, and as much after it as it says.
fn is_whole(answer: &[u8], method: &str) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    method == "HEAD" || length.is_some_and(|length| body.len() >= length)
}
