//! The node's image: what is in it, what is not any more, and that it runs without the rest. Needs an engine and the
//! image, so it is ignored unless asked for: `make test` runs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Half a second on an idle machine.
const HEALTHY: Duration = Duration::from_secs(120);

/// Where the packages are, in alpine:3.10, that images/node/vex.json calls absent.
const REMOVED: [(&str, &[&str]); 5] = [
    (
        "apk-tools",
        &["sbin/apk", "lib/apk/", "etc/apk/", "usr/share/apk/", "var/cache/apk/", "usr/lib/libapk"],
    ),
    ("libcrypto1.1", &["lib/libcrypto", "usr/lib/libcrypto", "usr/lib/engines-1.1/", "etc/ssl/"]),
    ("libssl1.1", &["lib/libssl", "usr/lib/libssl", "usr/lib/libtls", "usr/bin/ssl_client"]),
    ("zlib", &["lib/libz.", "usr/lib/libz."]),
    (
        "rest",
        &[
            "usr/bin/scanelf",
            "usr/bin/iconv",
            "usr/bin/ldd",
            "etc/init.d/",
            "etc/crontabs/",
            "var/spool/cron",
        ],
    ),
];

/// All that can be executed of the base, and what it needs for it.
const OF_THE_BASE: [&str; 6] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/lib", "/usr/lib"];

#[test]
#[ignore = "needs a container engine and the images of `make images`"]
fn the_image_has_what_it_needs_and_no_more() {
    let image = image();
    let scratch = Container::new(docker(["create", &image]));
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    docker(["export", "--output", archive.to_str().unwrap(), &scratch.id]);
    let listing = run(Command::new("tar").arg("-tvf").arg(&archive));
    let files: Vec<(&str, &str)> = listing.lines().map(mode_and_path).collect();
    assert!(files.iter().any(|(_, path)| *path == "usr/local/bin/muster"), "{listing}");
    for (mode, path) in &files {
        assert!(!mode.contains(['s', 'S']), "{path} is {mode}: it lends somebody else's rights");
        for (package, places) in REMOVED {
            let there = places.iter().any(|place| path.starts_with(place));
            assert!(!there, "{path} of {package} is still there");
        }
    }
    // Those who look should see what this is.
    assert!(files.iter().any(|(_, path)| *path == "etc/os-release"));
    let root = root();
    let listed: Value =
        serde_json::from_str(&fs::read_to_string(root.join("images/node/vex.json")).unwrap()).unwrap();
    for package in absent(&listed) {
        assert!(REMOVED.iter().any(|(known, _)| *known == package), "nobody looks for {package}");
    }

    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir.path()).arg("usr/local/bin"));
    let programs = ["muster", "nginx"].map(|name| dir.path().join("usr/local/bin").join(name));
    run(Command::new(root.join("images/nginx/hardened.sh")).args(programs));
}

/// What stands in front of the last column may hold spaces, and a link has its target behind it.
fn mode_and_path(line: &str) -> (&str, &str) {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    let path = rest.split(" -> ").next().unwrap_or_default();
    (&line[..10], path)
}

/// The packages that are said not to be there.
fn absent(vex: &Value) -> BTreeSet<String> {
    let statements = vex["statements"].as_array().unwrap();
    let absent = statements.iter().filter(|statement| statement["justification"] == "component_not_present");
    let named = |purl: &str| Some(purl.strip_prefix("pkg:apk/alpine/")?.split('@').next()?.to_owned());
    absent
        .flat_map(|statement| statement["products"][0]["subcomponents"].as_array().unwrap())
        .filter_map(|component| named(component["@id"].as_str()?))
        .collect()
}

#[test]
#[ignore = "needs a container engine and the images of `make images`"]
fn a_node_runs_without_a_shell_and_without_anything_else_of_the_base() {
    let image = image();
    let says: Value = serde_json::from_str(&docker(["inspect", &image])).unwrap();
    let config = &says[0]["Config"];
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/local/bin/muster"]));
    assert_eq!(config["Healthcheck"]["Test"][0], "CMD", "CMD-SHELL asks for a shell");

    let mut words = vec!["run", "--detach", "--network=none", "--read-only", "--cap-drop=ALL"];
    words.extend(["--security-opt=no-new-privileges:true", "--health-interval=1s"]);
    let own = "size=16m,mode=0750,uid=65532,gid=65532,noexec,nosuid,nodev";
    let covered = OF_THE_BASE.map(|place| format!("--tmpfs={place}:size=1k"));
    let kept = ["/srv/muster", "/run/muster"].map(|place| format!("--tmpfs={place}:{own}"));
    words.extend(covered.iter().chain(&kept).map(String::as_str));
    // Without a network there is no etcd, and none is needed to serve.
    words.extend([image.as_str(), "run", "--allow", "127.0.0.0/8"]);
    let node = Container::new(docker(words));
    let tried = Command::new("docker").args(["exec", &node.id, "/bin/sh", "-c", "true"]).output().unwrap();
    assert!(!tried.status.success(), "the shell is covered");

    let began = Instant::now();
    let state = || docker(["inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", &node.id]);
    while state().trim() != "running healthy" {
        let waits = began.elapsed() < HEALTHY && state().starts_with("running");
        assert!(waits, "{}: {}", state().trim(), logs(&node.id));
        std::thread::sleep(Duration::from_millis(100));
    }
    docker(["stop", "--time", "60", &node.id]);
    let code = docker(["inspect", "--format", "{{.State.ExitCode}}", &node.id]);
    assert_eq!(code.trim(), "0", "{}", logs(&node.id));
}

/// Removed when dropped.
struct Container {
    id: String,
}

impl Container {
    fn new(id: String) -> Self {
        Self { id: id.trim().to_owned() }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        _ = Command::new("docker").args(["rm", "-f", &self.id]).output();
    }
}

/// The one that compose runs.
fn image() -> String {
    std::env::var("MUSTER_NODE_TAG").unwrap_or_else(|_| "muster/node:local".to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn logs(id: &str) -> String {
    let Output { stdout, stderr, .. } = Command::new("docker").args(["logs", id]).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
}

fn docker<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    run(Command::new("docker").args(words))
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}
