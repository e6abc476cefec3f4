//! Links in a site that lead out of it, on a fleet in containers.

use super::STARTED;
use crate::engine::Fleet;

/// Planted by a container that sees the site and the agents' keys as a node does, and may write both.
const PLANT: &str = r#"
set -e
cd /srv/site
mkdir -p sub pki
echo own >index.html
echo inner >sub/inner.html
ln -sf index.html same.html
ln -sf /srv/site/sub/inner.html absolute.html
ln -sf absolute.html chained.html
ln -sfn sub directory
ln -sf /pki/agent/current/etcd.key k.txt
ln -sf ../../pki/agent/current/control.key relative.txt
ln -sf k.txt twice.txt
ln -sfn /pki/agent keys
ln -sfn / root
ln -sf /dev/zero device
ln -sf /proc/1/environ environment
ln -sf /proc/self/fd/0 input
chmod -R a+rX .
if ln -f /pki/agent/current/etcd.key hard.txt 2>/dev/null; then echo "a hard link has crossed a mount"; exit 1; fi
"#;

const INSIDE: [(&str, &str); 6] = [
    ("/", "own\n"),
    ("/same.html", "own\n"),
    ("/sub/inner.html", "inner\n"),
    ("/absolute.html", "inner\n"),
    ("/chained.html", "inner\n"),
    ("/directory/inner.html", "inner\n"),
];

const OUTSIDE: [&str; 11] = [
    "/k.txt",
    "/relative.txt",
    "/twice.txt",
    "/keys/current/etcd.key",
    "/root",
    "/root/etc/passwd",
    "/root/pki/agent/current/etcd.key",
    "/device",
    "/environment",
    "/input",
    "/hard.txt",
];

/// Nothing but the site is served, whatever is linked there, and the agents' keys are nothing that nginx could read.
pub fn what_is_linked_in_a_site_stays_in_it(fleet: &Fleet) {
    let (site, keys) = (fleet.volume("site"), fleet.volume("pki-agent"));
    let mounted = [format!("{site}:/srv/site"), format!("{keys}:/pki/agent")];
    let planted = ["run", "--rm", "--user", "0", "-v", &mounted[0], "-v", &mounted[1], "--entrypoint", "sh"];
    fleet.docker(planted.into_iter().chain(["muster/node:local", "-c", PLANT]));
    fleet.compose(["restart", "nginx"]);
    fleet.agrees("a site with links", 3, STARTED);
    for node in fleet.nodes() {
        // The same user outside of nginx: no mode keeps the key.
        let key = fleet.docker(["exec", &node.id, "cat", "/pki/agent/current/etcd.key"]);
        assert!(key.contains("PRIVATE KEY"));
        let log = fleet.docker(["logs", &node.id]);
        assert!(!log.contains("nginx-runs-without-a-sandbox"), "{log}");
    }
    // Often enough that each node is asked.
    for _ in 0..4 {
        for (path, body) in INSIDE {
            let answer = fleet.ask("GET", path);
            assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
        }
        for path in OUTSIDE {
            let answer = fleet.ask("GET", path);
            assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.status);
            assert!(!answer.body.contains("PRIVATE KEY"), "{path}");
        }
    }
    keys_mounted_into_the_site_are_refused(fleet, &mounted);
}

/// Mounted there a second time they are part of the site, as far as nginx and the kernel can tell.
fn keys_mounted_into_the_site_are_refused(fleet: &Fleet, mounted: &[String; 2]) {
    let keys = mounted[1].replace(":/pki/agent", ":/srv/site/pki");
    let args = ["run", "--etcd", "https://etcd1:2379", "--tls-dir", "/pki/agent/current"];
    let run = ["run", "--rm", "-v", &mounted[0], "-v", &mounted[1], "-v", &keys, "muster/node:local"];
    let (code, said) = fleet.ends(run.into_iter().chain(args));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("would publish the keys"), "{said}");
}
