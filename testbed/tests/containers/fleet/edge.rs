//! Two Envoys behind one port: each may go, freeze or be replaced, and the namespace under both may die.

use std::fs;
use std::process::Command;

use super::clients::{Clients, Manners};
use super::{CRASHED, STARTED};
use crate::engine::{Fleet, eventually};

const ENVOYS: [&str; 2] = ["envoy-a", "envoy-b"];

pub fn one_envoy_is_enough(fleet: &Fleet) {
    let clients = Clients::start(fleet.edge(), Manners::AskAgain);
    let killed = fleet.service("envoy-a");
    fleet.docker(["kill", &killed]);
    assert!(!ready(fleet, &killed), "it is gone");
    fleet.docker(["start", &killed]);
    becomes_ready(fleet, &killed, "the killed Envoy to serve again");
    clients.lost_nothing("an Envoy killed and started");

    let clients = Clients::start(fleet.edge(), Manners::AskOnce);
    let stopped = fleet.service("envoy-b");
    fleet.docker(["stop", &stopped]);
    fleet.exited_with(&stopped, 0);
    fleet.docker(["start", &stopped]);
    becomes_ready(fleet, &stopped, "the stopped Envoy to serve again");
    clients.lost_nothing("an Envoy stopped as planned and started");
}

/// Frozen, it would keep its half of all new connections.
pub fn a_frozen_envoy_is_replaced(fleet: &Fleet) {
    let container = fleet.service("envoy-a");
    let before = envoy_in(fleet, &container).expect("it runs");
    let clients = Clients::start(fleet.edge(), Manners::AskAgain);
    fleet.signal(before, "-STOP");
    eventually("another Envoy in the same container", CRASHED, || match envoy_in(fleet, &container) {
        Some(now) if now != before => Ok(()),
        now => Err(format!("{before} was frozen, {now:?} runs")),
    });
    becomes_ready(fleet, &container, "it to serve");
    clients.lost_nothing("an Envoy frozen");
    assert_eq!(fleet.restarts(&container), 0, "its own agent did it, not the engine");
}

/// By a crash the engine starts it again, and both Envoys follow it; killed by hand, `make up` brings all back.
pub fn the_namespace_dies(fleet: &Fleet) {
    let front = fleet.service("front");
    let before = ENVOYS.map(|service| started(fleet, service));
    fleet.kill_on_host(&front);
    for (service, before) in ENVOYS.into_iter().zip(before) {
        eventually("an Envoy in the new namespace", STARTED, || match started(fleet, service) {
            now if now == before => Err(format!("{service} still runs in the old one")),
            _ => Ok(()),
        });
        becomes_ready(fleet, &fleet.service(service), service);
    }
    fleet.agrees("the namespace crashed and both followed", 3, STARTED);

    fleet.docker(["kill", &front]);
    for service in ENVOYS {
        eventually("an Envoy without a namespace to end", STARTED, || {
            match fleet.docker(["inspect", "-f", "{{.State.Status}}", &fleet.service(service)]).trim() {
                "exited" => Ok(()),
                status => Err(format!("{service} is {status}")),
            }
        });
    }
    fleet.make(&["up"], &[]);
    for service in ENVOYS {
        becomes_ready(fleet, &fleet.service(service), service);
    }
    fleet.agrees("the namespace killed, and make up", 3, STARTED);
}

fn becomes_ready(fleet: &Fleet, container: &str, what: &str) {
    eventually(what, STARTED, || {
        if ready(fleet, container) { Ok(()) } else { Err(format!("{container} is not ready")) }
    });
}

/// As its agent says: Envoy answers and has its listener.
fn ready(fleet: &Fleet, container: &str) -> bool {
    fleet.succeeds(["exec", container, "/usr/local/bin/muster", "healthcheck", "--ready"])
}

fn started(fleet: &Fleet, service: &str) -> String {
    fleet.docker(["inspect", "-f", "{{.State.StartedAt}}", &fleet.service(service)])
}

/// Its pid on this machine: the child of the container's first process.
fn envoy_in(fleet: &Fleet, container: &str) -> Option<u32> {
    let first = fleet.docker(["inspect", "-f", "{{.State.Pid}}", container]);
    let children = Command::new("pgrep").args(["-P", first.trim()]).output().expect("pgrep");
    let children = String::from_utf8_lossy(&children.stdout).into_owned();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("envoy"))
    })
}
