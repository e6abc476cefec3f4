//! etcd into a file and back, while requests go on.

use std::fs;

use super::STARTED;
use super::clients::{Clients, Manners};
use crate::engine::{Fleet, eventually};

pub fn a_backup_brings_back_what_was_lost(fleet: &Fleet) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("muster.db");
    let broken = folder.path().join("broken.db");
    let (file, broken) = (file.to_str().expect("text"), broken.to_str().expect("text"));
    let marks = || fleet.as_root(&["get", "--prefix", "/muster/marks/", "--keys-only"]);

    fleet.as_root(&[
        "put",
        "/muster/marks/absent",
        r#"{"v":1,"since":"2026-01-01T00:00:00.000Z","why":"kept"}"#,
    ]);
    fleet.make(&["backup", &format!("FILE={file}")], &[]);
    let said = fleet.make_fails(&["backup", &format!("FILE={file}")], &[]);
    assert!(said.contains("exists already"), "{said}");
    fleet.as_root(&["del", "/muster/marks/absent"]);
    assert!(!marks().contains("absent"));

    let clients = Clients::start(fleet.edge(), Manners::AskOnce);
    let whole = fs::read(file).expect("the backup");
    fs::write(broken, &whole[..whole.len() / 2]).expect("half of it");
    let said = fleet.make_fails(&["restore", &format!("FILE={broken}")], &[]);
    assert!(
        said.contains("is no whole snapshot, and nothing was changed") && said.contains("hash"),
        "{said}"
    );
    assert!(!marks().contains("absent"), "etcd was not touched");

    // The image that works on the volumes is not there.
    let said = fleet
        .make_fails(&["restore", &format!("FILE={file}")], &[("MUSTER_FRONT_TAG", "muster/no-such:image")]);
    assert!(said.contains("the volume"), "{said}");
    fleet.agrees("a restore that could not begin", 3, STARTED);
    fleet.make(&["restore", &format!("FILE={file}")], &[]);
    assert!(marks().contains("absent"), "the mark is back");
    fleet.as_root(&["del", "/muster/marks/absent"]);

    let mut restore = fleet.making(&["restore", &format!("FILE={file}")], &[]).spawn().expect("make starts");
    eventually("etcd to be stopped", STARTED, || {
        let state = fleet.docker(["inspect", "-f", "{{.State.Status}}", &fleet.service("etcd1")]);
        if state.trim() == "running" { Err("it runs".to_owned()) } else { Ok(()) }
    });
    fleet.signal_script(restore.id(), "scripts/registry.sh");
    assert!(!restore.wait().expect("it ends").success(), "an interrupted restore is no success");
    fleet.agrees("an interrupted restore", 3, STARTED);
    assert!(!marks().contains("absent"), "etcd has what it had");
    clients.lost_nothing("restores of etcd");
}
