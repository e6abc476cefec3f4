//! The fleet as people run it: real containers, under a project name and a port of their own.
//!
//! One test, because one fleet is dear: each step breaks something and then asks `docker inspect`, the registry, the
//! file of every node and Envoy, which must agree in bounded time. Needs an engine and images, so it is ignored unless
//! asked for: `make test` runs it after building them.

mod backup;
mod clients;
mod edge;
mod roll;

use std::time::Duration;

use crate::engine::{Fleet, Node, eventually};

/// A change that somebody announced.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// A crash: the lease of 5 s, an etcd election on top, a busy machine.
const CRASHED: Duration = Duration::from_secs(20);
/// As compose.yaml grants it.
const LEASE: Duration = Duration::from_secs(5);
/// Containers that have to start first.
const STARTED: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a container engine and the images of `make images`"]
fn the_list_follows_whatever_happens_to_the_fleet() {
    let fleet = Fleet::up(3);
    fleet.agrees("up", 3, STARTED);
    fleet.leads();

    fleet.scale(6);
    fleet.agrees("scaled to 6", 6, STARTED);
    fleet.scale(2);
    fleet.agrees("scaled to 2", 2, STARTED);
    fleet.scale(4);
    fleet.agrees("scaled to 4", 4, STARTED);

    let [stopped, ..] = &fleet.nodes()[..] else { panic!("no node") };
    fleet.docker(["stop", &stopped.id]);
    fleet.agrees("one stopped", 3, ANNOUNCED);
    fleet.exited_with(&stopped.id, 0);
    fleet.docker(["start", &stopped.id]);
    fleet.agrees("started again", 4, STARTED);

    let victim = fleet.follower();
    fleet.docker(["kill", &victim.id]);
    fleet.agrees("one killed", 3, CRASHED);
    was_reaped(&fleet, &victim);
    fleet.docker(["start", &victim.id]);
    fleet.agrees("started after the kill", 4, STARTED);

    let leader = fleet.leader();
    fleet.docker(["kill", &leader.id]);
    fleet.agrees("the leader killed", 3, CRASHED);
    assert_ne!(fleet.leader().id, leader.id, "somebody else leads");
    fleet.docker(["start", &leader.id]);
    fleet.agrees("the old leader is back", 4, STARTED);

    the_image_is_small_and_unprivileged(&fleet);
    crash_on_the_host(&fleet);
    another_address_is_another_registration(&fleet);
    pause_longer_than_the_lease(&fleet);
    nginx_dies_inside(&fleet);
    etcd_loses_one_member(&fleet);
    etcd_goes_away(&fleet);
    inspection_works_as_typed(&fleet);
    the_edge_refuses_what_it_should(&fleet);
    edge::one_envoy_is_enough(&fleet);
    edge::a_frozen_envoy_is_replaced(&fleet);
    edge::the_namespace_dies(&fleet);
    roll::everything_is_replaced_but_the_front(&fleet);
    roll::what_does_not_come_up_replaces_nobody(&fleet);
    roll::a_node_drained_by_hand_is_left_alone(&fleet);
    roll::an_interrupted_roll_is_finished_by_the_next(&fleet);
    roll::nodes_may_be_killed_meanwhile(&fleet);
    backup::a_backup_brings_back_what_was_lost(&fleet);
}

/// Removed by the leader, on the word of its closed stream: its lease would have ended too, seconds later.
fn was_reaped(fleet: &Fleet, node: &Node) {
    eventually("the event of its removal", STARTED, || {
        let events = fleet.docker(["exec", &fleet.leader().id, "muster", "events", "-o", "jsonl"]);
        let node = format!("\"node\":\"{}\"", node.id);
        let last = events.lines().rfind(|line| line.contains(&node)).unwrap_or_default();
        if last.contains("\"event\":\"reaped\"") { Ok(()) } else { Err(format!("the last of it is {last}")) }
    });
}

/// Killed from outside the engine, which then starts it again by its restart policy: same container, new instance.
fn crash_on_the_host(fleet: &Fleet) {
    let victim = fleet.follower();
    let before = fleet.instance(&victim);
    fleet.kill_on_host(&victim.id);
    eventually("the engine to start it again", STARTED, || {
        let now = fleet.find(&victim.id).ok_or("it does not run")?;
        match fleet.try_instance(&now)? {
            instance if instance == before => Err("the old instance is still listed".to_owned()),
            _ => Ok(()),
        }
    });
    fleet.agrees("killed on the host and restarted", 4, STARTED);
}

/// Taken off the network and put back, it finds its address given to somebody else.
fn another_address_is_another_registration(fleet: &Fleet) {
    let moved = fleet.follower();
    let network = fleet.network();
    fleet.docker(["network", "disconnect", &network, &moved.id]);
    fleet.agrees("one off the network", 3, CRASHED);
    fleet.scale(5);
    fleet.agrees("a fifth node took its address", 4, STARTED);
    fleet.docker(["network", "connect", "--alias", "nginx", &network, &moved.id]);
    fleet.agrees("back on the network", 5, CRASHED);
    let now = fleet.find(&moved.id).expect("it runs");
    assert_ne!(now.ip, moved.ip, "it has another address");
    fleet.scale(4);
    fleet.agrees("scaled back to 4", 4, STARTED);
}

/// At most 15 MB above its base, and as little allowed as a web server needs.
fn the_image_is_small_and_unprivileged(fleet: &Fleet) {
    let node = &fleet.nodes()[0];
    let image = fleet.docker(["inspect", "-f", "{{.Image}}", &node.id]);
    let size = |image: &str| -> u64 {
        fleet.docker(["image", "inspect", "-f", "{{.Size}}", image]).trim().parse().expect("a size")
    };
    let base = r#"{{index .Config.Labels "org.opencontainers.image.base.name"}}"#;
    let base = fleet.docker(["image", "inspect", "-f", base, image.trim()]);
    let above = size(image.trim()) - size(base.trim());
    assert!(above <= 15_000_000, "{above} bytes above {base}");
    let status = fleet.docker(["exec", &node.id, "cat", "/proc/1/status"]);
    for line in ["Uid:\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
}

/// Paused, it cannot renew: it leaves the list with its lease, and comes back by itself with a new one.
fn pause_longer_than_the_lease(fleet: &Fleet) {
    let frozen = fleet.follower();
    let since = fleet.since(&frozen);
    fleet.docker(["pause", &frozen.id]);
    fleet.agrees("one paused", 3, CRASHED);
    fleet.docker(["unpause", &frozen.id]);
    fleet.agrees("unpaused", 4, CRASHED);
    assert_ne!(fleet.since(&frozen), since, "a lease that had ended came back to life");
}

fn nginx_dies_inside(fleet: &Fleet) {
    let node = fleet.follower();
    let (since, restarts) = (fleet.since(&node), fleet.restarts(&node.id));
    fleet.docker(["exec", &node.id, "pkill", "-9", "-o", "nginx"]);
    eventually("nginx to be served again", STARTED, || match fleet.try_since(&node)? {
        now if now == since => Err("it still says that it serves since before".to_owned()),
        _ => Ok(()),
    });
    fleet.agrees("nginx killed inside", 4, STARTED);
    assert_eq!(fleet.restarts(&node.id), restarts, "the container itself was not restarted");
}

fn etcd_loses_one_member(fleet: &Fleet) {
    let before = fleet.files();
    let leases: Vec<_> = fleet.nodes().into_iter().map(|node| (lease_end(fleet, &node), node)).collect();
    fleet.compose(["kill", "etcd1"]);
    // Longer than a lease: what was granted before the fault has ended by then.
    eventually("every lease to be renewed without it", CRASHED, || {
        let old = leases.iter().find(|(end, node)| lease_end(fleet, node) <= *end + LEASE);
        old.map_or(Ok(()), |(_, node)| Err(format!("{} still lives on a renewal from before", node.id)))
    });
    fleet.agrees("one etcd member killed", 4, CRASHED);
    assert_eq!(before, fleet.files(), "no file was rewritten");
    fleet.scale(5);
    fleet.agrees("scaled without it", 5, STARTED);
    fleet.compose(["start", "etcd1"]);
    fleet.scale(4);
    fleet.agrees("scaled back with it", 4, STARTED);
}

/// When the lease of a node would end, as the node itself has it.
fn lease_end(fleet: &Fleet, node: &Node) -> jiff::Timestamp {
    let said = fleet.docker(["exec", &node.id, "cat", "/srv/muster/node.json"]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("node.json");
    said["lease_expires_at"].as_str().expect("a lease").parse().expect("a time")
}

/// Without a registry nothing is removed and everything is served; back again, nothing has to be told.
fn etcd_goes_away(fleet: &Fleet) {
    let before = fleet.list_through_envoy();
    fleet.compose(["kill", "etcd1", "etcd2", "etcd3"]);
    eventually("every node to say that its list is stale", CRASHED, || {
        let fresh = fleet.nodes().iter().filter(|node| !fleet.is_stale(node)).count();
        if fresh == 0 { Ok(()) } else { Err(format!("{fresh} nodes look fresh")) }
    });
    let during = fleet.list_through_envoy();
    assert_eq!(before["ips"], during["ips"], "the last known list is kept");
    assert_eq!(before["revision"], during["revision"]);
    fleet.compose(["start", "etcd1", "etcd2", "etcd3"]);
    fleet.agrees("etcd is back", 4, STARTED);
    fleet.scale(3);
    fleet.agrees("and changes arrive", 3, STARTED);
}

/// The commands that README and issue promise, word for word.
fn inspection_works_as_typed(fleet: &Fleet) {
    let typed = fleet.compose(["exec", "-T", "etcd1", "etcdctl", "get", "--prefix", "/muster"]);
    assert!(typed.contains("/muster/nodes/") && typed.contains("/muster/leader/"), "{typed}");
    let node = &fleet.nodes()[0];
    // An Envoy may still be on its way to the leader of the last change.
    let status = ["exec", node.id.as_str(), "muster", "status"];
    eventually("status to find all well", CRASHED, || {
        if fleet.succeeds(status) { Ok(()) } else { Err("it does not".to_owned()) }
    });
    let status = fleet.docker(status);
    assert!(status.contains("3/3 files agree"), "{status}");
    fleet.docker(["exec", &node.id, "muster", "healthcheck"]);
    for target in ["status", "verify", "check"] {
        fleet.make_says(&[target], &[]);
    }
    fleet.make_says(&["muster", "ARGS=events --since 10m"], &[]);
}

fn the_edge_refuses_what_it_should(fleet: &Fleet) {
    for (method, path, expected) in [
        ("GET", "/", 200),
        ("HEAD", "/ips.json", 200),
        ("GET", "/.ips.json.tmp", 404),
        ("GET", "/nginx.conf", 404),
        ("GET", "/../../etc/passwd", 404),
        ("POST", "/ips.json", 405),
        ("DELETE", "/ips.json", 405),
    ] {
        let answer = fleet.ask(method, path);
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
    }
}
