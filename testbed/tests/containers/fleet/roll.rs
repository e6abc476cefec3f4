//! `make roll`: everything is replaced, nothing is lost, and what does not come up replaces nobody.

use std::collections::BTreeSet;
use std::thread;

use super::STARTED;
use super::clients::{Clients, Manners};
use crate::engine::{Fleet, eventually};

const NODES: usize = 3;
const ALL: (&str, &str) = ("ALL", "yes");

pub fn everything_is_replaced_but_the_front(fleet: &Fleet) {
    let (before, front) = (containers(fleet), fleet.service("front"));
    let clients = Clients::start(fleet.edge(), Manners::AskOnce);
    fleet.make(&["roll"], &[ALL]);
    clients.lost_nothing("a roll of everything");
    assert_eq!(fleet.service("front"), front, "the front stays");
    let kept: Vec<String> = containers(fleet).intersection(&before).cloned().collect();
    assert_eq!(kept, [front], "everybody else is another container");
    fleet.agrees("rolled", NODES, STARTED);
    let after = containers(fleet);
    fleet.make(&["roll"], &[]);
    assert_eq!(containers(fleet), after, "nothing is out of date, so nothing is replaced");
}

/// The reason is said, and the old ones serve on.
pub fn what_does_not_come_up_replaces_nobody(fleet: &Fleet) {
    let before = containers(fleet);
    let clients = Clients::start(fleet.edge(), Manners::AskOnce);
    let said = fleet.make_fails(&["roll"], &[("MUSTER_TTL", "99")]);
    assert!(said.contains("does not come up") && said.contains("99"), "{said}");
    assert_eq!(containers(fleet), before, "the new one is gone and the old ones are there");

    let said = fleet.make_fails(&["roll"], &[("ENVOY_CONCURRENCY", "many"), ("MUSTER_PATIENCE", "8")]);
    assert!(said.contains("envoy-a does not come up, envoy-b serves"), "{said}");
    clients.lost_nothing("a node and an Envoy that do not come up");
    fleet.make(&["roll"], &[]);
    fleet.agrees("healed by the next roll", NODES, STARTED);
}

/// Nobody undoes what an operator did: neither by replacing the node nor by waiting for it.
pub fn a_node_drained_by_hand_is_left_alone(fleet: &Fleet) {
    let drained = fleet.follower();
    fleet.docker(["exec", &drained.id, "muster", "drain", &drained.id, "--yes", "--wait"]);
    let said = fleet.make_says(&["roll"], &[ALL]);
    assert!(said.contains(&format!("{} is drained by hand and left as it is", drained.id)), "{said}");
    let nodes = fleet.nodes();
    assert_eq!(nodes.len(), NODES);
    assert!(nodes.contains(&drained), "it was replaced");
    fleet.docker(["exec", &drained.id, "muster", "resume", &drained.id, "--yes", "--wait"]);
    fleet.agrees("resumed", NODES, STARTED);
}

/// Another run finishes what one began, with as many nodes as there were.
pub fn an_interrupted_roll_is_finished_by_the_next(fleet: &Fleet) {
    let before: BTreeSet<String> = fleet.nodes().into_iter().map(|node| node.id).collect();
    let mut roll = fleet.making(&["roll"], &[ALL]).spawn().expect("make starts");
    eventually("the first node to be replaced", STARTED, || {
        let left = fleet.nodes().iter().filter(|node| before.contains(&node.id)).count();
        if left < NODES { Ok(()) } else { Err("none is".to_owned()) }
    });
    // As Ctrl-C does: to make and to its script.
    fleet.signal_script(roll.id(), "scripts/roll.sh");
    assert!(!roll.wait().expect("it ends").success(), "an interrupted roll is no success");
    fleet.make(&["roll"], &[ALL]);
    fleet.agrees("the interrupted roll finished", NODES, STARTED);
    assert!(fleet.nodes().iter().all(|node| !before.contains(&node.id)), "every node is another one");
}

/// Killed nodes are replaced like all others, and clients notice nothing.
pub fn nodes_may_be_killed_meanwhile(fleet: &Fleet) {
    let clients = Clients::start(fleet.edge(), Manners::AskOnce);
    let mut roll = fleet.making(&["roll"], &[ALL]).spawn().expect("make starts");
    let mut killed = 0;
    for _ in 0..2 {
        let known: BTreeSet<String> = fleet.nodes().into_iter().map(|node| node.id).collect();
        eventually("the next node to be replaced", STARTED, || {
            let ended = roll.try_wait().expect("make can be asked").is_some();
            let now: BTreeSet<String> = fleet.nodes().into_iter().map(|node| node.id).collect();
            if ended || !now.is_superset(&known) { Ok(()) } else { Err("not yet".to_owned()) }
        });
        if let Some(victim) = fleet.nodes().first() {
            // It may have been the one that was just stopped.
            killed += usize::from(fleet.succeeds(["kill", &victim.id]));
        }
        thread::yield_now();
    }
    assert!(roll.wait().expect("it ends").success(), "the roll goes on around the killed");
    assert!(killed > 0, "the roll was over before any node could be killed");
    clients.lost_nothing("nodes killed during a roll");
    fleet.agrees("rolled while nodes were killed", NODES, STARTED);
}

fn containers(fleet: &Fleet) -> BTreeSet<String> {
    fleet.running().into_iter().collect()
}
