//! The roster does not depend on how its changes arrived.

use std::net::Ipv4Addr;

use crate::fixture::{candidate_put, delete, life_put, node, node_put, put, roster, space};
use muster::fleet::{Change, Entry, KeySpace, NodeState, Put, RejectionReason, Roster, node_value, parse};
use proptest::prelude::*;
use proptest::sample::Index;

/// What may happen to a small fleet whose nodes share few addresses.
#[derive(Clone, Debug)]
enum Step {
    Join(u32, u8),
    Drain(u32, u8),
    Leave(u32),
    Campaign(u32),
    Resign(u32),
    Mark(u32),
    Unmark(u32),
    Life(u8),
    Garbage(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..6_u32;
    prop_oneof![
        4 => (n.clone(), 0..4_u8).prop_map(|(n, ip)| Step::Join(n, ip)),
        2 => (n.clone(), 0..4_u8).prop_map(|(n, ip)| Step::Drain(n, ip)),
        3 => n.clone().prop_map(Step::Leave),
        2 => n.clone().prop_map(Step::Campaign),
        2 => n.clone().prop_map(Step::Resign),
        1 => n.clone().prop_map(Step::Mark),
        1 => n.clone().prop_map(Step::Unmark),
        1 => (0..3_u8).prop_map(Step::Life),
        1 => n.prop_map(Step::Garbage),
    ]
}

/// A small etcd: transactions of steps become changes and, at the end, a list.
fn history(transactions: &[Vec<Step>]) -> (Vec<Change>, Vec<Change>) {
    let mut changes: Vec<Change> = Vec::new();
    let mut keys = std::collections::BTreeMap::<Vec<u8>, Change>::new();
    for (revision, steps) in (2..).zip(transactions) {
        let mut touched = Vec::new();
        for step in steps {
            let mut change = change(step, revision);
            let there = keys.get(&change.key);
            // etcd refuses to touch a key twice in one transaction, and reports no deletion of what is not there.
            if touched.contains(&change.key) || change.put.is_none() && there.is_none() {
                continue;
            }
            touched.push(change.key.clone());
            match (&mut change.put, there) {
                (Some(put), Some(before)) => {
                    put.create_revision = before.put.as_ref().unwrap().create_revision
                }
                (Some(_), None) => {}
                (None, _) => drop(keys.remove(&change.key)),
            }
            if change.put.is_some() {
                keys.insert(change.key.clone(), change.clone());
            }
            changes.push(change);
        }
    }
    (changes, keys.into_values().collect())
}

fn change(step: &Step, revision: i64) -> Change {
    let at = |n: u32, ip: u8, state| {
        let mut node = node(n);
        node.ip = Ipv4Addr::new(10, 0, 0, ip + 1);
        node.state = state;
        node
    };
    let key = |n| space().node_key(&node(n).name, &node(n).instance);
    let mark = |n| format!("/muster/marks/{}", node(n).name).into_bytes();
    match *step {
        Step::Join(n, ip) => node_put(&at(n, ip, NodeState::Serving), revision),
        Step::Drain(n, ip) => node_put(&at(n, ip, NodeState::Draining), revision),
        Step::Leave(n) => delete(key(n), revision),
        Step::Campaign(n) => candidate_put(&node(n), revision),
        Step::Resign(n) => delete(space().candidate_key(node(n).lease), revision),
        Step::Mark(n) => put(mark(n), br#"{"v":1,"why":"disk"}"#.to_vec(), 0, revision),
        Step::Unmark(n) => delete(mark(n), revision),
        Step::Life(n) => life_put(&format!("life-{n}"), revision),
        Step::Garbage(n) => put(key(n), b"\xef\xbb\xbf{".to_vec(), 7, revision),
    }
}

fn empty() -> Roster {
    Roster::from_list(&space(), 1, &[], 1, None).0
}

proptest! {
    #![proptest_config(crate::fixture::cases(128))]

    #[test]
    fn batching_changes_nothing(
        transactions in prop::collection::vec(prop::collection::vec(step(), 1..4), 0..24),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let (changes, _) = history(&transactions);
        let at_once = empty().apply(&space(), &changes).0;
        let by_revision: Vec<&[Change]> = changes.chunk_by(|a, b| a.revision == b.revision).collect();
        let one_by_one = by_revision.iter().fold(empty(), |roster, part| roster.apply(&space(), part).0);
        prop_assert_eq!(&one_by_one, &at_once);

        // Cut between any two revisions, and tell the part before the cut twice, as a reopened watch may.
        let mut split = empty();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(by_revision.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(by_revision.len());
        for cut in cuts {
            split = split.apply(&space(), &by_revision[..cut].concat()).0;
        }
        prop_assert_eq!(&split, &at_once);
    }

    #[test]
    fn a_list_after_a_watch_equals_the_watch(
        transactions in prop::collection::vec(prop::collection::vec(step(), 1..4), 0..24),
    ) {
        let (changes, list) = history(&transactions);
        let watched = empty().apply(&space(), &changes).0;
        let header = 2 + transactions.len() as i64;
        let mut listed = Roster::from_list(&space(), 1, &list, header, Some(&watched)).0;
        prop_assert!(listed.includes(header));
        listed.read_at = watched.read_at;
        prop_assert_eq!(&listed, &watched);

        let fresh = Roster::from_list(&space(), 1, &list, header, None).0;
        prop_assert_eq!(fresh.rows(), watched.rows());
        prop_assert_eq!(fresh.keys(), watched.keys());
        prop_assert_eq!(fresh.leader(), watched.leader());
    }

    #[test]
    fn a_list_never_reuses_a_revision_for_other_content(
        transactions in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..24),
        missed in any::<Index>(),
    ) {
        // One agent sees everything; another misses the end and lists after a compaction.
        let (changes, list) = history(&transactions);
        let parts: Vec<&[Change]> = changes.chunk_by(|a, b| a.revision == b.revision).collect();
        let seen = parts[..missed.index(parts.len() + 1)].concat();
        let before = empty().apply(&space(), &seen).0;
        let header = 2 + transactions.len() as i64;
        let relisted = Roster::from_list(&space(), 1, &list, header, Some(&before)).0;
        let mut whole = empty();
        let mut shown = vec![whole.clone()];
        for part in parts {
            whole = whole.apply(&space(), part).0;
            shown.push(whole.clone());
        }
        prop_assert!(relisted.revision >= before.revision);
        for other in shown.iter().filter(|other| other.revision == relisted.revision) {
            prop_assert_eq!(crate::fixture::files(other), crate::fixture::files(&relisted));
        }
    }

    #[test]
    fn rows_are_in_numeric_order_one_an_address(
        transactions in prop::collection::vec(prop::collection::vec(step(), 1..4), 0..24),
    ) {
        let roster = empty().apply(&space(), &history(&transactions).0).0;
        let rows = roster.rows();
        prop_assert!(rows.windows(2).all(|pair| pair[0].node.ip < pair[1].node.ip));
        prop_assert!(rows.iter().filter(|row| row.leader).count() <= 1);
        prop_assert!(rows.iter().all(|row| row.routable == (row.state == NodeState::Serving)));
        for row in rows {
            let newest = roster.nodes().filter(|node| node.ip == row.node.ip).map(|node| node.create_revision).max();
            prop_assert_eq!(newest, Some(row.node.create_revision));
        }
    }

    #[test]
    fn no_bytes_panic_or_hide_the_others(key in key(), value in prop::collection::vec(any::<u8>(), 0..200), lease: i64) {
        let before = roster(&[node(1)]);
        prop_assume!(!before.contains(&key));
        let (after, _) = before.apply(&space(), &[put(key.clone(), value, lease, 99)]);
        prop_assert!(after.contains(&key));
        prop_assert_eq!(after.rows().len(), 1);
        let (gone, _) = after.apply(&space(), &[delete(key, 100)]);
        prop_assert_eq!(gone.rows().len(), 1);
        prop_assert_eq!(gone.keys(), before.keys());
    }

    #[test]
    fn a_node_value_reads_back(n in 0..1000_u32, state in prop_oneof![Just(NodeState::Serving), Just(NodeState::Lost)]) {
        let mut written = node(n);
        written.state = state;
        let change = node_put(&written, 9);
        (written.create_revision, written.mod_revision) = (9, 9);
        let read = parse(&space(), &change.key, &change.put.unwrap(), 9);
        prop_assert_eq!(read, Ok(Entry::Node(Box::new(written))));
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop_oneof![".{0,20}", "[a-z/.-]{0,20}", Just(String::new()), "[a-z]{1,8}-[0-9a-f]{16}"];
    let room = prop_oneof!["nodes/", "leader/", "marks/", "life", "life/", "m", ""];
    (room, tail).prop_map(|(room, tail)| format!("/muster/{room}{tail}").into_bytes())
}

#[test]
fn only_the_exact_key_is_the_registrys_life() {
    for key in ["/muster/life/", "/muster/life/x", "/muster/lifetime", "/muster/life/life"] {
        let (roster, _) = empty().apply(&space(), &[put(key.into(), br#"{"v":1,"id":"x"}"#.to_vec(), 0, 2)]);
        assert_eq!(roster.life(), None, "{key}");
    }
}

#[test]
fn a_bad_value_is_named_and_an_address_outside_is_refused() {
    let good = node_value(&node(1));
    let text = String::from_utf8(good.clone()).unwrap();
    let reason = |value: &[u8], lease| {
        let n = node(1);
        let put = Put { value: value.to_vec(), create_revision: 1, lease };
        parse(&space(), &space().node_key(&n.name, &n.instance), &put, 1).unwrap_err().reason
    };
    assert_eq!(reason(&good, 0), RejectionReason::NoLease);
    assert_eq!(reason(&[b' '; 5000], 1), RejectionReason::TooLong);
    for ip in
        ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "169.254.169.254", "240.0.0.1", "0.1.2.3"]
    {
        let value = text.replace("10.89.0.3", ip);
        assert_eq!(reason(value.as_bytes(), 1), RejectionReason::NotAllowed(ip.parse().unwrap()), "{ip}");
    }
    for ip in
        ["", "010.0.0.1", "1.2.3", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "web", "<script>", "10.0.0.1\\n"]
    {
        let value = text.replace("10.89.0.3", ip);
        assert!(matches!(reason(value.as_bytes(), 1), RejectionReason::Unreadable(_)), "{ip}");
    }
    for (from, to) in [
        ("\"v\":1", "\"v\":2"),
        ("\"v\":1", "\"v\":null"),
        ("8080", "0"),
        ("8080", "70000"),
        ("8080", "\"80\""),
        ("\"0.1.0\"", "\"\\u202e\""),
        ("\"0.1.0\"", "\"\\n\""),
        ("serving", "SERVING"),
        ("serving", "\\u001b[2J\\u202e"),
        ("2026-11-20", "yesterday"),
        ("{", "\u{feff}{"),
        ("}", ""),
    ] {
        let value = text.replacen(from, to, 1);
        assert_ne!(value, text, "{from}");
        let reason = reason(value.as_bytes(), 1);
        assert!(matches!(reason, RejectionReason::Unreadable(_)), "{from} -> {to}");
        // It is shown on terminals, and the parser quotes.
        assert!(reason.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{reason:?}");
    }
    let other = text.replace("0000000000000001", "0000000000000002");
    assert_eq!(reason(other.as_bytes(), 1), RejectionReason::Misnamed);
}

#[test]
fn deep_nesting_and_unknown_fields_do_no_harm() {
    let deep = format!(r#"{{"v":1,"x":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
    let n = node(1);
    let key = space().node_key(&n.name, &n.instance);
    let put = |value: String| Put { value: value.into_bytes(), create_revision: 1, lease: 1 };
    assert!(parse(&space(), &key, &put(deep), 1).is_err());
    let text = String::from_utf8(node_value(&n)).unwrap().replacen('{', r#"{"later":{"a":[1]},"#, 1);
    assert!(parse(&space(), &key, &put(text), 1).is_ok());
}

#[test]
fn loopback_is_published_only_where_it_is_allowed() {
    let local = KeySpace::new("/muster", vec!["127.0.0.0/8".parse().unwrap()]);
    assert!(local.allows(Ipv4Addr::new(127, 1, 2, 3)));
    assert!(!local.allows(Ipv4Addr::new(10, 0, 0, 1)));
    assert!(!space().allows(Ipv4Addr::LOCALHOST));
}
