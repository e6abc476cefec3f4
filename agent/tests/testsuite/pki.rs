//! `muster pki`, tried on the real program: what it makes, what it leaves alone, and what it says of everything that
//! can be wrong.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster::pki::authorities::Authorities;
use muster::pki::issue::Validity;
use muster::pki::plan::{Authority, Consumer};
use muster::pki::read::Pair;
use muster::pki::store::{Store, current};
use tempfile::TempDir;

const DAY: i64 = 86_400;

struct Place {
    tmp: TempDir,
}

#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn is(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.stdout.contains(word) || self.stderr.contains(word), "no {word:?} in {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

impl Place {
    fn empty() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { tmp }
    }

    fn made() -> Self {
        let place = Self::empty();
        place.run("init", &[]).is(0, &["etcd3", "made"]);
        place
    }

    fn dir(&self) -> PathBuf {
        self.tmp.path().join("pki")
    }

    fn command(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        command.args(["pki", verb, "--dir"]).arg(self.dir()).args(more);
        command
    }

    fn run(&self, verb: &str, more: &[&str]) -> Outcome {
        finish(self.command(verb, more))
    }

    fn file(&self, service: &str, name: &str) -> PathBuf {
        current(&self.dir().join(service)).unwrap().unwrap().join(name)
    }

    fn store(&self) -> Store {
        Store { dir: self.dir(), owner: nix::unistd::geteuid().as_raw() }
    }

    /// Gives Envoy a certificate that is good at another time.
    fn envoy_at(&self, from: i64, to: i64) {
        let authorities = Authorities::read(&self.store(), now()).unwrap().unwrap();
        let identity = Consumer::Envoy.identities().remove(0);
        let validity = Validity { from: now() + from, to: now() + to };
        let pem = authorities.of(Authority::Control).sign(&identity, validity).unwrap();
        fs::write(self.file("envoy", "control.crt"), pem.certificate).unwrap();
        fs::write(self.file("envoy", "control.key"), pem.key).unwrap();
    }

    /// Every file below the directory, by name without its generation.
    fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        for service in fs::read_dir(self.dir()).unwrap() {
            let service = service.unwrap();
            let name = service.file_name().into_string().unwrap();
            for file in fs::read_dir(current(&service.path()).unwrap().unwrap()).unwrap() {
                let file = file.unwrap();
                let name = format!("{name}/{}", file.file_name().into_string().unwrap());
                all.insert(name, fs::read(file.path()).unwrap());
            }
        }
        all
    }
}

fn finish(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

#[test]
fn init_makes_everything_once() {
    let place = Place::made();
    let made = place.all();
    assert_eq!(made.len(), 6 + 3 * 9 + 6 + 3 + 3 + 3 + 3, "{:?}", made.keys());
    let signing: Vec<&String> = made.keys().filter(|name| name.ends_with("-ca.key")).collect();
    assert_eq!(signing, ["authority/control-ca.key", "authority/etcd-ca.key", "authority/peer-ca.key"]);
    let again = place.run("init", &[]);
    again.is(0, &["kept"]);
    assert!(!again.stdout.contains("made"), "{again:?}");
    assert_eq!(place.all(), made, "nothing was touched");

    place.run("init", &["--members", "etcd1,etcd2,etcd3,etcd4"]).is(0, &["etcd4", "made"]);
    let grown = place.all();
    assert!(made.iter().all(|(name, content)| grown.get(name) == Some(content)), "the others stayed");
    assert_eq!(grown.len(), made.len() + 9);
}

#[test]
fn init_fills_what_is_missing_and_keeps_the_rest() {
    let place = Place::made();
    let before = place.all();
    for name in ["etcd.crt", "etcd.key"] {
        fs::remove_file(place.file("agent", name)).unwrap();
    }
    fs::remove_dir_all(place.dir().join("envoy")).unwrap();
    // As of a fleet from before there was such a service.
    fs::remove_dir_all(place.dir().join("prometheus")).unwrap();
    fs::remove_file(place.file("operator", "etcd-ca.crt")).unwrap();
    place.run("init", &[]).is(0, &["made", "kept"]);
    let after = place.all();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    let changed: Vec<&str> = after
        .iter()
        .filter(|(name, content)| before[*name] != **content)
        .map(|(name, _)| name.as_str())
        .collect();
    let lost = ["agent/etcd", "envoy/control", "prometheus/etcd"];
    let lost: Vec<String> =
        lost.iter().flat_map(|file| [format!("{file}.crt"), format!("{file}.key")]).collect();
    assert_eq!(changed, lost);
    place.run("show", &[]).is(0, &[]);
}

#[test]
fn only_the_owner_reads_a_key() {
    let place = Place::empty();
    let init = place.command("init", &[]);
    // Modes must not be left to the umask of whoever starts it.
    let mut open = Command::new("sh");
    open.args(["-c", "umask 000; exec \"$0\" \"$@\""]).arg(init.get_program()).args(init.get_args());
    finish(open).is(0, &["made"]);
    let root = nix::unistd::geteuid().is_root();
    for service in fs::read_dir(place.dir()).unwrap() {
        let service = service.unwrap().path();
        assert_eq!(fs::metadata(&service).unwrap().mode() & 0o777, 0o700, "{service:?}");
        let generation = current(&service).unwrap().unwrap();
        for file in fs::read_dir(&generation).unwrap() {
            let file = file.unwrap();
            let found = file.metadata().unwrap();
            let secret = file.path().extension().unwrap() == "key";
            assert_eq!(found.mode() & 0o777, if secret { 0o600 } else { 0o644 }, "{:?}", file.path());
            assert_eq!(found.uid(), if root { 65532 } else { nix::unistd::geteuid().as_raw() });
        }
        assert_eq!(fs::metadata(&generation).unwrap().mode() & 0o777, 0o700);
    }
}

#[test]
fn renew_replaces_leaves_and_keeps_authorities_and_names() {
    let place = Place::empty();
    place.run("init", &["--members", "etcd1+peer1+127.0.0.1,etcd2"]).is(0, &[]);
    let before = place.all();
    place.run("renew", &["etcd1", "agent"]).is(0, &["etcd1", "agent"]);
    let after = place.all();
    for (name, content) in &after {
        let renewed =
            (name.starts_with("etcd1/") || name.starts_with("agent/")) && !name.ends_with("-ca.crt");
        assert_eq!(before[name] != *content, renewed, "{name}");
    }
    let peer = Pair::read(&place.file("etcd1", ""), "peer").unwrap();
    assert_eq!(peer.facts.names, ["etcd1", "peer1", "127.0.0.1"]);

    place.run("renew", &[]).is(0, &["etcd2", "etcd-root"]);
    let all = place.all();
    let untouched: Vec<&String> =
        all.iter().filter(|(name, now)| after[*name] == **now).map(|(name, _)| name).collect();
    assert!(untouched.iter().all(|name| name.contains("-ca.")), "{untouched:?}");
    place.run("renew", &["etcd1", "--members", "etcd1+other"]).is(0, &[]);
    place.run("show", &["-o", "json"]).is(0, &["\"other\""]);
    place.run("renew", &["etcd9"]).is(1, &["etcd9", "etcd1"]);
}

/// Ends the reader also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn whoever_reads_during_a_renewal_reads_a_pair() {
    let place = Place::made();
    let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = None;
            while !stop.load(Ordering::Relaxed) {
                let dir = current(&place.dir().join("agent")).unwrap().unwrap();
                // Two generations later it would be gone; one that was just resolved never is.
                let pair = Pair::read(&dir, "control").unwrap();
                if last.as_ref() != Some(&pair.chain) {
                    seen.fetch_add(1, Ordering::Relaxed);
                    last = Some(pair.chain);
                }
            }
        });
        let stopped = Stop(&stop);
        for renewals in 1..=10 {
            place.run("renew", &["agent"]).is(0, &[]);
            // A reader that is held up for two renewals has lost, and no program promises more.
            let deadline = Instant::now() + Duration::from_secs(60);
            while seen.load(Ordering::Relaxed) <= renewals && Instant::now() < deadline {
                std::thread::yield_now();
            }
            assert!(seen.load(Ordering::Relaxed) > renewals, "the reader has ended or sees nothing new");
        }
        drop(stopped);
    });
    let left = fs::read_dir(place.dir().join("agent")).unwrap().count();
    assert_eq!(left, 3, "the link, the newest generation and the one before");
}

/// The word for it, how it comes about, and what is said.
type Case<'a> = (&'a str, &'a dyn Fn(&Place), &'a [&'a str]);

#[test]
fn show_tells_what_is_in_no_order() {
    let place = Place::made();
    place.run("show", &["--within", "364"]).is(0, &["good"]);
    place.run("show", &["--within", "365"]).is(3, &["ends soon"]);

    let cases: [Case; 8] = [
        ("expired", &|place| place.envoy_at(-2 * DAY, -DAY), &["ended at", "muster pki renew"]),
        ("not yet valid", &|place| place.envoy_at(DAY, 2 * DAY), &["begins at", "clock"]),
        (
            "exposed",
            &|place| {
                fs::set_permissions(place.file("envoy", "control.key"), PermissionsExt::from_mode(0o640))
                    .unwrap()
            },
            &["0640", "chmod 0600"],
        ),
        (
            "wrong key",
            &|place| {
                _ = fs::copy(place.file("agent", "control.key"), place.file("envoy", "control.key")).unwrap();
            },
            &["not the key of the certificate"],
        ),
        (
            "wrong authority",
            &|place| {
                _ = fs::copy(place.file("agent", "etcd-ca.crt"), place.file("envoy", "control-ca.crt"))
                    .unwrap();
            },
            &["was not signed by", "control-ca.crt"],
        ),
        (
            "broken",
            &|place| fs::write(place.file("envoy", "control.crt"), "\u{feff}nothing").unwrap(),
            &["is no certificate in PEM"],
        ),
        (
            "broken",
            &|place| fs::write(place.file("envoy", "control.key"), "nothing").unwrap(),
            &["is no private key in PEM"],
        ),
        (
            "incomplete",
            &|place| fs::remove_file(place.file("envoy", "control.key")).unwrap(),
            &["control.key is missing"],
        ),
    ];
    for (state, harm, words) in cases {
        let place = Place::made();
        harm(&place);
        let shown = place.run("show", &[]);
        shown.is(3, &[state]).is(3, words).is(3, &["good", "envoy"]);
        let json = place.run("show", &["-o", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json.is(3, &[]).stdout).unwrap();
        assert_eq!((&json["schema"], &json["ok"]), (&1.into(), &false.into()));
        let states =
            json["certificates"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap());
        assert_eq!(states.filter(|found| *found == state).count(), 1, "{json}");
        // Of one service alone the same is said.
        let mut alone = place.command("show", &[]);
        alone.env("COLUMNS", "200").arg("--within").arg("1");
        finish(alone).is(3, words);

        let file = state == "incomplete";
        place
            .run("init", &[])
            .is(if file { 1 } else { 3 }, &[if file { "muster pki renew" } else { "not in order" }]);
        place.run("renew", &["envoy"]).is(0, &["envoy"]);
        place.run("show", &[]).is(0, &[]);
    }
}

#[test]
fn what_is_half_there_is_never_made_whole_in_silence() {
    let words = &["restore the authorities", "muster pki init"];
    let place = Place::made();
    fs::remove_file(place.file("authority", "peer-ca.key")).unwrap();
    let before = place.all();
    place.run("init", &[]).is(1, words).is(1, &["peer-ca.key is missing"]);
    place.run("renew", &[]).is(1, words);
    assert_eq!(place.all(), before);
    place.run("show", &[]).is(3, &["incomplete", "peer-ca.key is missing"]);

    let place = Place::made();
    fs::remove_dir_all(place.dir().join("authority")).unwrap();
    let more = ["--members", "etcd1,etcd2,etcd3,etcd4"];
    place.run("init", &more).is(1, words).is(1, &["etcd4 lacks certificates"]);
    place.run("renew", &[]).is(1, words);
    fs::remove_file(place.file("envoy", "control-ca.crt")).unwrap();
    place.run("init", &[]).is(1, words).is(1, &["envoy lacks certificates"]);

    let place = Place::made();
    let link = place.dir().join("agent/current");
    fs::remove_file(&link).unwrap();
    symlink("generation-9", &link).unwrap();
    for verb in ["init", "renew"] {
        place.run(verb, &[]).is(1, &["agent is half there", "generation-9"]);
    }
    place.run("show", &[]).is(3, &["generation-9"]);

    let place = Place::made();
    fs::copy(place.file("authority", "etcd-ca.key"), place.file("authority", "peer-ca.key")).unwrap();
    place.run("init", &[]).is(1, &["peer-ca.key is not the key"]);
}

#[test]
fn authorities_that_are_kept_elsewhere_are_asked_for_only_when_something_is_missing() {
    let place = Place::made();
    let elsewhere = place.tmp.path().join("elsewhere");
    fs::rename(place.dir().join("authority"), &elsewhere).unwrap();
    let before: Vec<PathBuf> =
        place.store().services().unwrap().iter().map(|name| place.file(name, "")).collect();
    // As at each start of the fleet.
    for _ in 0..2 {
        let outcome = place.run("init", &[]);
        outcome.is(0, &["kept", "elsewhere"]);
        assert!(!outcome.stdout.contains("made"), "{outcome:?}");
    }
    assert!(before.iter().all(|generation| generation.is_dir()), "nothing was touched");
    fs::remove_dir_all(place.dir().join("authority")).unwrap();
    fs::rename(&elsewhere, place.dir().join("authority")).unwrap();
    place.run("renew", &[]).is(0, &["etcd1"]);
    place.run("show", &[]).is(0, &[]);
}

#[test]
fn a_link_that_is_gone_is_made_again_and_no_key_is_lost_by_it() {
    let place = Place::made();
    let before = place.all();
    for service in ["authority", "agent", "etcd2"] {
        fs::remove_file(place.dir().join(service).join("current")).unwrap();
    }
    place.run("init", &[]).is(0, &["kept"]);
    assert_eq!(place.all(), before, "nothing was touched");

    // With the authorities alone, nothing else says that they were in use.
    let place = Place::made();
    for service in place.store().services().unwrap() {
        fs::remove_dir_all(place.dir().join(service)).unwrap();
    }
    let before = place.all();
    fs::remove_file(place.dir().join("authority/current")).unwrap();
    place.run("init", &[]).is(0, &["kept", "made"]);
    let after = place.all();
    assert!(before.iter().all(|(name, content)| after.get(name) == Some(content)), "they sign as before");
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_missing() {
    if !nix::unistd::geteuid().is_root() {
        return crate::part::skip("files of another user need root");
    }
    let place = Place::empty();
    place.run("init", &["--owner", "65534"]).is(0, &[]);
    let generation = fs::canonicalize(place.file("agent", "")).unwrap();
    std::os::unix::fs::chown(&generation, Some(0), Some(0)).unwrap();
    as_nobody(&place, "init").is(1, &["cannot be read", "Permission denied", "agent/generation-1"]);
    assert_eq!(fs::canonicalize(place.file("agent", "")).unwrap(), generation, "it is what it was");
}

#[test]
fn a_kill_at_any_moment_leaves_what_the_next_one_completes() {
    let place = Place::empty();
    for round in 0..24 {
        // From an empty directory, and on what is there.
        let verb = if round < 12 { "init" } else { "renew" };
        if round < 12 {
            _ = fs::remove_dir_all(place.dir());
        }
        let mut child = place.command(verb, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(3 * (round % 12)));
        child.kill().unwrap();
        child.wait().unwrap();
        place.run("init", &[]).is(0, &[]);
        place.run("show", &[]).is(0, &["etcd3"]);
    }
    place.run("renew", &[]).is(0, &["etcd3"]);
    place.run("show", &[]).is(0, &[]);
}

#[test]
fn a_member_is_renewed_under_names_that_were_signed() {
    let (place, other) = (Place::made(), Place::empty());
    other.run("init", &["--members", "etcd1+etcd2"]).is(0, &[]);
    fs::copy(other.file("etcd1", "peer.crt"), place.file("etcd1", "peer.crt")).unwrap();
    let before = place.all();
    place.run("renew", &["etcd1"]).is(1, &["peer.crt was not signed by this fleet's authority", "--members"]);
    assert_eq!(place.all(), before);
    place.run("renew", &["etcd1", "--members", "etcd1+peer1"]).is(0, &[]);
    assert_eq!(Pair::read(&place.file("etcd1", ""), "peer").unwrap().facts.names, ["etcd1", "peer1"]);
}

#[test]
fn nothing_outlives_the_authority_that_signed_it() {
    let place = Place::made();
    place.envoy_at(-DAY, 20 * 365 * DAY);
    let envoy = Pair::read(&place.file("envoy", ""), "control").unwrap();
    assert_eq!(envoy.facts.to, envoy.roots_end);
    assert!(envoy.facts.to < now() + 3651 * DAY);
}

#[test]
fn a_generation_that_was_never_finished_is_in_nobodys_way() {
    let place = Place::made();
    let unfinished = place.dir().join("envoy/.unfinished");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("control.key"), "half").unwrap();
    place.run("show", &[]).is(0, &[]);
    place.run("renew", &["envoy"]).is(0, &[]);
    assert!(!unfinished.exists());
}

/// As a user that may not: root may everything.
fn as_nobody(place: &Place, verb: &str) -> Outcome {
    let program = place.tmp.path().join("muster");
    if !program.exists() {
        crate::executable::copy_of_the_agent(&program);
    }
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command.args(["pki", verb, "--dir"]).arg(place.dir());
    finish(command)
}

#[test]
fn a_directory_that_is_out_of_reach_is_named() {
    Place::empty().run("show", &[]).is(1, &["pki is missing", "muster pki init"]);
    let place = Place::empty();
    fs::create_dir(place.dir()).unwrap();
    place.run("show", &[]).is(1, &["is missing"]);
    place.run("renew", &[]).is(1, &["no authorities"]);

    fs::set_permissions(place.dir(), PermissionsExt::from_mode(0o555)).unwrap();
    as_nobody(&place, "init").is(1, &["cannot be written", "Permission denied", "as root"]);

    if nix::unistd::geteuid().is_root() {
        let place = Place::made();
        fs::set_permissions(place.dir(), PermissionsExt::from_mode(0o755)).unwrap();
        as_nobody(&place, "show").is(1, &["cannot be read", "Permission denied"]);
    } else {
        crate::part::skip("certificates of another user need root");
    }
    let file = Place::empty();
    fs::write(file.dir(), "").unwrap();
    file.run("init", &[]).is(1, &["cannot be written"]);
    file.run("show", &[]).is(1, &["cannot be read"]);
}

#[test]
fn bad_flags_are_refused() {
    let place = Place::empty();
    for (verb, flags, words) in [
        ("init", &["--days", "0"][..], &["--days", "1 to 3650"][..]),
        ("init", &["--days", "4000"], &["--days", "such as 365"]),
        ("init", &["--members", "agent"], &["--members", "another service"]),
        ("init", &["--members", "root"], &["--members", "another service"]),
        ("init", &["--members", "../x"], &["--members", "such as etcd1"]),
        ("init", &["--members", "etcd1,etcd1"], &["--members", "twice"]),
        ("init", &["--owner", "nobody"], &["--owner"]),
        ("show", &["--within", "x"], &["--within", "such as"]),
        ("show", &["-o", "yaml"], &["yaml", "json"]),
        ("renew", &["--dirr"], &["--dirr"]),
    ] {
        let outcome = place.run(verb, flags);
        outcome.is(2, words);
        assert!(!place.dir().exists() && outcome.stdout.is_empty(), "{outcome:?}");
    }
}

#[test]
fn several_at_a_time_make_one() {
    for _ in 0..5 {
        let place = Place::empty();
        let place = &place;
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(|| place.run("init", &[]))).collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for outcome in &outcomes {
            outcome.is(0, &[]);
        }
        let makers = outcomes.iter().filter(|outcome| outcome.stdout.contains("made")).count();
        assert_eq!(makers, 1, "{outcomes:?}");
        place.run("show", &[]).is(0, &[]);
        let generations = fs::read_dir(place.dir().join("agent")).unwrap().count();
        assert_eq!(generations, 2, "the link and one generation");
    }
}

#[test]
fn authorities_that_have_ended_are_told_from_certificates_that_have() {
    let place = Place::empty();
    let services = Consumer::OTHERS.to_vec();
    muster::pki::init::init(&place.store(), &services, 30, now() - 3651 * DAY).unwrap();
    let words = &["ended at", "make all anew"];
    place.run("init", &[]).is(1, words);
    place.run("renew", &[]).is(1, words);
    place.run("show", &[]).is(3, words).is(3, &["expired"]);
    assert!(!place.run("show", &[]).stdout.contains("replace it"), "a renewal would help nobody");
}

#[test]
fn no_key_is_ever_printed() {
    let place = Place::made();
    let secret = |path: &Path| fs::read_to_string(path).unwrap().lines().nth(1).unwrap().to_owned();
    let keys = [secret(&place.file("agent", "etcd.key")), secret(&place.file("authority", "etcd-ca.key"))];
    let broken = fs::read_to_string(place.file("agent", "etcd.key")).unwrap().replace("END", "ENDE");
    fs::write(place.file("agent", "etcd.key"), broken).unwrap();
    for verb in ["init", "show", "renew"] {
        let outcome = place.run(verb, &["--log", "trace"]);
        assert!(
            keys.iter().all(|key| !outcome.stdout.contains(key) && !outcome.stderr.contains(key)),
            "{outcome:?}"
        );
    }
}
