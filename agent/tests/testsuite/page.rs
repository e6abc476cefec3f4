//! What the files say, and that a reader never sees half of one.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::fixture::{about, files, node, roster};
use muster::fleet::events::events;
use muster::fleet::{Contact, Node, NodeState, Roster};
use muster::metrics::{ListFile, Metrics, WriteResult};
use muster::page::{
    About, ContactState, ListFiles, NginxHealth, NodeDocument, Publisher, RegistryContact, SiteHealth,
    content_security_policy, render, render_history, render_itself, run, run_itself,
};
use proptest::prelude::*;
use regex::Regex;
use serde_json::Value;
use tokio::sync::watch;

const HOSTILE: &str = r#"</style></td><script>alert(1)</script>"'&{{ x }}"#;

fn any_node() -> impl Strategy<Value = Node> {
    let state = prop_oneof![
        3 => Just(NodeState::Serving),
        1 => Just(NodeState::Draining),
        1 => Just(NodeState::Lost),
    ];
    let text = prop_oneof!["[ -~]{0,40}", Just(HOSTILE.to_owned())];
    (0..1_000_000_u32, state, text.clone(), text).prop_map(|(n, state, reason, version)| Node {
        ip: Ipv4Addr::from(0x0a00_0000 + n % 4000),
        state,
        reason,
        version,
        ..node(n)
    })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

fn schema_of(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(name);
    parsed(&fs::read(path).expect("the schema is in docs/schema"))
}

/// A block of the page, such as its one `style`, and the page without it.
fn block<'a>(page: &'a str, tag: &str) -> (&'a str, String) {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let (before, rest) = page.split_once(&open).expect("there is one");
    let (inside, after) = rest.split_once(&close).expect("which ends");
    (inside, format!("{before}{after}"))
}

/// The page without style and script, which are the same in all.
fn markup(files: &ListFiles) -> String {
    let page = block(text(&files.ips_html), "style").1;
    block(&page, "script").1
}

fn addresses(list: &Value) -> Vec<Ipv4Addr> {
    list.as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
}

/// What is written with the list; `history.json` has a task of its own.
const LIST: &[ListFile] = &[ListFile::IpsJson, ListFile::IpsTxt, ListFile::SdJson, ListFile::IpsHtml];

proptest! {
    #![proptest_config(crate::fixture::cases(64))]

    #[test]
    fn all_files_say_the_same(nodes in prop::collection::vec(any_node(), 0..30)) {
        let roster = roster(&nodes);
        let files = files(&roster);
        prop_assert_eq!(&files, &crate::fixture::files(&roster.clone()));

        let json = parsed(&files.ips_json);
        crate::schema::check(&schema_of("ips.schema.json"), &json, "ips.json");
        let sd = parsed(&files.sd_json);
        crate::schema::check(&schema_of("sd.schema.json"), &sd, "sd.json");

        let ips = addresses(&json["ips"]);
        prop_assert!(ips.windows(2).all(|pair| pair[0] < pair[1]), "not in numeric order, or not unique");
        prop_assert_eq!(json["count"].as_u64(), Some(ips.len() as u64));
        let lines: Vec<Ipv4Addr> = text(&files.ips_txt).lines().map(|line| line.parse().unwrap()).collect();
        prop_assert_eq!(&lines, &ips);
        let routed: Vec<Ipv4Addr> = roster.routable().iter().map(|endpoint| *endpoint.ip()).collect();
        prop_assert_eq!(&routed, &ips);

        let all: Vec<String> =
            json["nodes"].as_array().unwrap().iter().map(|node| node["ip"].as_str().unwrap().to_owned()).collect();
        let cell = Regex::new(r#"<span class="ip">([0-9.]+)</span>"#).unwrap();
        let markup = markup(&files);
        let shown: Vec<String> = cell.captures_iter(&markup).map(|found| found[1].to_owned()).collect();
        prop_assert_eq!(&shown, &all);
        let served = block(&markup.replace(" id=\"rows\"", ""), "tbody").0.matches("</span> serving</span>").count();
        prop_assert_eq!(served, ips.len());
        prop_assert_eq!(sd.as_array().unwrap().len(), all.len());
        for each in [&files.ips_json, &files.sd_json, &files.ips_html] {
            prop_assert!(each.ends_with(b"\n"));
        }
    }

    #[test]
    fn what_happened_has_its_schema(nodes in prop::collection::vec(any_node(), 0..30)) {
        let (before, after) = (roster(&[]), roster(&nodes));
        let mut happened: VecDeque<_> = events(&before, &after, "2026-11-21T10:00:00Z").into();
        happened.extend(events(&after, &before, "2026-11-21T10:00:00Z"));
        let about = About { fleet: "muster".into(), prefix: "/muster".into() };
        let file = parsed(&render_history(&happened, &about));
        crate::schema::check(&schema_of("history.schema.json"), &file, "history.json");
        prop_assert_eq!(file["events"].as_array().unwrap().len(), happened.len());
    }

    #[test]
    fn no_text_of_a_node_becomes_markup(nodes in prop::collection::vec(any_node(), 0..8), fleet in "\\PC{0,20}") {
        let tag = Regex::new("<[a-z/!]").unwrap();
        let plain: Vec<Node> = nodes
            .iter()
            .map(|node| Node {
                reason: if node.reason.is_empty() { String::new() } else { "x".into() },
                version: String::new(),
                ..node.clone()
            })
            .collect();
        let hostile = About { fleet: fleet + HOSTILE, prefix: HOSTILE.into() };
        let files = render(&roster(&nodes), &Contact::default(), &hostile);
        let markup = markup(&files);
        let tame = self::markup(&crate::fixture::files(&roster(&plain)));
        prop_assert_eq!(tag.find_iter(&markup).count(), tag.find_iter(&tame).count());
        prop_assert!(!markup.contains("<script") && !markup.contains(" style="));
        parsed(&files.ips_json);
    }
}

#[test]
fn the_verdict_is_the_worst_of_its_parts() {
    let title = |roster: &Roster, stale: Option<&str>| {
        let contact = Contact { stale_since: stale.map(str::to_owned) };
        let page = render(roster, &contact, &about()).ips_html;
        let class =
            Regex::new("<body class=\"([a-z]+)\" ").unwrap().captures(text(&page)).unwrap()[1].to_owned();
        let title = Regex::new("<title>(.*)</title>").unwrap().captures(text(&page)).unwrap()[1].to_owned();
        format!("{class}: {title}")
    };
    let mut nodes: Vec<Node> = (0..3).map(node).collect();
    let empty = roster(&[]);
    assert_eq!(title(&empty, None), "bad: ✕ Down: No node is registered · muster");
    assert_eq!(title(&roster(&nodes), None), "good: ● Healthy: All 3 nodes serving · muster");
    assert_eq!(title(&roster(&nodes[..1]), None), "good: ● Healthy: 1 node serving · muster");
    let stale = Some("2026-11-20T18:03:07.5+01:00");
    assert_eq!(title(&roster(&nodes), stale), "stale: ◷ Stale: Last known: all 3 nodes serving · muster");
    nodes[1].state = NodeState::Draining;
    assert_eq!(title(&roster(&nodes), None), "notice: ◐ Changing: 2 of 3 nodes serving, 1 draining · muster");
    nodes[2].state = NodeState::Lost;
    assert_eq!(
        title(&roster(&nodes), None),
        "notice: ▲ Degraded: 1 of 3 nodes serving, 1 draining, 1 lost · muster"
    );
    nodes[0].state = NodeState::Draining;
    assert_eq!(title(&roster(&nodes), None), "bad: ✕ Down: No node serving, 2 draining, 1 lost · muster");
}

#[test]
fn a_stale_list_says_since_when() {
    let contact = Contact { stale_since: Some("2026-11-20T18:03:07.5+01:00".into()) };
    let roster = roster(&[node(0)]);
    let stale = render(&roster, &contact, &about());
    let json = parsed(&stale.ips_json);
    assert_eq!(json["stale_since"], "2026-11-20T17:03:07.500Z");
    crate::schema::check(&schema_of("ips.schema.json"), &json, "ips.json");
    assert!(text(&stale.ips_html).contains("17:03:07 UTC on 2026-11-20"));
    let fresh = files(&roster);
    assert!(!text(&fresh.ips_json).contains("stale"));
    assert_eq!(stale.ips_txt, fresh.ips_txt);
}

#[test]
fn of_a_thousand_nodes_five_hundred_are_shown() {
    let nodes: Vec<Node> = (0..1500).map(node).collect();
    let rows = |count: usize| markup(&files(&roster(&nodes[..count]))).matches("<th scope=\"row\">").count();
    assert_eq!((rows(500), rows(501), rows(1000)), (500, 500, 500));
    let page = files(&roster(&nodes)).ips_html;
    let more = "<p class=\"more\" id=\"more\">and <span id=\"hidden-rows\">1000</span> more in <a href=\"ips.json\">";
    assert!(text(&page).contains(more));
    assert!(block(text(&page), "script").0.contains("SHOWN = 500,"), "the script shows as many");
    assert!(markup(&files(&roster(&nodes[..500]))).contains("id=\"more\" hidden>"));
    assert!(text(&page).contains("All 1500 nodes serving"));
}

#[test]
fn the_page_needs_nothing_from_outside_and_its_policy_fits_it() {
    use base64::Engine;
    use sha2::Digest;

    let page = files(&roster(&[node(0)])).ips_html;
    let page = text(&page);
    for outside in ["<script ", "http:", "https:", "url(", "@import", " style=", "src=", "http-equiv"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!((page.matches("<script").count(), page.matches("<style").count()), (1, 1));
    assert!(!Regex::new(r#" on[a-z]+=""#).unwrap().is_match(page), "handlers are the script's");
    let policy = content_security_policy();
    for tag in ["style", "script"] {
        let hash = base64::prelude::BASE64_STANDARD.encode(sha2::Sha256::digest(block(page, tag).0));
        assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}';")), "{policy}");
    }
    assert!(!policy.contains("unsafe") && policy.starts_with("default-src 'none';"), "{policy}");
}

#[test]
fn the_script_makes_no_markup_of_text_and_asks_no_clock_of_the_browser() {
    let page = files(&roster(&[node(0)])).ips_html;
    let script = block(text(&page), "script").0;
    let ways = "innerHTML|outerHTML|insertAdjacentHTML|document\\.write|createContextualFragment|DOMParser|eval|Function|\
                srcdoc|\\.style[ .=]|http|new Date\\(\\)|Date\\.now|localStorage|cookie";
    let found: Vec<_> = Regex::new(ways).unwrap().find_iter(script).map(|found| found.as_str()).collect();
    assert_eq!(found, Vec::<&str>::new());
    let asked: BTreeSet<&str> = Regex::new(r#"ask\("([a-z.]+)"\)"#)
        .unwrap()
        .captures_iter(script)
        .map(|c| c.get(1).unwrap().as_str())
        .collect();
    assert_eq!(asked, BTreeSet::from(["history.json", "ips.json", "node.json"]));
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn four() -> BTreeSet<String> {
    LIST.iter().map(|file| file.as_str().to_owned()).collect()
}

#[test]
fn files_are_readable_by_all_and_unchanged_ones_stay_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".muster-left"), "half").unwrap();
    fs::write(dir.path().join("healthz"), "ok\n").unwrap();
    let publisher = Publisher::new(dir.path()).unwrap();
    assert!(!dir.path().join(".muster-left").exists());

    let first = roster(&[node(0), node(1)]);
    assert_eq!(publisher.publish(&files(&first)).unwrap().len(), 4);
    let inodes =
        || four().iter().map(|name| fs::metadata(dir.path().join(name)).unwrap().ino()).collect::<Vec<_>>();
    for name in four() {
        assert_eq!(
            fs::metadata(dir.path().join(&name)).unwrap().permissions().mode() & 0o777,
            0o644,
            "{name}"
        );
    }
    let before = inodes();
    assert_eq!(publisher.publish(&files(&first)).unwrap(), []);
    assert_eq!(inodes(), before);

    // Stale changes what people and scripts read of it, not who is in the list.
    let contact = Contact { stale_since: Some("2026-11-20T18:03:07Z".into()) };
    let written = publisher.publish(&render(&first, &contact, &about())).unwrap();
    let written: Vec<ListFile> = written.iter().map(|one| one.file).collect();
    assert_eq!(written, [ListFile::IpsJson, ListFile::IpsHtml]);

    // What somebody spoilt or removed is made good, also a directory.
    fs::write(dir.path().join("ips.txt"), "10.0.0.1\n").unwrap();
    fs::set_permissions(dir.path().join("ips.json"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(publisher.publish(&render(&first, &contact, &about())).unwrap().len(), 2);
    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(publisher.publish(&files(&first)).unwrap().len(), 4);
    assert_eq!(names(dir.path()), four());
}

#[test]
fn a_reader_never_sees_a_part() {
    // In memory where there is such a place, as in a container: 10,000 syncs would only measure this machine's disk.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let publisher = Publisher::new(dir.path()).unwrap();
    let nodes: Vec<Node> = (0..20).map(node).collect();
    let versions: Vec<ListFiles> = (1..=20).map(|count| files(&roster(&nodes[..count]))).collect();
    publisher.publish(&versions[0]).unwrap();
    let whole: BTreeSet<&[u8]> = versions.iter().map(|files| files.ips_json.as_slice()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut seen) = (0_u64, BTreeSet::new());
            while !done.load(Ordering::Relaxed) {
                let bytes = fs::read(dir.path().join("ips.json")).expect("always there");
                assert!(whole.contains(bytes.as_slice()), "{} bytes are no version", bytes.len());
                seen.insert(bytes.len());
                reads += 1;
            }
            (reads, seen.len())
        });
        for n in 1..=2000 {
            if reader.is_finished() {
                break;
            }
            publisher.publish(&versions[n % versions.len()]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let (reads, seen) = reader.join().unwrap();
        assert!(reads > 0 && seen > 1, "{reads} reads saw {seen} versions");
    });
    assert_eq!(names(dir.path()), four());
}

/// A small tmpfs, unmounted when dropped; `None` without the right to mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }

    fn remount(&self, how: &str) {
        let ok = std::process::Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(self.0.path())
            .status();
        assert!(ok.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let ended = std::process::Command::new("umount").arg(self.0.path()).status();
        assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_or_read_only_disk_leaves_the_old_files() {
    let Some(disk) = SmallDisk::new() else {
        crate::part::skip("there is no right to mount a tmpfs");
        return;
    };
    let dir = disk.0.path();
    let publisher = Publisher::new(dir).unwrap();
    let old = files(&roster(&[node(0)]));
    let new = files(&roster(&[node(0), node(1)]));
    publisher.publish(&old).unwrap();

    // One page is left: the first temporary file fits, the page does not.
    let filler = fs::File::create(dir.join("filler")).unwrap();
    let mut room = 256 * 1024;
    while std::io::Write::write_all(&mut &filler, &[0; 4096]).is_ok() {
        room -= 4096;
        assert!(room > 0);
    }
    filler.set_len(filler.metadata().unwrap().len() / 4096 * 4096 - 4096).unwrap();
    let error = publisher.publish(&new).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::StorageFull, "{error}");
    let intact = |files: &ListFiles| {
        for (name, bytes) in
            [("ips.json", &files.ips_json), ("ips.txt", &files.ips_txt), ("ips.html", &files.ips_html)]
        {
            assert_eq!(&fs::read(dir.join(name)).unwrap(), bytes, "{name}");
        }
        assert!(!names(dir).iter().any(|name| name.starts_with('.')));
    };
    intact(&old);

    fs::remove_file(dir.join("filler")).unwrap();
    drop(filler);
    disk.remount("ro");
    let error = publisher.publish(&new).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
    intact(&old);
    disk.remount("rw");
    publisher.publish(&new).unwrap();
    intact(&new);
}

/// The same roster before the first complete list.
fn unlisted(roster: &Roster) -> Roster {
    let mut roster = roster.clone();
    roster.epoch = 0;
    roster
}

/// Polls until `holds`, and fails after a time that no working machine needs.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_task_follows_roster_and_contact() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new("0.0.0", "test");
    let (rosters, roster_seen) = watch::channel(Arc::new(Roster::default()));
    let (contacts, contact_seen) = watch::channel(Contact::default());
    let publisher = Publisher::new(dir.path()).unwrap();
    let task = tokio::spawn(run(publisher, about(), roster_seen, contact_seen, metrics.clone()));

    // Out of touch before anything is known: still no file, for it would be an empty list.
    let stale = Contact { stale_since: Some("2026-11-20T18:03:07Z".into()) };
    contacts.send_replace(stale.clone());
    let first = roster(&[node(0)]);
    rosters.send_replace(Arc::new(unlisted(&first)));
    tokio::task::yield_now().await;
    rosters.send_replace(Arc::new(first.clone()));
    let holds = |name: &str, bytes: &[u8]| fs::read(dir.path().join(name)).is_ok_and(|found| found == bytes);
    eventually("the stale list", || holds("ips.html", &render(&first, &stale, &about()).ips_html)).await;
    contacts.send_replace(Contact::default());
    eventually("the fresh list", || holds("ips.html", &files(&first).ips_html)).await;

    // A directory stands in the way of one file: the error is counted, and the list heals when it is gone.
    fs::remove_file(dir.path().join("ips.txt")).unwrap();
    fs::create_dir_all(dir.path().join("ips.txt/in-the-way")).unwrap();
    let second = roster(&[node(0), node(1)]);
    rosters.send_replace(Arc::new(second.clone()));
    let failed = || metrics.list_writes.get_or_create(&(ListFile::IpsTxt, WriteResult::Failed)).get();
    eventually("two counted failures", || failed() >= 2).await;
    fs::remove_dir_all(dir.path().join("ips.txt")).unwrap();
    eventually("the second list", || holds("ips.txt", b"10.89.0.2\n10.89.0.3\n")).await;
    eventually("its revision", || metrics.list_revision.get() == second.revision).await;

    drop(rosters);
    drop(contacts);
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("ends with its senders").unwrap();
    assert_eq!(names(dir.path()), four());
}

/// A node as it is in the middle of its life, or at the very beginning.
fn itself(known: bool) -> NodeDocument {
    let at = |time: &str| known.then(|| time.to_owned());
    NodeDocument {
        schema: 1,
        id: "web-1-00000000000000ff".into(),
        name: "web-1".into(),
        ip: known.then_some(Ipv4Addr::new(10, 89, 0, 2)),
        started_at: "2026-11-20T18:03:07.000Z".into(),
        registry: RegistryContact {
            id: at("5f0c2d9ab6e14837"),
            state: if known { ContactState::Fresh } else { ContactState::Starting },
            last_contact_at: at("2026-11-20T18:04:00.125Z"),
            stale_since: None,
            stale_after_ms: 5000,
        },
        lease_expires_at: at("2026-11-20T18:04:05.100Z"),
        revision: 0,
        digest: "0123456789abcdef".into(),
        leader: known,
        nginx: NginxHealth { pid: known.then_some(17), last_probe_at: at("2026-11-20T18:04:00.300Z") },
        site: SiteHealth { trouble: known.then(|| "/srv/site was removed".into()) },
    }
}

#[test]
fn what_a_node_says_of_itself_has_its_schema() {
    for known in [true, false] {
        let file = parsed(&render_itself(&itself(known)));
        crate::schema::check(&schema_of("node.schema.json"), &file, "node.json");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_says_of_itself_is_written_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new("0.0.0", "test");
    let mut looks = 0;
    let look = move || {
        looks += 1;
        NodeDocument { revision: looks, ..itself(true) }
    };
    let task = tokio::spawn(run_itself(Publisher::new(dir.path()).unwrap(), look, metrics.clone()));
    let shown = || {
        fs::read(dir.path().join("node.json")).map_or(0, |bytes| parsed(&bytes)["revision"].as_i64().unwrap())
    };
    eventually("a third writing", || shown() >= 3).await;
    // A directory in the way is counted, and goes by.
    fs::remove_dir_all(dir.path()).unwrap();
    fs::create_dir_all(dir.path().join("node.json/in-the-way")).unwrap();
    let failed = || metrics.list_writes.get_or_create(&(ListFile::NodeJson, WriteResult::Failed)).get();
    eventually("a counted failure", || failed() > 0).await;
    fs::remove_dir_all(dir.path().join("node.json")).unwrap();
    eventually("the file again", || shown() > 3).await;
    task.abort();
    assert_eq!(names(dir.path()), BTreeSet::from(["node.json".to_owned()]));
}

#[tokio::test]
async fn nothing_is_written_before_the_first_list() {
    let dir = tempfile::tempdir().unwrap();
    let (rosters, roster_seen) = watch::channel(Arc::new(Roster::default()));
    let (contacts, contact_seen) = watch::channel(Contact::default());
    contacts.send_replace(Contact { stale_since: Some("2026-11-20T18:03:07Z".into()) });
    rosters.send_replace(Arc::new(unlisted(&roster(&[node(0)]))));
    drop((rosters, contacts));
    run(Publisher::new(dir.path()).unwrap(), about(), roster_seen, contact_seen, Metrics::new("0", "0"))
        .await;
    assert_eq!(names(dir.path()), BTreeSet::new());
}
