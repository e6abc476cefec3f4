//! `muster pki etcd-auth` against a real etcd with TLS: who may what afterwards, and what repeating it does.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::certificates::Fleet;
use crate::part::part;
use muster::pki::plan::{Authority, CertificateSubject, Usage};
use tempfile::TempDir;

const DAY: i64 = 86_400;
/// Seconds that a command waits for etcd: long, since a start on a loaded machine takes some.
const WAIT: &str = "120";

/// An etcd that may be started late, and the certificates for it.
struct Registry {
    fleet: Fleet,
    tmp: TempDir,
    url: String,
    peer: String,
    etcd: PathBuf,
    etcdctl: PathBuf,
    process: Option<Child>,
}

impl Registry {
    fn new() -> Option<Self> {
        let (etcd, etcdctl) = (part("etcd")?, part("etcdctl")?);
        let taken = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [url, peer] = taken.map(|port| format!("https://{}", port.local_addr().unwrap()));
        let tmp = tempfile::tempdir().unwrap();
        Some(Self { fleet: Fleet::new(), tmp, url, peer, etcd, etcdctl, process: None })
    }

    fn start(&mut self) {
        let file = |name: &str| self.fleet.dir("etcd1").join(name);
        let child = Command::new(&self.etcd)
            .args(["--name", "etcd1", "--log-level", "warn", "--unsafe-no-fsync", "--client-cert-auth"])
            .args(["--enable-grpc-gateway=false", "--peer-client-cert-auth"])
            .args(["--listen-client-urls", &self.url, "--advertise-client-urls", &self.url])
            .args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer])
            .args(["--initial-cluster", &format!("etcd1={}", self.peer), "--data-dir"])
            .arg(self.tmp.path().join("data"))
            .arg("--trusted-ca-file")
            .arg(file("server-ca.crt"))
            .arg("--cert-file")
            .arg(file("server.crt"))
            .arg("--key-file")
            .arg(file("server.key"))
            .arg("--peer-trusted-ca-file")
            .arg(file("peer-ca.crt"))
            .arg("--peer-cert-file")
            .arg(file("peer.crt"))
            .arg("--peer-key-file")
            .arg(file("peer.key"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.tmp.path().join("etcd.log")).unwrap())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// `muster pki etcd-auth` with the certificate of a service.
    fn etcd_auth(&self, service: &str, wait: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        command.args(["pki", "etcd-auth", "--etcd", &self.url, "--wait", wait, "--tls-dir"]);
        command.arg(self.fleet.dir(service)).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn sets_up(&self, words: &str) {
        let output = self.etcd_auth("etcd-root", WAIT).output().unwrap();
        assert!(output.status.success() && text(&output.stdout).contains(words), "{output:?}");
    }

    /// `etcdctl` with `etcd.crt` and `etcd.key` of a directory, or without any.
    fn ctl(&self, shown: Option<&Path>, words: &[&str]) -> Result<String, String> {
        self.ctl_within("20s", shown, words)
    }

    /// It knocks again and again until then where TLS does not come about.
    fn ctl_within(&self, time: &str, shown: Option<&Path>, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.etcdctl);
        command.args(words).args(["--command-timeout", time, "--dial-timeout", time]);
        command.env("ETCDCTL_ENDPOINTS", &self.url);
        command.env("ETCDCTL_CACERT", self.fleet.dir("operator").join("etcd-ca.crt"));
        if let Some(dir) = shown {
            command.env("ETCDCTL_CERT", dir.join("etcd.crt")).env("ETCDCTL_KEY", dir.join("etcd.key"));
        }
        let Output { status, stdout, stderr } = command.output().unwrap();
        if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
    }

    fn as_service(&self, service: &str, words: &[&str]) -> Result<String, String> {
        self.ctl(Some(&self.fleet.dir(service)), words)
    }

    /// What etcd counts, as Prometheus asks for it.
    fn metrics(&self, shown: Option<&Path>) -> Result<String, String> {
        let mut command = Command::new("curl");
        command.args(["-sSf", "--max-time", "20", &format!("{}/metrics", self.url), "--cacert"]);
        command.arg(self.fleet.dir("prometheus").join("etcd-ca.crt"));
        if let Some(dir) = shown {
            command.arg("--cert").arg(dir.join("etcd.crt")).arg("--key").arg(dir.join("etcd.key"));
        }
        let Output { status, stdout, stderr } = command.output().unwrap();
        if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
    }

    /// A directory with a certificate of this authority under this name, as a client of etcd shows it.
    fn client_named(&self, name: &str, authority: Authority, usage: Usage) -> PathBuf {
        let identity = CertificateSubject {
            file: "etcd",
            authority,
            common_name: name.into(),
            names: vec!["x".into()],
            usage,
        };
        let pem = self.fleet.sign(&identity, -DAY, DAY);
        let dir = self.tmp.path().join(format!("{name}-{authority:?}-{usage:?}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("etcd.crt"), pem.certificate).unwrap();
        fs::write(dir.join("etcd.key"), pem.key).unwrap();
        dir
    }

    /// Whether leases are protected by authentication: before 3.5.28 only the certificate is.
    fn guards_leases(&self) -> bool {
        let said = text(&Command::new(&self.etcd).arg("--version").output().unwrap().stdout);
        let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: ")).unwrap();
        let numbers: Vec<u32> = version.trim().split('.').filter_map(|part| part.parse().ok()).collect();
        numbers[0] > 3 || numbers[1] > 5 || (numbers[1] == 5 && numbers[2] >= 28)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            _ = process.kill();
            _ = process.wait();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn denied(outcome: Result<String, String>) {
    let said = outcome.expect_err("it was allowed");
    // Of a name that is no user's it says the latter.
    assert!(said.contains("permission denied") || said.contains("user name not found"), "{said}");
}

#[test]
fn each_user_may_what_is_its_own_and_nobody_else_anything() {
    let Some(mut registry) = Registry::new() else { return };
    let output = registry.etcd_auth("etcd-root", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(5), "nobody is there, and the wait is over: {output:?}");
    assert!(text(&output.stderr).contains("run this again"), "{output:?}");

    let early = registry.etcd_auth("etcd-root", WAIT).spawn().unwrap();
    registry.start();
    let output = early.wait_with_output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("set up and on"), "{output:?}");
    registry.sets_up("on as it should be");

    let all = ["get", "--prefix", "/muster"];
    let put = |service, key| registry.as_service(service, &["put", key, "{}"]);
    put("agent", "/muster/nodes/a-1").expect("an agent writes the registry");
    registry.as_service("agent", &all).expect("and reads it");
    for words in [
        &["put", "/elsewhere", "x"][..],
        &["get", "/elsewhere"],
        &["get", "--prefix", "/"],
        &["del", "--prefix", ""],
        &["user", "list"],
        &["role", "grant-permission", "agent", "--prefix=true", "readwrite", "/"],
        &["auth", "disable"],
    ] {
        denied(registry.as_service("agent", words));
    }

    assert!(registry.as_service("operator", &all).expect("an operator reads").contains("/muster/nodes/a-1"));
    assert!(registry.as_service("etcd1", &all).expect("beside a member too").contains("/muster/nodes/a-1"));
    for key in ["/muster/marks/a", "/muster/leader/1"] {
        put("operator", key).expect("and marks, and moves the leadership");
        registry.as_service("operator", &["del", key]).unwrap();
    }
    for key in
        ["/muster/nodes/x-1", "/muster/life", "/muster/drained", "/muster/marks", "/muster", "/elsewhere"]
    {
        denied(put("operator", key));
    }
    denied(registry.as_service("operator", &["del", "--prefix", "/muster"]));
    denied(registry.as_service("operator", &["user", "add", "me:me"]));
    registry.as_service("etcd-root", &["put", "/elsewhere", "x"]).expect("root writes everything");

    let granted = registry.as_service("agent", &["lease", "grant", "3600"]).unwrap();
    let lease = granted.split_whitespace().nth(1).unwrap();
    registry.as_service("agent", &["put", "/muster/nodes/b-2", "{}", "--lease", lease]).unwrap();
    let foreign = [&["lease", "keep-alive", "--once", lease][..], &["lease", "revoke", lease]];
    let stranger = registry.client_named("stranger", Authority::Etcd, Usage::Client);
    let prometheus = registry.fleet.dir("prometheus");
    for words in [&all[..], &["put", "/muster/nodes/c-3", "{}"], &["user", "list"]] {
        denied(registry.ctl(Some(&stranger), words));
        denied(registry.ctl(Some(&prometheus), words));
    }
    if registry.guards_leases() {
        for words in foreign {
            denied(registry.as_service("operator", words));
            denied(registry.ctl(Some(&stranger), words));
            denied(registry.ctl(Some(&prometheus), words));
        }
    }
    assert!(registry.metrics(Some(&prometheus)).expect("its metrics").contains("etcd_server_has_leader 1"));
    registry.metrics(None).expect_err("metrics without a certificate");
    assert!(registry.as_service("agent", &["lease", "keep-alive", "--once", lease]).is_ok());

    registry.ctl_within("2s", None, &all).expect_err("without a certificate");
    for (authority, usage) in [
        (Authority::Control, Usage::Client),
        (Authority::Peer, Usage::Both),
        // A member's own, were it named so.
        (Authority::Etcd, Usage::Server),
    ] {
        let shown = registry.client_named("root", authority, usage);
        let said =
            registry.ctl_within("2s", Some(&shown), &all).expect_err("TLS lets nobody in but its clients");
        assert!(!said.contains("permission denied"), "{authority:?} came as far as etcd: {said}");
    }

    // Nobody else can set it up again, and what is wrong is told at once.
    let output = registry.etcd_auth("operator", WAIT).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("permission denied"), "{output:?}");
}

#[test]
fn two_at_a_time_set_up_one_and_what_was_taken_away_is_given_again() {
    let Some(mut registry) = Registry::new() else { return };
    let both = [(); 2].map(|()| registry.etcd_auth("etcd-root", WAIT).spawn().unwrap());
    registry.start();
    for one in both {
        let output = one.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let get = ["get", "--prefix", "/muster"];
    registry.as_service("agent", &get).unwrap();
    registry.as_service("etcd-root", &["role", "revoke-permission", "agent", "/muster", "/mustes"]).unwrap();
    registry.as_service("etcd-root", &["user", "delete", "operator"]).unwrap();
    denied(registry.as_service("agent", &get));
    denied(registry.as_service("operator", &get));
    registry.sets_up("set up and on");
    registry.as_service("agent", &get).unwrap();
    registry.as_service("operator", &get).unwrap();
    registry.sets_up("on as it should be");
}
