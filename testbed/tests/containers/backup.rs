//! etcd into a file and back, while requests go on.

use std::fs;

use super::STARTED;
use super::clients::{Clients, Manners};
use super::engine::Fleet;

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
    assert!(said.contains("is there already"), "{said}");
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

    fleet.make(&["restore", &format!("FILE={file}")], &[]);
    clients.lost_nothing("a restore of etcd");
    assert!(marks().contains("absent"), "the mark is back");
    fleet.agrees("restored", 3, STARTED);
    fleet.as_root(&["del", "/muster/marks/absent"]);
}
