//! Bad flags and variables, tried on the real program: it ends with 2 before it opens a port or writes a file, and
//! stderr names the flag, what is wrong, what is allowed and an example.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use muster::process::{Pid, Signal};
use nix::sys::signal::kill;
use tempfile::TempDir;

/// Every case takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run left behind.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// Refused as a usage error whose text has all of `words`.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let text = self.stderr.replace("\n  ", " ");
        for word in words {
            assert!(text.contains(word), "no {word:?} in {self:?}");
        }
        assert!(self.stderr.starts_with("error: ") && !self.stderr.contains("panicked"), "{self:?}");
    }
}

/// A place to run the program in: good flags for it, with its ports already taken, so that a run that gets as far as
/// opening one ends with 1 and not with 2.
struct Scene {
    tmp: TempDir,
    ip: Ipv4Addr,
    taken: Vec<TcpListener>,
}

impl Scene {
    fn new() -> Self {
        let scene = Self::with_free_ports();
        let take = |port| TcpListener::bind(SocketAddrV4::new(scene.ip, port)).unwrap();
        Self { taken: [8080, 18000, 9464].map(take).into(), ..scene }
    }

    fn with_free_ports() -> Self {
        Self { tmp: tempfile::tempdir().unwrap(), ip: crate::address::own(), taken: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// Flags that work, by name and value. Nobody answers as etcd.
    fn good(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("--etcd", format!("http://{}:1", self.ip).into()),
            ("--listen", self.ip.to_string().into()),
            ("--advertise", self.ip.to_string().into()),
            ("--allow", "127.0.0.0/8".into()),
            ("--dir", self.path("list").into()),
            ("--run-dir", self.path("run").into()),
            ("--site", self.path("site").into()),
        ]
    }

    /// `run` with the good flags except those that `bad` gives, and then `bad`.
    fn command(&self, bad: &[impl AsRef<OsStr>]) -> Command {
        let mut command = bare(&["run"]);
        for (flag, value) in self.good() {
            let given = |word: &OsStr| word.as_bytes().split(|b| *b == b'=').next() == Some(flag.as_bytes());
            if !bad.iter().any(|word| given(word.as_ref())) {
                command.arg(flag).arg(value);
            }
        }
        command.args(bad);
        command
    }

    fn run(&self, bad: &[impl AsRef<OsStr>]) -> Outcome {
        finish(self.command(bad))
    }

    /// `run` with good flags, except that `name` comes from the environment.
    fn run_with(&self, name: &str, value: impl AsRef<OsStr>) -> Outcome {
        let flag = name.trim_start_matches("MUSTER_").to_lowercase().replace('_', "-");
        let mut command = bare(&["run"]);
        for (good, given) in self.good().iter().filter(|(good, _)| good.trim_start_matches("--") != flag) {
            command.arg(good).arg(given);
        }
        command.env(name, value);
        finish(command)
    }

    fn written(&self) -> Vec<PathBuf> {
        ["list", "run", "site"].map(|name| self.path(name)).into_iter().filter(|path| path.exists()).collect()
    }
}

/// The program without the variables of whoever runs the tests.
fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"MUSTER_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// Runs it to its end. Its words go to files: a pipe that nobody reads would hold a long-winded one.
fn finish(mut command: Command) -> Outcome {
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let code = end(&mut child);
    Outcome { code, stdout: text(&mut stdout), stderr: text(&mut stderr) }
}

/// Its exit code; `None` when it ended by a signal, or had to be killed.
fn end(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status.code(),
            None if Instant::now() > deadline => child.kill().unwrap(),
            None => sleep(Duration::from_millis(2)),
        }
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A flag, a bad value, and what the error says of it besides the flag's name.
const BAD: &[(&str, &str, &[&str])] = &[
    ("--ttl", "", &["2 to 60", "such as 5"]),
    ("--ttl", "0", &["2 to 60", "such as 5"]),
    ("--ttl", "1", &["2 to 60", "such as 5"]),
    ("--ttl", "61", &["2 to 60"]),
    ("--ttl", "-1", &["2 to 60"]),
    ("--ttl", "9000000001", &["2 to 60"]),
    ("--ttl", "99999999999999999999999", &["2 to 60"]),
    ("--ttl", "NaN", &["2 to 60"]),
    ("--ttl", "5.5", &["whole seconds"]),
    ("--ttl", "1500ms", &["whole seconds", "5s"]),
    ("--ttl", "2m", &["2 to 60"]),
    ("--drain-timeout", "1 fortnight", &["0 to 600", "2m"]),
    ("--etcd", "", &["is empty", "such as http://etcd1:2379"]),
    ("--etcd", ",", &["is empty", "such as http://etcd1:2379"]),
    ("--etcd", "http://a:2379,", &["is empty", "such as http://etcd1:2379"]),
    ("--etcd", "http://a:2379, http://b:2379", &["a space", "such as http://etcd1:2379"]),
    ("--etcd", "http://a b:2379", &["a space"]),
    ("--etcd", "etcd1:2379", &["http://", "such as http://etcd1:2379"]),
    ("--etcd", "https://etcd1:2379", &["TLS", "--tls-dir", "such as /pki/agent/current"]),
    ("--etcd", "ftp://etcd1:2379", &["http:// or https://", "such as http://etcd1:2379"]),
    ("--tls-dir", "pki", &["absolute path"]),
    ("--tls-dir", "/pki/agent/current", &["without TLS", "such as https://etcd1:2379"]),
    ("--etcd", "http://[::1]:2379", &["IPv6", "IPv4 only"]),
    ("--etcd", "http://etcd1", &["no port"]),
    ("--etcd", "http://etcd1:0", &["port from 1 to 65535", "such as http://etcd1:2379"]),
    ("--etcd", "http://etcd1:65536", &["port from 1 to 65535"]),
    ("--etcd", "http://etcd1:2379/v3", &["port"]),
    ("--etcd", "http://:2379", &["no valid host"]),
    ("--etcd", "http://user:word@etcd1:2379", &["no valid host"]),
    ("--etcd", "http://256.1.1.1:2379", &["no IPv4 address"]),
    ("--etcd", "http://010.0.0.1:2379", &["no IPv4 address"]),
    ("--etcd", "http://a:1,http://a:1", &["twice", "each member once"]),
    ("--etcd", "http://a:1,http://a:1/", &["twice"]),
    (
        "--etcd",
        "http://a:1,http://a:2,http://a:3,http://a:4,http://a:5,http://a:6,http://a:7,http://a:8,http://a:9,\
         http://a:10,http://a:11,http://a:12,http://a:13,http://a:14,http://a:15,http://a:16,http://a:17",
        &["at most 16", "17"],
    ),
    ("--prefix", "", &["a leading slash", "such as /muster"]),
    ("--prefix", "/", &["such as /muster"]),
    ("--prefix", "//", &["such as /muster"]),
    ("--prefix", "muster", &["a leading slash"]),
    ("--prefix", "/a//b", &["such as /muster"]),
    ("--prefix", "/a b", &["such as /muster"]),
    ("--prefix", "/a\nb", &["such as /muster"]),
    ("--prefix", "/ümlaut", &["such as /muster"]),
    ("--prefix", "/muster/leader", &["another fleet", "such as /muster"]),
    ("--prefix", "/muster/nodes/", &["another fleet"]),
    ("--name", "", &["1 to 64", "such as web-1"]),
    ("--name", "a/b", &["1 to 64"]),
    ("--name", "<script>", &["1 to 64"]),
    ("--name", "a\u{202e}b", &["1 to 64"]),
    ("--fleet", "two words", &["1 to 64", "such as web-1"]),
    ("--advertise", "", &["such as eth0"]),
    ("--advertise", "0.0.0.0", &["unspecified"]),
    ("--advertise", "224.0.0.1", &["multicast"]),
    ("--advertise", "255.255.255.255", &["broadcast"]),
    ("--advertise", "169.254.169.254", &["link-local"]),
    ("--advertise", "10.0.0.1", &["allowed is 127.0.0.0/8", "--allow its network"]),
    ("--advertise", "::1", &["IPv6", "such as 10.1.0.0/16"]),
    ("--advertise", "1.2.3", &["such as 10.1.0.0/16"]),
    ("--advertise", "010.0.0.1", &["such as 10.1.0.0/16"]),
    ("--advertise", "10.0.0.1/8", &["host bits", "10.0.0.0/8"]),
    ("--advertise", "10.0.0.0/33", &["no IPv4 network"]),
    ("--advertise", "an-interface-nobody-has", &["such as eth0"]),
    ("--advertise", "nosuchif0", &["no such interface", "there are lo (127.0.0.1)"]),
    ("--advertise", "203.0.113.0/24", &["no interface has an address", "there are lo (127.0.0.1)"]),
    ("--allow", "", &["such as 10.1.0.0/16", "`own`"]),
    ("--allow", "10.0.0.1/8", &["host bits"]),
    ("--allow", "10.0.0.1", &["such as 10.1.0.0/16"]),
    ("--allow", "10.0.0.0/8,", &["such as 10.1.0.0/16"]),
    ("--allow", "fd00::/8", &["such as 10.1.0.0/16"]),
    ("--allow", "Own", &["`own`"]),
    ("--listen", "", &["0.0.0.0"]),
    ("--listen", "localhost", &["0.0.0.0"]),
    ("--listen", "::", &["IPv4"]),
    ("--listen", "0.0.0.0:80", &["IPv4"]),
    ("--listen", "224.0.0.1", &["to listen on"]),
    ("--http-port", "0", &["1 to 65535", "such as 8080"]),
    ("--http-port", "65536", &["1 to 65535"]),
    ("--http-port", "http", &["1 to 65535"]),
    ("--control-port", "-1", &["1 to 65535"]),
    ("--control-port", "9464", &["--metrics-port", "must differ", "such as 8080, 18000 and 9464"]),
    ("--metrics-port", "", &["1 to 65535"]),
    ("--edge", "8080", &["such as 0.0.0.0:8080"]),
    ("--edge", "0.0.0.0:0", &["such as 0.0.0.0:8080"]),
    ("--edge", "[::]:8080", &["such as 0.0.0.0:8080"]),
    ("--edge-tls", "8443", &["such as 0.0.0.0:8080"]),
    ("--edge-tls", "0.0.0.0:8080", &["must differ", "such as 0.0.0.0:8080 and 0.0.0.0:8443"]),
    ("--edge-tls-port", "443", &["needs --edge-tls"]),
    ("--edge-tls-port", "0", &["1 to 65535"]),
    ("--edge-secret", "edge.json", &["absolute", "such as /etc/envoy-tls/edge.json"]),
    ("--dir", "", &["such as /srv/muster"]),
    ("--dir", "list", &["absolute", "such as /srv/muster"]),
    ("--dir", "/srv/$host", &["$", "such as /srv/muster"]),
    ("--dir", "/srv/a\nb", &["plain text"]),
    ("--site", "site", &["absolute"]),
    ("--run-dir", "./run", &["absolute"]),
    ("--nginx", "", &["such as nginx"]),
    ("--on-exit", "always", &["restart or exit"]),
    ("--ready-url", "http://127.0.0.1:1/", &["needs a COMMAND"]),
    ("--ready-url", "https://127.0.0.1/", &["such as http://127.0.0.1:3000/ready"]),
    ("--ready-url", "/ready", &["such as http://127.0.0.1:3000/ready"]),
    ("--drain-timeout", "601", &["0 to 600", "such as 7"]),
    ("--drain-timeout", "11m", &["0 to 600"]),
    ("--keep-marks", "0", &["1 to 31536000", "such as 86400"]),
    ("--keep-marks", "1d", &["1 to 31536000"]),
    ("--linger", "60001", &["0 to 60000", "such as 500"]),
    ("--linger", "0.5", &["0 to 60000"]),
    ("--log", "", &["such as info"]),
    ("--log", "loud=very", &["such as info"]),
    ("--access-log", "some", &["all, errors, off"]),
    ("--log-format", "xml", &["auto, json, text"]),
];

#[test]
fn a_bad_value_is_refused_before_anything_starts() {
    let scene = Scene::new();
    for (flag, value, words) in BAD {
        let outcome = scene.run(&[format!("{flag}={value}")]);
        outcome.refused(&[&[*flag], *words].concat());
        assert!(scene.written().is_empty(), "{flag} {value}");
    }
}

#[test]
fn a_bad_value_in_a_variable_is_refused_alike_and_an_empty_one_counts_as_unset() {
    let scene = Scene::new();
    for (flag, value, words) in BAD {
        let name = format!("MUSTER_{}", flag.trim_start_matches("--").to_uppercase().replace('-', "_"));
        let outcome = scene.run_with(&name, value);
        if value.is_empty() {
            assert!(!outcome.stderr.contains(" value"), "{name}: {outcome:?}");
            // Unset, most leave only the ports that this test holds in the way.
            let elsewhere = ["MUSTER_ALLOW", "MUSTER_DIR"].contains(&&*name);
            assert!(outcome.code == Some(1) || elsewhere, "{name}: {outcome:?}");
            continue;
        }
        outcome.refused(&[&[*flag], *words].concat());
        // What one value alone tells names its variable too; the rest is about several flags, or about the machine.
        if outcome.stderr.contains("invalid value") {
            outcome.refused(&[&format!("tip: the value is that of the variable {name}")]);
        }
        assert!(scene.written().is_empty(), "{name}={value}");
    }
}

#[test]
fn the_flag_wins_over_the_variable() {
    let scene = Scene::new();
    let mut good = scene.command(&["--ttl", "5"]);
    good.env("MUSTER_TTL", "0").env("MUSTER_DIR", "relative");
    let outcome = finish(good);
    assert_eq!(outcome.code, Some(1), "stopped by the taken port alone: {outcome:?}");

    let mut bad = scene.command(&["--ttl", "0"]);
    bad.env("MUSTER_TTL", "5");
    let outcome = finish(bad);
    outcome.refused(&["--ttl"]);
    assert!(!outcome.stderr.contains("MUSTER_TTL"), "{outcome:?}");
}

#[test]
fn flags_that_are_unknown_repeated_or_incomplete_are_refused() {
    let scene = Scene::new();
    for (args, words) in [
        (&["--ttl", "5", "--ttl", "6"][..], &["--ttl", "multiple times"][..]),
        (&["--name", "a", "--name", "a"], &["--name", "multiple times"]),
        (&["--tll", "5"], &["--tll", "--ttl"]),
        (&["--ttl"], &["--ttl", "value is required"]),
        (&["-x"], &["-x"]),
        (&["nginx"], &["nginx", "-- "]),
    ] {
        scene.run(args).refused(words);
    }
    for (args, words) in [
        (&["rum"][..], &["rum", "run"][..]),
        (&["--ttl", "5"], &["--ttl"]),
        (&["status", "--etcd", "http://a:1,http://a:1"], &["--etcd", "twice"]),
        (&["status", "--allow", "all"], &["--allow", "such as"]),
        (&["healthcheck", "--metrics-port", "0"], &["--metrics-port", "1 to 65535"]),
        (&["healthcheck", "--listen", "::1"], &["--listen", "IPv4"]),
        (&["edge"], &["<ENVOY>"]),
        (&["edge", "envoy"], &["envoy", "-- "]),
        (&["edge", "--admin", "admin.sock", "--", "envoy"], &["--admin", "such as /run/envoy/admin.sock"]),
        (&["edge", "--silence", "0", "--", "envoy"], &["--silence", "1 to 60", "such as 1"]),
        (&["edge", "--silence", "61", "--", "envoy"], &["--silence", "1 to 60"]),
        (&["edge", "--drain-timeout", "601", "--", "envoy"], &["--drain-timeout", "0 to 600"]),
        (&["edge", "--metrics-port", "0", "--", "envoy"], &["--metrics-port", "1 to 65535"]),
        (&["edge", "--require-network", "maybe", "--", "envoy"], &["--require-network", "true, false"]),
        (&["edge", "--without-memory", "b.yaml", "--", "envoy"], &["--without-memory", "an absolute path"]),
        (&["wait", "--envoy", "a/b"], &["--envoy", "such as web-1"]),
    ] {
        finish(bare(args)).refused(words);
    }
    let nothing = finish(bare(&[]));
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("Usage: muster"), "{nothing:?}");
}

#[test]
fn help_and_version_end_with_0() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["help", "run"],
        &["run", "--help"],
        &["status", "-h"],
        &["healthcheck", "-h"],
        &["edge", "--help"],
    ] {
        let outcome = finish(bare(args));
        assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""), "{args:?}");
        assert!(outcome.stdout.contains("Usage: muster"), "{args:?}");
    }
    for args in [&["--version"][..], &["-V"], &["version"]] {
        let outcome = finish(bare(args));
        assert_eq!(outcome.code, Some(0));
        assert_eq!(outcome.stdout.trim_end(), concat!("muster ", env!("CARGO_PKG_VERSION")));
    }
    // Help is wrapped to the terminal's width, in the middle of a variable's brackets too.
    let run = finish(bare(&["run", "--help"])).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, _, _) in BAD {
        let name = format!("MUSTER_{}", flag.trim_start_matches("--").to_uppercase().replace('-', "_"));
        assert!(run.contains(&format!("{flag} <")) && run.contains(&format!("[env: {name}=]")), "{flag}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_by_name() {
    let scene = Scene::new();
    let latin = OsStr::from_bytes(b"w\xfcst");
    let joined = OsStr::from_bytes(b"--name=w\xfcst");
    scene.run(&[OsStr::new("--name"), latin]).refused(&["--name", "not UTF-8", "such as"]);
    scene.run(&[joined]).refused(&["--name", "not UTF-8"]);
    scene.run_with("MUSTER_NAME", latin).refused(&["MUSTER_NAME", "not UTF-8", "such as"]);
    scene.run_with("MUSTER_DIR", OsStr::from_bytes(b"/srv/w\xfcst")).refused(&["MUSTER_DIR", "not UTF-8"]);
    scene.run(&[OsStr::new("--dir"), OsStr::from_bytes(b"/srv/w\xfcst")]).refused(&["--dir", "not UTF-8"]);
    scene.run(&[latin]).refused(&["w\u{fffd}st"]);

    // A COMMAND is not muster's to judge.
    let free = Scene::with_free_ports();
    let outcome = free.run(&[
        OsStr::new("--"),
        OsStr::new("sh"),
        OsStr::new("-c"),
        OsStr::from_bytes(b"exit 7 # w\xfcst"),
    ]);
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
}

#[test]
fn the_longest_value_that_can_be_given_is_refused() {
    let scene = Scene::new();
    // One argument holds less than 128 KiB.
    let long = "a".repeat(120_000);
    for (flag, value) in
        [("--prefix", format!("/{long}")), ("--name", long.clone()), ("--etcd", format!("http://{long}"))]
    {
        let outcome = scene.run(&[flag, &value]);
        assert!(outcome.stderr.len() < 2000, "{} bytes of error", outcome.stderr.len());
        outcome.refused(&[flag, "such as"]);
    }
    scene.run(&["--prefix", &"/a".repeat(200)]).refused(&["--prefix", "at most 128"]);
}

#[test]
fn directories_that_cannot_serve_are_refused() {
    let scene = Scene::new();
    fs::write(scene.path("file"), "").unwrap();
    symlink(scene.path("nowhere"), scene.path("dangling")).unwrap();
    symlink(scene.path("loop"), scene.path("loop")).unwrap();
    fs::create_dir(scene.path("there")).unwrap();
    let path = |name: &str| scene.path(name).into_os_string();
    for flag in ["--dir", "--run-dir", "--site"] {
        for (name, why) in [
            ("file", "is not a directory"),
            ("file/below", "cannot be reached"),
            ("dangling", "symbolic link to nothing"),
            ("loop", "symbolic link to nothing"),
        ] {
            scene.run(&[flag.into(), path(name)]).refused(&[flag, name, why, "such as /srv/muster"]);
        }
    }
    symlink(scene.path("there"), scene.path("alias")).unwrap();
    for (dir, run_dir, site) in [
        ("there", "there", "site"),
        ("there", "alias", "site"),
        ("there", "run", "there"),
        ("there", "run", "alias"),
        ("site/list", "run", "site"),
        ("list", "there/run", "there"),
    ] {
        let words =
            ["--dir".into(), path(dir), "--run-dir".into(), path(run_dir), "--site".into(), path(site)];
        scene.run(&words).refused(&["--dir", "--run-dir", "--site", "of their own", "such as"]);
    }
    // A link to a directory is as good as the directory: only the taken port is in the way.
    assert_eq!(scene.run(&["--dir".into(), path("alias")]).code, Some(1));
    assert!(scene.written().is_empty());
}

#[test]
fn directories_that_this_user_may_not_use_are_refused() {
    let scene = Scene::new();
    let program = scene.path("muster");
    crate::executable::copy_of_the_agent(&program);
    fs::set_permissions(scene.tmp.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for (name, mode) in [("closed", 0o000), ("fixed", 0o555), ("open", 0o777)] {
        fs::create_dir(scene.path(name)).unwrap();
        fs::set_permissions(scene.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let run = |words: &[(&str, &str)]| {
        let mut command = Command::new(&program);
        // Root may do everything, so a test that runs as root lets the program be nobody.
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command.arg("run").args(["--allow", "127.0.0.0/8", "--advertise", "127.0.0.1"]);
        command.arg("--listen").arg(scene.ip.to_string());
        for (flag, name) in [("--dir", "open/list"), ("--run-dir", "open/run"), ("--site", "open/site")] {
            let name = words.iter().find(|(given, _)| *given == flag).map_or(name, |(_, name)| name);
            command.arg(flag).arg(scene.path(name));
        }
        finish(command)
    };
    for (flag, name, why) in [
        ("--dir", "closed", "cannot be written: Permission denied"),
        ("--dir", "closed/below", "cannot be reached"),
        ("--run-dir", "fixed", "cannot be written: Permission denied"),
        ("--run-dir", "fixed/a/b", "cannot be written: Permission denied"),
        ("--site", "closed", "cannot be read: Permission denied"),
    ] {
        run(&[(flag, name)]).refused(&[flag, name, why, "such as /srv/muster"]);
    }
    assert_eq!(run(&[]).code, Some(1), "only the taken port is in the way");
    assert_eq!(fs::read_dir(scene.path("open")).unwrap().count(), 0);
}

#[test]
fn a_taken_port_is_named_and_nothing_is_overwritten() {
    for (port, flag) in [(18000, "--control-port"), (9464, "--metrics-port"), (8080, "--http-port")] {
        let mut scene = Scene::with_free_ports();
        let address = SocketAddrV4::new(scene.ip, port);
        scene.taken.push(TcpListener::bind(address).unwrap());
        let outcome = scene.run(&["--nginx", "/nonexistent/nginx"]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        for word in [&address.to_string(), "--listen", flag, "in use"] {
            assert!(outcome.stdout.contains(word), "no {word} in {outcome:?}");
        }
        assert!(scene.written().is_empty());
    }
    let mut scene = Scene::with_free_ports();
    scene.ip = Ipv4Addr::new(203, 0, 113, 1);
    let outcome = scene.run(&["--advertise", "127.0.0.1"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("203.0.113.1:18000 (--listen, --control-port)"), "{outcome:?}");
}

#[test]
fn a_program_that_cannot_run_ends_the_agent_with_the_codes_of_a_shell() {
    let scene = Scene::with_free_ports();
    let plain = scene.path("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&plain, PermissionsExt::from_mode(0o644)).unwrap();
    let plain = plain.to_str().unwrap();
    for (words, code, given_as) in [
        (&["--nginx", "/nonexistent/nginx"][..], 127, "--nginx"),
        (&["--nginx", "no-such-program"], 127, "--nginx"),
        (&["--nginx", plain], 126, "--nginx"),
        (&["--", "/nonexistent/command"], 127, "COMMAND"),
        (&["--", ""], 127, "COMMAND"),
        (&["--", plain], 126, "COMMAND"),
        (&["--", "/"], 126, "COMMAND"),
        (&["--on-exit", "restart", "--", "no-such-program"], 127, "COMMAND"),
    ] {
        let outcome = scene.run(words);
        assert_eq!(outcome.code, Some(code), "{words:?}: {outcome:?}");
        // With a COMMAND stdout is that program's.
        let log = if given_as == "COMMAND" { &outcome.stderr } else { &outcome.stdout };
        let told = log.lines().find(|line| line.contains("cannot be started")).unwrap_or_default();
        assert!(told.contains(&format!("\"given_as\":\"{given_as}\"")), "{words:?}: {outcome:?}");
    }
}

#[test]
fn dead_members_are_no_mistake_in_the_flags() {
    let scene = Scene::with_free_ports();
    let dead = format!("http://{0}:1/,http://{0}:2,http://no-such-host.invalid:2379", scene.ip);
    let mut command = scene.command(&["--etcd", &dead, "--", "sh", "-c", "echo started; exec sleep 600"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let started = lines.any(|line| line == "started");
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    lines.for_each(drop);
    assert!(started);
    assert_eq!(end(&mut child), Some(128 + 15), "as the COMMAND");
    assert!(scene.path("list").is_dir());
}

#[test]
fn data_goes_to_stdout_and_words_about_it_to_stderr() {
    let scene = Scene::with_free_ports();
    let outcome = finish(bare(&["status", "--etcd", &format!("http://{}:1", scene.ip)]));
    assert_eq!((outcome.code, &*outcome.stdout), (Some(4), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("does not answer"), "{outcome:?}");
    let outcome = finish(bare(&["healthcheck", "--listen", &scene.ip.to_string()]));
    assert_eq!((outcome.code, &*outcome.stdout), (Some(1), ""), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("{}:9464", scene.ip)), "{outcome:?}");
}
