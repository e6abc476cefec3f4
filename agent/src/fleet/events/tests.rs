use super::*;
use crate::fleet::{Change, KeySpace, Ports, Put, candidate_value, node_value};
use proptest::prelude::*;

const NOW: &str = "2026-11-21T10:00:00Z";
const SINCE: &str = "2026-11-21T09:00:00Z";

fn space() -> KeySpace {
    KeySpace::new("/muster", Vec::new())
}

fn node(number: u8, last: u8, state: NodeState) -> Node {
    Node {
        name: format!("web-{number}"),
        instance: format!("{number:016x}"),
        ip: Ipv4Addr::new(10, 0, 0, last),
        ports: Ports { http: 8080, control: 18000, metrics: 9464 },
        state,
        reason: if state == NodeState::Lost { "closed and refused".into() } else { String::new() },
        since: SINCE.into(),
        version: "1".into(),
        took_ms: (state == NodeState::Lost).then_some(12),
        lease: 0,
        create_revision: 0,
        mod_revision: 0,
    }
}

fn put(revision: i64, node: &Node) -> Change {
    let put = Put { value: node_value(node), create_revision: revision, lease: 7 };
    Change { key: space().node_key(&node.name, &node.instance), revision, put: Some(put) }
}

fn gone(revision: i64, node: &Node) -> Change {
    Change { put: None, ..put(revision, node) }
}

fn candidate(revision: i64, node: &Node) -> Change {
    let lease = i64::from_str_radix(&node.instance, 16).unwrap() + 1;
    let value = candidate_value(&node.instance, std::net::SocketAddrV4::new(node.ip, 18000));
    let put = Put { value, create_revision: revision, lease };
    Change { key: space().candidate_key(lease), revision, put: Some(put) }
}

/// Kind and node of what happens in the last of these revisions.
fn last(changes: &[Vec<Change>]) -> Vec<(EventKind, String)> {
    let mut roster = Roster::default();
    let mut last = Vec::new();
    for one_revision in changes {
        let (next, rejections) = roster.apply(&space(), one_revision);
        assert!(rejections.is_empty(), "{rejections:?}");
        last = events(&roster, &next, NOW);
        roster = next;
    }
    last.into_iter().map(|event| (event.event, event.node)).collect()
}

fn one(kind: EventKind, node: &str) -> Vec<(EventKind, String)> {
    vec![(kind, node.to_owned())]
}

#[test]
fn how_a_node_went_is_told_by_what_it_said_last() {
    let [serving, draining, lost] =
        [NodeState::Serving, NodeState::Draining, NodeState::Lost].map(|state| node(1, 1, state));
    let joined = vec![put(2, &serving)];
    assert_eq!(last(std::slice::from_ref(&joined)), one(EventKind::Joined, "web-1"));
    assert_eq!(last(&[joined.clone(), vec![put(3, &serving)]]), []);
    assert_eq!(last(&[joined.clone(), vec![put(3, &draining)]]), one(EventKind::Draining, "web-1"));
    assert_eq!(
        last(&[joined.clone(), vec![put(3, &draining)], vec![gone(4, &draining)]]),
        one(EventKind::Left, "web-1")
    );
    assert_eq!(last(&[joined.clone(), vec![put(3, &lost)]]), one(EventKind::Lost, "web-1"));
    assert_eq!(
        last(&[joined.clone(), vec![put(3, &lost)], vec![gone(4, &lost)]]),
        one(EventKind::Reaped, "web-1")
    );
    assert_eq!(last(&[joined.clone(), vec![gone(3, &serving)]]), one(EventKind::Expired, "web-1"));
    // One that lives and has no place in the list.
    let both = vec![candidate(2, &serving), put(2, &serving)];
    let withdrawn = last(&[both, vec![gone(3, &serving)]]);
    assert_eq!(withdrawn, one(EventKind::Withdrawn, "web-1"));
    // An engine hands the address to the next container at once.
    let next = node(2, 1, NodeState::Serving);
    let replaced = last(&[joined, vec![gone(3, &serving), put(3, &next)]]);
    assert_eq!(replaced, [(EventKind::Superseded, "web-1".into()), (EventKind::Joined, "web-2".into())]);
}

#[test]
fn a_leader_and_nobody_are_told_once() {
    let (first, second) = (node(1, 1, NodeState::Serving), node(2, 2, NodeState::Serving));
    let begin = vec![candidate(2, &first), put(2, &first)];
    assert_eq!(
        last(std::slice::from_ref(&begin)),
        [(EventKind::Joined, "web-1".into()), (EventKind::LeaderChanged, "web-1".into())]
    );
    let more = vec![candidate(3, &second), put(3, &second)];
    assert_eq!(last(&[begin.clone(), more.clone()]), one(EventKind::Joined, "web-2"));
    let resigned = vec![Change { put: None, ..candidate(4, &first) }];
    assert_eq!(last(&[begin.clone(), more, resigned.clone()]), one(EventKind::LeaderChanged, "web-2"));
    assert_eq!(last(&[begin, resigned]), one(EventKind::LeaderChanged, ""));
}

#[test]
fn a_mark_tells_whom_and_why() {
    let serving = node(1, 1, NodeState::Serving);
    let value = serde_json::json!({ "v": 1, "since": SINCE, "why": "new disk" }).to_string().into_bytes();
    let mark = Change {
        key: b"/muster/marks/web-1".to_vec(),
        revision: 3,
        put: Some(Put { value, create_revision: 3, lease: 0 }),
    };
    let (before, _) = Roster::default().apply(&space(), &[put(2, &serving)]);
    let (marked, _) = before.apply(&space(), std::slice::from_ref(&mark));
    let [event] = &events(&before, &marked, NOW)[..] else { panic!() };
    assert_eq!(
        (event.event, event.reason.as_str(), event.ip),
        (EventKind::Marked, "new disk", Some(serving.ip))
    );
    let (unmarked, _) = marked.apply(&space(), &[Change { revision: 4, put: None, ..mark }]);
    assert_eq!(events(&marked, &unmarked, NOW)[0].event, EventKind::Unmarked);
}

#[test]
fn the_time_of_a_death_stands_in_both_of_its_events() {
    let (serving, lost) = (node(1, 1, NodeState::Serving), node(1, 1, NodeState::Lost));
    let (before, _) = Roster::default().apply(&space(), &[put(2, &serving)]);
    let (found, _) = before.apply(&space(), &[put(3, &lost)]);
    let (removed, _) = found.apply(&space(), &[gone(4, &lost)]);
    for (from, to, at) in [(&before, &found, SINCE), (&found, &removed, NOW)] {
        let [event] = &events(from, to, NOW)[..] else { panic!() };
        assert_eq!(
            (event.took_ms, event.reason.as_str(), event.at.as_str()),
            (Some(12), "closed and refused", at)
        );
        assert!(event.is_presentable());
        let read: Event = serde_json::from_str(&serde_json::to_string(event).unwrap()).unwrap();
        assert_eq!(read, *event);
    }
}

#[test]
fn what_is_no_text_for_people_is_not_presentable() {
    let (before, after) =
        (Roster::default(), Roster::default().apply(&space(), &[put(2, &node(1, 1, NodeState::Serving))]).0);
    let good = events(&before, &after, NOW).remove(0);
    assert!(good.is_presentable());
    for bad in [
        Event { node: "<b>".into(), ..good.clone() },
        Event { instance: "x".into(), ..good.clone() },
        Event { reason: "\u{202e}".into(), ..good.clone() },
        Event { at: "yesterday".into(), ..good.clone() },
    ] {
        assert!(!bad.is_presentable(), "{bad:?}");
    }
}

proptest! {
    /// Whatever happens in whatever order: each node's events alternate as a life does, and those who are there at the
    /// end are those who joined and did not go.
    #[test]
    fn the_events_of_a_node_are_a_life(steps in prop::collection::vec((0..4_u8, 0..4_u8), 1..60)) {
        let mut roster = Roster::default();
        let mut listed = std::collections::BTreeSet::new();
        for (revision, (number, what)) in (2..).zip(steps) {
            let state = [NodeState::Serving, NodeState::Draining, NodeState::Lost];
            let change = match state.get(usize::from(what)) {
                Some(state) => put(revision, &node(number, number + 1, *state)),
                None => gone(revision, &node(number, number + 1, NodeState::Serving)),
            };
            let (next, _) = roster.apply(&space(), &[change]);
            for event in events(&roster, &next, NOW) {
                prop_assert_eq!(event.revision, revision);
                match event.event {
                    EventKind::Joined | EventKind::Draining | EventKind::Lost => { listed.insert(event.node); }
                    EventKind::Left | EventKind::Reaped | EventKind::Expired => {
                        prop_assert!(listed.remove(&event.node));
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            roster = next;
        }
        let there: std::collections::BTreeSet<String> = roster.nodes().map(|node| node.name.clone()).collect();
        prop_assert_eq!(there, listed);
    }
}
