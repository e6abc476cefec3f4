//! The built-in nginx and the life of a served process, on a real nginx: what is served and how, reload, restart, stop.
//!
//! nginx is the one that `images/parts.sh` has put into `.cache/parts/bin`.

#[path = "nginx/disk.rs"]
mod disk;
#[path = "nginx/links.rs"]
mod links;
mod part;
#[path = "nginx/site.rs"]
mod site;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use part::part;

use muster::backoff::BackOff;
use muster::nginx::{Fallback, HEALTHZ, Limits, Nginx, PrepareError, Requests, holds_a_file};
use muster::process::command::{Command, Exit, SpawnError};
use muster::process::probe::{ProbeError, probe};
use muster::process::service::{ChildSpec, ChildState, End, OnExit, ReloadError, Service};
use muster::process::supervisor::Supervisor;
use muster::process::{Pid, Signal};
use nix::sys::signal::kill;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// A process has one supervisor, so these tests share it. None may use `std::process` beside it.
fn supervisor() -> Supervisor {
    static SHARED: OnceLock<Supervisor> = OnceLock::new();
    SHARED.get_or_init(|| Supervisor::start().unwrap().0).clone()
}

/// An address of this test alone.
fn address() -> SocketAddrV4 {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, high | 0x80, low, COUNT.fetch_add(1, Ordering::Relaxed)), 8080)
}

/// A running nginx with generated files.
struct Node {
    nginx: Nginx,
    served: Service,
    life: JoinHandle<End>,
    _tmp: TempDir,
}

impl Node {
    async fn start(change: impl FnOnce(&mut Nginx, &Path)) -> Option<Self> {
        let tmp = tempfile::Builder::new().prefix("muster \"nginx\" ").tempdir().unwrap();
        let mut nginx = Nginx {
            program: part("nginx")?,
            listen: address(),
            dir: tmp.path().join("srv"),
            site: None,
            fallback: Fallback::default(),
            run_dir: tmp.path().join("run"),
            instance: "0123456789abcdef".into(),
            prefix: "/muster".into(),
            page_policy: "default-src 'self'".into(),
            access_log: Requests::None,
            shutdown_timeout: Duration::from_secs(5),
            limits: Limits::default(),
            sandbox: None,
        };
        change(&mut nginx, tmp.path());
        nginx.prepare().unwrap();
        for (name, text) in [
            ("ips.html", "<!doctype html>page"),
            ("ips.json", "{}"),
            ("ips.txt", "list"),
            ("sd.json", "[]"),
            ("node.json", "{}"),
        ] {
            fs::write(nginx.dir.join(name), text).unwrap();
        }
        for hidden in [".ips.json.tmp", ".muster-x", "ips.json.tmp", "other.html"] {
            fs::write(nginx.dir.join(hidden), "hidden").unwrap();
        }
        let mut spec = nginx.child_spec(OnExit::Restart);
        spec.back_off = BackOff { first: Duration::from_millis(20), ..BackOff::default() };
        let (served, life) = Service::new(supervisor(), spec);
        let life = tokio::spawn(life.run());
        let node = Self { nginx, served, life, _tmp: tmp };
        node.answering("0123456789abcdef").await;
        // On a busy machine nginx may answer before its start has been made known.
        poll("its pid", async || node.pid()).await;
        Some(node)
    }

    /// Where this nginx is asked.
    fn address(&self) -> SocketAddr {
        self.nginx.listen.into()
    }

    async fn answering(&self, instance: &str) {
        poll("an answer", async || {
            let answer = probe(self.address(), "/healthz", Duration::from_secs(1)).await.ok()?;
            (answer.status == 200 && answer.instance.as_deref() == Some(instance)).then_some(())
        })
        .await;
    }

    fn pid(&self) -> Option<Pid> {
        match *self.served.state().borrow() {
            ChildState::Running { pid } => Some(pid),
            _ => None,
        }
    }

    fn ask(&self, request: &str) -> Response {
        ask(self.nginx.listen, request)
    }

    fn get(&self, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\n"))
    }

    async fn stop(self) -> End {
        let end = self.served.stop(Signal::SIGTERM, PATIENCE).await;
        assert_eq!(self.life.await.unwrap(), end);
        end
    }
}

struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

fn ask(addr: SocketAddrV4, request: &str) -> Response {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{request}Host: test\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) =
        text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer to {request}: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.into(), body: body.into() }
}

async fn poll<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_exactly_what_it_should() {
    let Some(node) = Node::start(|_, _| {}).await else { return };
    let ip = node.nginx.listen.ip().to_string();
    for (path, content_type, body) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>page"),
        ("/ips.html", "text/html; charset=utf-8", "<!doctype html>page"),
        ("/ips.json", "application/json", "{}"),
        ("/ips.txt", "text/plain; charset=utf-8", "list"),
        ("/sd.json", "application/json", "[]"),
        ("/node.json", "application/json", "{}"),
        ("/healthz", "text/plain; charset=utf-8", HEALTHZ),
        ("//ips.json", "application/json", "{}"),
        ("/ips.json?x=1", "application/json", "{}"),
    ] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
        assert_eq!(answer.header("Content-Type"), Some(content_type), "{path}");
        assert_eq!(answer.header("X-Served-By"), Some(ip.as_str()), "{path}");
        assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
        let policy = match path {
            "/" | "/ips.html" => "default-src 'self'",
            _ => "default-src 'none'; frame-ancestors 'none'",
        };
        assert_eq!(answer.header("Content-Security-Policy"), Some(policy), "{path}");
        assert_eq!(answer.header("ETag"), None, "{path}");
        assert_eq!(answer.header("Server"), Some("nginx"), "{path}");
        let instance = (path == "/healthz").then_some("0123456789abcdef");
        assert_eq!(answer.header("X-Muster-Instance"), instance, "{path}");
        let fleet = (path == "/healthz").then_some("/muster");
        assert_eq!(answer.header("X-Envoy-Upstream-Healthchecked-Cluster"), fleet, "{path}");
        let modified = answer.header("Last-Modified").unwrap();
        let conditional =
            format!("GET {path} HTTP/1.1\r\nIf-Modified-Since: {modified}\r\nIf-None-Match: *\r\n");
        assert_eq!(node.ask(&conditional).status, 200, "{path}: never a stale 304");
        let head = node.ask(&format!("HEAD {path} HTTP/1.1\r\n"));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
            let refused = node.ask(&format!("{method} {path} HTTP/1.1\r\nContent-Length: 0\r\n"));
            assert_eq!(refused.status, 405, "{method} {path}");
        }
    }
    assert_eq!(node.stop().await, End::Exited(Exit::Code(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_nothing_else() {
    let Some(node) = Node::start(|_, _| {}).await else { return };
    for path in [
        "/.ips.json.tmp",
        "/.muster-x",
        "/ips.json.tmp",
        "/other.html",
        "/nginx.conf",
        "/run/nginx.conf",
        "/index.html",
        "/ips.json/",
        "/ips",
        "/srv/",
        "/healthz/x",
        "/./.muster-x",
        "/nowhere/",
        "/status",
    ] {
        let answer = node.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("X-Served-By"), Some(node.nginx.listen.ip().to_string().as_str()), "{path}");
    }
    for path in ["/../nginx.conf", "/%2e%2e/run/nginx.conf", "/ips.json%00"] {
        assert_eq!(node.get(path).status, 400, "{path}");
    }
    fs::remove_file(node.nginx.dir.join("ips.html")).unwrap();
    assert_eq!(node.get("/").status, 404, "before the first page is written");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_enough_says_so_and_stays_healthy() {
    // One a second is counted by nginx's clock: within the seconds that this takes a few are let through.
    let scarce = Limits { rate: 1, ..Limits::default() };
    let Some(node) = Node::start(|nginx, _| nginx.limits = scarce).await else { return };
    let asked = Instant::now();
    let paths = ["/", "/ips.html", "/ips.json", "/ips.txt", "/sd.json", "/nowhere", "/.hidden"];
    let mut let_through = 0;
    for path in paths.into_iter().cycle().take(70) {
        let answer = node.get(path);
        assert_eq!(answer.header("X-Served-By"), Some(node.nginx.listen.ip().to_string().as_str()));
        // By which Envoy knows that another node would have to be asked in vain.
        let refused = answer.status == 503;
        assert_eq!(answer.header("X-Envoy-RateLimited"), refused.then_some("true"), "{path}");
        assert_eq!(answer.header("Retry-After"), refused.then_some("1"), "{path}");
        let_through += u64::from(!refused);
        assert_eq!(node.get("/healthz").status, 200, "an overloaded node lives");
    }
    // Two at once, and one more for each second since.
    assert!(
        (1..=2 + asked.elapsed().as_secs() + 1).contains(&let_through),
        "{let_through} of 70 were answered"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_are_bounded_and_healthz_is_not_among_them() {
    let scarce = Limits { at_once: 2, ..Limits::default() };
    let Some(node) = Node::start(|nginx, _| nginx.limits = scarce).await else { return };
    fs::write(node.nginx.dir.join("ips.txt"), vec![b'x'; 64 << 20]).unwrap();
    // More than the kernel holds for somebody who does not read.
    let unread: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(node.nginx.listen).unwrap();
            stream.write_all(b"GET /ips.txt HTTP/1.0\r\n\r\n").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    assert_eq!(node.get("/ips.json").status, 503);
    assert_eq!(node.get("/healthz").status, 200);
    drop(unread);
    poll("room again", async || (node.get("/ips.json").status == 200).then_some(())).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_limits_are_far_from_a_usual_load() {
    let Some(node) = Node::start(|_, _| {}).await else { return };
    for _ in 0..500 {
        assert_eq!(node.get("/ips.json").status, 200);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_are_cut_off() {
    let Some(node) = Node::start(|_, _| {}).await else { return };
    let mut slow = TcpStream::connect(node.nginx.listen).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ").unwrap();
    let end = slow.read_to_end(&mut Vec::new());
    let reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
    assert!(end.is_ok() || end.as_ref().is_err_and(reset), "headers that never end: {end:?}");
    node.stop().await;
}

/// What is not compiled in has no bugs that could be reached.
#[tokio::test(flavor = "multi_thread")]
async fn nginx_has_no_more_than_it_needs() {
    let Some(program) = part("nginx") else { return };
    let said = supervisor().output(Command::new(&program, ["-V"]), PATIENCE).await.unwrap().text;
    for without in ["pcre", "pcre2", "http_rewrite_module", "http_proxy_module", "http_ssi_module"] {
        assert!(said.contains(&format!("--without-{without} ")), "{without} in {said}");
    }
    let with: Vec<&str> = said.split_whitespace().filter(|word| word.starts_with("--with-http")).collect();
    assert_eq!(with, ["--with-http_gzip_static_module", "--with-http_stub_status_module"]);
    let added: Vec<&str> = said.split_whitespace().filter(|word| word.starts_with("--add")).collect();
    assert_eq!(added, ["--add-module=brotli"]);
    let Some(node) = Node::start(|_, _| {}).await else { return };
    let written = fs::read_to_string(node.nginx.run_dir.join("nginx.conf")).unwrap();
    assert!(!written.contains("location ~"), "a regex in {written}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_content_takes_all_but_the_generated_files() {
    let with_site = |nginx: &mut Nginx, tmp: &Path| {
        let site = tmp.join("site");
        fs::create_dir_all(site.join("sub")).unwrap();
        assert!(!holds_a_file(&site));
        for (name, text) in [
            ("index.html", "own"),
            ("app.js", "1"),
            ("sub/index.html", "sub"),
            ("ips.json", "own list"),
            (".env", "secret"),
        ] {
            fs::write(site.join(name), text).unwrap();
        }
        assert!(holds_a_file(&site));
        nginx.site = Some(site);
    };
    let Some(node) = Node::start(with_site).await else { return };
    for (path, status, body) in [
        ("/", 200, "own"),
        ("/index.html", 200, "own"),
        ("/sub/", 200, "sub"),
        ("/ips.json", 200, "{}"),
        ("/ips.html", 200, "<!doctype html>page"),
        ("/healthz", 200, HEALTHZ),
    ] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
    }
    let script = node.get("/app.js");
    assert_eq!(script.header("Content-Type"), Some("text/javascript; charset=utf-8"));
    assert!(script.header("X-Served-By").is_some() && script.header("ETag").is_some());
    assert_eq!(script.header("Cache-Control"), Some("no-cache"));
    assert_eq!(node.get("/.env").status, 404);
    assert_eq!(node.get("/none.html").status, 404);
    assert_eq!(
        node.get("/sub").header("Location"),
        Some("/sub/"),
        "behind a balancer the own address is useless"
    );
    assert_eq!(node.ask("DELETE /app.js HTTP/1.1\r\n").status, 405);
    fs::remove_file(node.nginx.site.as_ref().unwrap().join("index.html")).unwrap();
    assert_eq!(node.get("/").body, "<!doctype html>page", "own content without a start page");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_and_a_good_one_is_taken() {
    let Some(node) = Node::start(|_, _| {}).await else { return };
    let pid = node.pid();
    let conf = node.nginx.run_dir.join("nginx.conf");
    fs::write(&conf, "daemon off; nonsense;").unwrap();
    let refused = node.served.reload().await;
    assert!(matches!(&refused, Err(ReloadError::Refused(text)) if text.contains("nonsense")), "{refused:?}");
    node.answering("0123456789abcdef").await;

    let changed = Nginx { instance: "fedcba9876543210".into(), ..node.nginx.clone() };
    changed.prepare().unwrap();
    node.served.reload().await.unwrap();
    node.answering("fedcba9876543210").await;
    assert_eq!(node.pid(), pid, "a reload is no restart");
    node.stop().await;
}

/// Between the exec and the word of it there is a moment in which the state is still `Starting`: what comes then is meant
/// for the process that is about to run. Here the moment is held open: the life is run only afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_before_the_start_is_known_still_arrives() {
    let spec = ChildSpec::command(Command::new("sleep", ["60"]), OnExit::Exit);
    let (served, life) = Service::new(supervisor(), spec);
    served.forward(Signal::SIGUSR1);
    let end = timeout(PATIENCE, life.run()).await.expect("the signal was dropped");
    assert_eq!(end, End::Exited(Exit::Signal(Signal::SIGUSR1 as i32)));

    let spec = ChildSpec::command(Command::new("sleep", ["60"]), OnExit::Exit);
    let (served, life) = Service::new(supervisor(), spec);
    served.reload().await.expect("one that starts may have read the old configuration");
    let end = timeout(PATIENCE, life.run()).await.expect("the reload was dropped");
    assert_eq!(end, End::Exited(Exit::Signal(Signal::SIGHUP as i32)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_replaced_though_its_worker_keeps_the_port() {
    let Some(node) = Node::start(|_, _| {}).await else { return };
    let old = node.pid().unwrap();
    let workers =
        poll("a worker", async || Some(children_of(old)).filter(|workers| !workers.is_empty())).await;
    kill(old, Signal::SIGKILL).unwrap();
    poll("another master", async || node.pid().filter(|pid| *pid != old)).await;
    node.answering("0123456789abcdef").await;
    for worker in workers {
        assert!(kill(worker, None).is_err(), "the old worker is gone before the new start");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_nginx_is_seen_by_the_probe_and_replaced_on_demand() {
    let Some(node) = Node::start(|_, _| {}).await else { return };
    let old = node.pid().unwrap();
    supervisor().signal_group(old, Signal::SIGSTOP).unwrap();
    // The kernel still accepts for it.
    drop(TcpStream::connect(node.nginx.listen).unwrap());
    let hung = poll("the stop to take effect", async || {
        probe(node.address(), "/healthz", Duration::from_millis(200)).await.err()
    });
    assert!(matches!(hung.await, ProbeError::Timeout));
    node.served.kill("does not answer");
    poll("another master", async || node.pid().filter(|pid| *pid != old)).await;
    node.answering("0123456789abcdef").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_stops_leave_nothing_behind() {
    for fast in [false, true] {
        let Some(node) = Node::start(|_, _| {}).await else { return };
        let pid = node.pid().unwrap();
        // A stopped one ends as well.
        supervisor().signal_group(pid, Signal::SIGSTOP).unwrap();
        let end = if fast {
            node.served.stop_fast(PATIENCE).await
        } else {
            node.served.stop(Signal::SIGINT, PATIENCE).await
        };
        assert_eq!(end, End::Exited(Exit::Code(0)));
        assert_eq!(end.code(), 0);
        assert!(matches!(probe(node.address(), "/healthz", PATIENCE).await, Err(ProbeError::Refused)));
        assert!(matches!(node.served.reload().await, Err(ReloadError::NotRunning)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_lets_a_request_end() {
    let Some(node) = Node::start(|nginx, _| nginx.shutdown_timeout = PATIENCE).await else { return };
    fs::write(node.nginx.dir.join("ips.txt"), vec![b'x'; 16 << 20]).unwrap();
    let mut stream = TcpStream::connect(node.nginx.listen).unwrap();
    stream.write_all(b"GET /ips.txt HTTP/1.0\r\n\r\n").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let stopping = tokio::spawn({
        let served = node.served.clone();
        async move { served.stop(Signal::SIGTERM, PATIENCE).await }
    });
    poll("the port to close", async || TcpStream::connect(node.nginx.listen).is_err().then_some(())).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 16 << 20, "only {} bytes came", rest.len());
    assert_eq!(stopping.await.unwrap(), End::Exited(Exit::Code(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_its_port() {
    let port = address();
    let stranger = TcpListener::bind(port).unwrap();
    let mut spec = ChildSpec::command(Command::new("sleep", ["1000"]), OnExit::Restart);
    spec.port = Some(port);
    let (served, life) = Service::new(supervisor(), spec);
    let life = tokio::spawn(life.run());
    let mut state = served.state();
    timeout(PATIENCE, state.changed()).await.expect("starting is said at once").unwrap();
    assert_eq!(*state.borrow_and_update(), ChildState::Starting);
    assert!(
        timeout(Duration::from_millis(200), state.changed()).await.is_err(),
        "and nothing more while it is taken"
    );
    drop(stranger);
    timeout(PATIENCE, state.wait_for(|state| matches!(state, ChildState::Running { .. })))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(served.stop(Signal::SIGTERM, PATIENCE).await, End::Exited(Exit::Signal(15)));
    assert_eq!(life.await.unwrap().code(), 128 + 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_the_back_off_is_heard() {
    let mut spec = ChildSpec::command(Command::new("false", [""; 0]), OnExit::Restart);
    spec.back_off = BackOff { first: PATIENCE * 10, max: PATIENCE * 10, ..BackOff::default() };
    let (served, life) = Service::new(supervisor(), spec);
    let life = tokio::spawn(life.run());
    let mut state = served.state();
    let state =
        timeout(PATIENCE, state.wait_for(|state| matches!(state, ChildState::Backoff { .. }))).await.unwrap();
    assert!(matches!(&*state.unwrap(), ChildState::Backoff { last: End::Exited(Exit::Code(1)), .. }));
    assert_eq!(timeout(PATIENCE, served.stop(Signal::SIGTERM, PATIENCE)).await.unwrap(), End::Stopped);
    assert_eq!(life.await.unwrap().code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn spawns_and_reaping_do_not_meet() {
    let supervisor = supervisor();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300_u32 {
        let supervisor = supervisor.clone();
        tasks.spawn(async move {
            if number % 3 == 0 {
                let missing = supervisor.spawn(Command::new("/no/such/program", [""; 0])).await;
                assert!(matches!(missing, Err(SpawnError::NotFound { .. })), "{missing:?}");
            } else {
                let code = (number % 256) as u8;
                let mut child = supervisor
                    .spawn(Command::new("sh", ["-c", &format!("true & exit {code}")]))
                    .await
                    .unwrap();
                assert_eq!(child.wait().await, Exit::Code(code));
                assert_eq!(child.wait().await, Exit::Code(code), "an end can be asked for again");
                supervisor.kill_group_and_wait(child.pid, PATIENCE).await.unwrap();
                assert!(
                    supervisor.signal(child.pid, Signal::SIGTERM).is_err(),
                    "a reaped number is not signalled"
                );
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_captured_within_its_bound() {
    let supervisor = supervisor();
    let mut command = Command::new("sh", ["-c", "echo out; echo $WORD >&2; exit 4"]);
    command.env.push(("WORD".into(), "err".into()));
    let output = supervisor.output(command, PATIENCE).await.unwrap();
    assert_eq!((output.exit, output.text.as_str()), (Some(Exit::Code(4)), "out\nerr\n"));

    let endless = Command::new("sh", ["-c", "echo first; sleep 1000 & sleep 1000"]);
    let output = supervisor.output(endless, Duration::from_secs(2)).await.unwrap();
    assert_eq!((output.exit, output.text.as_str()), (None, "first\n"));
}

#[test]
fn a_second_supervisor_is_refused() {
    supervisor();
    assert!(Supervisor::start().is_err());
}

#[test]
fn what_nginx_cannot_read_is_refused_before_it_starts() {
    let nginx = Nginx {
        program: "nginx".into(),
        listen: "0.0.0.0:8080".parse().unwrap(),
        dir: "/srv/$host".into(),
        site: None,
        fallback: Fallback::default(),
        run_dir: "/nowhere".into(),
        instance: String::new(),
        prefix: String::new(),
        page_policy: String::new(),
        access_log: Requests::None,
        shutdown_timeout: Duration::ZERO,
        limits: Limits::default(),
        sandbox: None,
    };
    assert!(matches!(nginx.prepare(), Err(PrepareError::Path(_))));
}
