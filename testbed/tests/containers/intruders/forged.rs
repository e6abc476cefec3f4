//! The control port and etcd, asked with certificates that no service has: of another authority, of another name, of
//! another role. Over TLS and gRPC as the real callers speak them, from a stranger's place in the fleet's network.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Parts, Stranger};
use crate::engine::Fleet;

const HERE: &str = "muster.presence.v1.Presence/Here";
const ATTEND: &str = "muster.presence.v1.Presence/Attend";
const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// What becomes of one who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    /// The service has heard it.
    Answer,
    /// PERMISSION_DENIED.
    Denied,
    /// TLS does not come about.
    Nothing,
}

/// A certificate and its key.
#[derive(Clone)]
struct Shown {
    certificate: PathBuf,
    key: PathBuf,
}

/// Nobody gets more than its role has, at either door.
pub fn certificates_open_what_they_are_for(fleet: &Fleet, parts: &Parts) {
    let forge = Forge::new(fleet);
    let stranger = Stranger::on(fleet, "fleet");
    let agent = file(parts, "nginx", "/pki/agent", "control");
    let authority = agent.certificate.with_file_name("control-ca.crt");
    let (answer, denied, nothing) = (Got::Answer, Got::Denied, Got::Nothing);
    let callers = [
        ("without a certificate", None, [nothing; 3]),
        ("Envoy", Some(file(parts, "envoy-a", "/pki", "control")), [denied, denied, answer]),
        ("another role", Some(forge.signed("control", "operator", Some("operator.muster"))), [denied; 3]),
        ("an agent by its common name alone", Some(forge.signed("control", "agent", None)), [denied; 3]),
        ("another authority's", Some(forge.alone("agent", "agent.muster")), [nothing; 3]),
        ("an agent's for etcd", Some(file(parts, "nginx", "/pki/agent", "etcd")), [nothing; 3]),
        ("an operator's", Some(file(parts, "etcd", "/pki", "etcd")), [nothing; 3]),
        ("a member's for members", Some(file(parts, "etcd", "/pki", "peer")), [nothing; 3]),
    ];
    // The leader and a follower.
    for node in parts.named("nginx") {
        let ask = |shown: Option<&Shown>, service, more: &[&str]| {
            control(&stranger, node.addresses["fleet"], &authority, shown, service, more)
        };
        for (who, shown, expected) in &callers {
            for (service, expected) in [HERE, ATTEND, ADS].into_iter().zip(expected) {
                assert_eq!(ask(shown.as_ref(), service, &[]), *expected, "{who}: {service}");
            }
        }
        assert_eq!(ask(Some(&agent), HERE, &[]), answer, "an agent, presence");
        assert_eq!(ask(Some(&agent), ADS, &[]), denied, "an agent, ADS");
        assert_eq!(ask(Some(&agent), HERE, &["--tls-max", "1.2"]), nothing, "TLS 1.2");
        let log = fleet.docker(["logs", node.says["Id"].as_str().unwrap()]);
        assert!(log.contains("refused at the control port"), "it is told: {log}");
    }
    names_that_etcd_does_not_know(fleet, parts, &stranger, &forge);
}

fn names_that_etcd_does_not_know(fleet: &Fleet, parts: &Parts, stranger: &Stranger, forge: &Forge) {
    let etcd = parts.named("etcd").next().unwrap().addresses["fleet"];
    let ask = |shown: &Shown, words: &[&str]| {
        let etcdctl =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".cache/parts/bin/etcdctl");
        let mut command = stranger.command(etcdctl.to_str().unwrap());
        command.args(words).args(["--command-timeout=3s", "--dial-timeout=2s", "--insecure-skip-tls-verify"]);
        command.env("ETCDCTL_ENDPOINTS", format!("https://{etcd}:2379"));
        command.env("ETCDCTL_CERT", &shown.certificate).env("ETCDCTL_KEY", &shown.key);
        let Output { status, stderr, .. } = command.output().expect("etcdctl of images/parts.sh");
        if status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&stderr).into_owned()) }
    };
    let leaders = fleet.compose([
        "exec",
        "-T",
        "etcd1",
        "etcdctl",
        "get",
        "--prefix",
        "/muster/leader/",
        "--keys-only",
    ]);
    let lease =
        leaders.lines().find_map(|key| key.trim().strip_prefix("/muster/leader/")).expect("a candidate");
    let tries = [
        &["get", "--prefix", "/muster"][..],
        &["put", "/muster/nodes/x-0123456789abcdef", "{}"],
        &["lease", "keep-alive", "--once", lease],
        &["lease", "revoke", lease],
        &["user", "list"],
    ];
    let wrong_name = forge.signed("etcd", "stranger", None);
    let operator = file(parts, "etcd", "/pki", "etcd");
    for words in tries {
        let said = ask(&wrong_name, words).expect_err("a name that is no user's was let in");
        assert!(
            said.contains("permission denied") || said.contains("user name not found"),
            "{words:?}: {said}"
        );
    }
    // Root by name, of an authority of its own or of the control port's. (A keep-alive would try for ever.)
    for shown in [forge.alone("root", "root"), forge.signed("control", "root", None)] {
        ask(&shown, tries[0]).expect_err("another authority was let in");
    }
    ask(&operator, tries[0])
        .expect("the operator is let in, so that the others were refused for what they are");
    for words in &tries[2..4] {
        let said = ask(&operator, words).expect_err("an operator may do that with an agent's lease");
        assert!(said.contains("permission denied"), "{words:?}: {said}");
    }
    let old = |most: &str| {
        let mut command = stranger.command("curl");
        command.args(["-sko", "/dev/null", "--http1.1", "--max-time", "10", "--tls-max", most, "--cert"]);
        command.arg(&operator.certificate).arg("--key").arg(&operator.key);
        command.arg(format!("https://{etcd}:2379/version")).status().expect("curl").success()
    };
    assert!(old("1.3") && !old("1.2"), "etcd speaks TLS 1.3 and nothing older");
}

/// One gRPC call without a message: curl gives up on an answer that comes before it has sent its own.
fn control(
    stranger: &Stranger,
    node: Ipv4Addr,
    authority: &Path,
    shown: Option<&Shown>,
    service: &str,
    more: &[&str],
) -> Got {
    let mut command = stranger.command("curl");
    command
        .args(["-s", "--http2", "-o", "/dev/null", "-D", "-", "--max-time", "10", "-X", "POST"])
        .args(more);
    command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    command.args(["--resolve", &format!("agent.muster:18000:{node}"), "--cacert"]).arg(authority);
    if let Some(Shown { certificate, key }) = shown {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    command.arg(format!("https://agent.muster:18000/{service}"));
    let said = String::from_utf8_lossy(&command.output().expect("curl").stdout).to_lowercase();
    let status = said.lines().find_map(|line| line.strip_prefix("grpc-status: "));
    match status.map(str::trim) {
        Some("7") => Got::Denied,
        Some(_) => Got::Answer,
        None if said.starts_with("http/2 200") => Got::Answer,
        None => Got::Nothing,
    }
}

/// What a running container has, read as root of this machine may.
fn file(parts: &Parts, service: &str, volume: &str, name: &str) -> Shown {
    let root = format!("/proc/{}/root{volume}", parts.named(service).next().unwrap().pid);
    let dir = Path::new(&root).join(fs::read_link(Path::new(&root).join("current")).unwrap());
    Shown { certificate: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
}

/// Makes what nobody in the fleet has, with the authorities' own keys where that is the point.
struct Forge {
    dir: tempfile::TempDir,
    authorities: PathBuf,
}

impl Forge {
    fn new(fleet: &Fleet) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = fleet.network().replace("_fleet", "_pki-authority:/pki/authority:ro");
        let id = fleet.docker(["create", "--network", "none", "-v", &volume, "muster/node:local", "version"]);
        let copy = format!("{}:/pki/authority", id.trim());
        fleet.docker(["cp", &copy, dir.path().to_str().unwrap()]);
        fleet.docker(["rm", "-v", id.trim()]);
        let kept = dir.path().join("authority");
        let authorities = kept.join(fs::read_link(kept.join("current")).unwrap());
        Self { dir, authorities }
    }

    /// By an authority of this fleet, for clients.
    fn signed(&self, authority: &str, common_name: &str, name: Option<&str>) -> Shown {
        let file =
            |ending: &str| self.authorities.join(format!("{authority}-ca.{ending}")).display().to_string();
        self.make(
            &format!("{authority}-{common_name}"),
            common_name,
            name,
            &["-CA", &file("crt"), "-CAkey", &file("key")],
        )
    }

    /// By itself.
    fn alone(&self, common_name: &str, name: &str) -> Shown {
        self.make(&format!("alone-{common_name}"), common_name, Some(name), &[])
    }

    fn make(&self, file: &str, common_name: &str, name: Option<&str>, signer: &[&str]) -> Shown {
        let path = |ending: &str| self.dir.path().join(format!("{file}.{ending}"));
        let shown = Shown { certificate: path("crt"), key: path("key") };
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-days", "1", "-subj", &format!("/CN={common_name}")]).args(signer);
        command.args([
            "-addext",
            "extendedKeyUsage=clientAuth",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        if let Some(name) = name {
            command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
        }
        command.arg("-out").arg(&shown.certificate).arg("-keyout").arg(&shown.key);
        let Output { status, stderr, .. } = command.output().expect("openssl");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        shown
    }
}
