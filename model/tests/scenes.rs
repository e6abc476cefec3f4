//! The smaller scenes, searched whole; `make model` searches all.

use model::Protocol;
use model::rest::walk;
use model::rules::RULES;
use model::scene::scenes;
use stateright::{Checker, Model};

const SMALL: [&str; 2] = ["drain", "address used again"];

#[test]
fn the_rules_hold_and_the_fleet_comes_to_rest() {
    for scene in scenes().into_iter().filter(|scene| SMALL.contains(&scene.name)) {
        let protocol = Protocol::new(scene);
        let checker = protocol.clone().checker().spawn_bfs().join();
        for rule in &RULES {
            let found = checker.discovery(rule.name).map(|path| path.into_actions());
            assert!(found.is_none(), "{}: {}: {found:?}", protocol.scene.name, rule.name);
        }
        let walk = walk(&protocol);
        assert_eq!(walk.states, checker.unique_state_count(), "both see every state");
        assert!(walk.cycle.is_none(), "{}: {:?}", protocol.scene.name, walk.cycle);
    }
}
