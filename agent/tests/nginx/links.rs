//! What is linked in the site: inner links are served, and nothing that is elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use muster::nginx::Nginx;
use muster::process::sandbox::Sandbox;
use muster::process::supervisor::CommandOutput;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::time::Instant;

use super::{Node, PATIENCE, supervisor};

/// The content of each file outside of the site.
const SECRET: &str = "-----BEGIN PRIVATE KEY-----";

/// A site with `index.html`, `sub/inner.html` and links to them, and links that lead out of it; all that leads out.
fn plant(nginx: &mut Nginx, tmp: &Path) -> Vec<&'static str> {
    let (site, outside) = (tmp.join("site"), tmp.join("site-of-others"));
    fs::create_dir_all(site.join("sub")).unwrap();
    fs::create_dir_all(outside.join("keys")).unwrap();
    fs::write(site.join("index.html"), "own").unwrap();
    fs::write(site.join("sub/inner.html"), "inner").unwrap();
    fs::write(outside.join("index.html"), SECRET).unwrap();
    fs::write(outside.join("keys/etcd.key"), SECRET).unwrap();
    mkfifo(&outside.join("fifo"), Mode::S_IRUSR).unwrap();

    let link = |target: &dyn AsRef<Path>, name: &str| symlink(target, site.join(name)).unwrap();
    link(&"index.html", "same.html");
    link(&"sub/../sub/inner.html", "relative.html");
    link(&site.join("sub/inner.html"), "absolute.html");
    link(&"absolute.html", "chained.html");
    link(&"sub", "directory");

    link(&outside.join("keys/etcd.key"), "k-absolute.txt");
    link(&"../site-of-others/keys/etcd.key", "k-relative.txt");
    link(&"sub/../../site-of-others/keys/etcd.key", "k-around.txt");
    link(&"k-relative.txt", "k-chained.txt");
    link(&outside, "k-directory");
    link(&"..", "k-above");
    link(&"/", "k-root");
    link(&"/etc/hosts", "k-hosts.txt");
    link(&"/dev/zero", "k-device");
    link(&outside.join("fifo"), "k-fifo");
    link(&"/proc/self/environ", "k-environment");
    link(&"/proc/self/root/etc/hosts", "k-through-proc.txt");
    link(&"/dev/stdout", "k-output");
    link(&"missing", "k-broken");
    fs::write(site.join("packed.js"), "plain").unwrap();
    link(&outside.join("keys/etcd.key"), "packed.js.gz");
    link(&"../site-of-others/keys/etcd.key", "packed.js.br");
    nginx.site = Some(site);
    vec![
        "/k-absolute.txt",
        "/k-relative.txt",
        "/k-around.txt",
        "/k-chained.txt",
        "/k-directory",
        "/k-directory/",
        "/k-directory/index.html",
        "/k-directory/keys/etcd.key",
        "/k-above/",
        "/k-above/site-of-others/keys/etcd.key",
        "/k-root",
        "/k-root/",
        "/k-root/etc/hosts",
        "/k-hosts.txt",
        "/k-device",
        "/k-fifo",
        "/k-environment",
        "/k-through-proc.txt",
        "/k-output",
        "/k-broken",
        "/directory/../k-absolute.txt",
    ]
}

/// As the agent makes it, and with the files in which nginx looks root up: tests often run as root.
fn sandbox(nginx: &Nginx) -> Sandbox {
    let mut opened = nginx.opens();
    opened.read.extend(["/etc/passwd", "/etc/group"].map(PathBuf::from));
    Sandbox::new(&opened).expect("a kernel with Landlock")
}

fn sandboxed(nginx: &mut Nginx) {
    nginx.prepare().unwrap();
    nginx.sandbox = Some(sandbox(nginx));
}

/// Ends another thread's loop, also when an assertion fails: a scope waits for its threads.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn assert_kept(node: &Node, outside: &[&str]) {
    for path in outside {
        let answer = node.get(path);
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.status);
        assert!(!answer.body.contains(SECRET), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_followed_inside_the_site_and_nowhere_else() {
    let mut outside = Vec::new();
    let planted = |nginx: &mut Nginx, tmp: &Path| {
        outside = plant(nginx, tmp);
        sandboxed(nginx);
    };
    let Some(node) = Node::start(planted).await else { return };
    for (path, body) in [
        ("/", "own"),
        ("/index.html", "own"),
        ("/same.html", "own"),
        ("/relative.html", "inner"),
        ("/absolute.html", "inner"),
        ("/chained.html", "inner"),
        ("/directory/inner.html", "inner"),
        ("/ips.json", "{}"),
    ] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
    assert_eq!(node.get("/directory").header("Location"), Some("/directory/"));
    assert_kept(&node, &outside);
    for takes in ["gzip", "br"] {
        let answer = node.ask(&format!("GET /packed.js HTTP/1.1\r\nAccept-Encoding: {takes}\r\n"));
        assert_eq!((answer.status, answer.body.as_str()), (200, "plain"), "{takes}");
    }
    // What is linked later is no different, and a reload and its new worker change nothing.
    let site = node.nginx.site.clone().unwrap();
    symlink("../site-of-others/keys/etcd.key", site.join("later.txt")).unwrap();
    assert_kept(&node, &["/later.txt"]);
    node.served.reload().await.unwrap();
    node.answering("0123456789abcdef").await;
    assert_kept(&node, &outside);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_replaced_while_it_is_served_never_leads_out() {
    let planted = |nginx: &mut Nginx, tmp: &Path| {
        plant(nginx, tmp);
        sandboxed(nginx);
    };
    let Some(node) = Node::start(planted).await else { return };
    let site = node.nginx.site.clone().unwrap();
    let over = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (target, directory) in
                    [("index.html", "sub"), ("../site-of-others/keys/etcd.key", "../site-of-others")]
                {
                    for (name, target) in [("turning.html", target), ("turning", directory)] {
                        let new = site.join("new");
                        symlink(target, &new).unwrap();
                        fs::rename(&new, site.join(name)).unwrap();
                    }
                }
            }
        });
        let _over = Over(&over);
        let began = Instant::now();
        while inside < 200 || refused < 200 {
            assert!(began.elapsed() < PATIENCE, "{inside} inside, {refused} refused");
            for path in ["/turning.html", "/turning/index.html", "/turning/inner.html"] {
                let answer = node.get(path);
                assert!(!answer.body.contains(SECRET), "{path}");
                match answer.status {
                    200 => inside += 1,
                    _ => refused += 1,
                }
            }
        }
    });
    node.stop().await;
}

/// Where there is no Landlock a link to the neighbour is refused as well: nginx alone cannot tell where one leads.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_sandbox_no_link_is_followed() {
    let mut outside = Vec::new();
    let Some(node) = Node::start(|nginx, tmp| outside = plant(nginx, tmp)).await else { return };
    for (path, body) in
        [("/", "own"), ("/index.html", "own"), ("/sub/inner.html", "inner"), ("/ips.json", "{}")]
    {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
    outside.extend([
        "/same.html",
        "/relative.html",
        "/absolute.html",
        "/chained.html",
        "/directory/inner.html",
    ]);
    assert_kept(&node, &outside);
    node.stop().await;
}

/// The other half: it is the sandbox that keeps them, not a mode or an owner.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sandboxed_cannot_read_what_the_agent_can() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("etcd.key"), format!("{SECRET};")).unwrap();
    let Some(mut node) = Node::start(|_, _| {}).await else { return };
    // `-t` opens what it is told to include, and says what it found.
    fs::write(
        node.nginx.run_dir.join("nginx.conf"),
        format!("include {};", tmp.path().join("etcd.key").display()),
    )
    .unwrap();
    let tried = async |nginx: &Nginx| -> CommandOutput {
        supervisor().output(nginx.check(), PATIENCE).await.unwrap()
    };
    let free = tried(&node.nginx).await.text;
    assert!(free.contains("BEGIN"), "nginx without a sandbox reads it: {free}");
    node.nginx.sandbox = Some(sandbox(&node.nginx));
    let held = tried(&node.nginx).await.text;
    assert!(held.contains("Permission denied") && !held.contains("BEGIN"), "{held}");
    node.stop().await;
}
