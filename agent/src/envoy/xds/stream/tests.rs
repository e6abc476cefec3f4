//! The rules one by one; random sequences are in `properties`.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::rpc;

use super::*;
use crate::envoy::snapshot::Snapshot;
use ResourceType::{Clusters, Endpoints, Listeners, Routes};

fn published(versions: [&str; 4], applied: i64) -> Arc<Published> {
    Arc::new(Published { snapshot: Arc::new(Snapshot::sketch(versions)), applied, epoch: 1 })
}

fn request(kind: ResourceType, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "envoy-1".to_owned(), ..Default::default() }),
        type_url: kind.type_url().to_owned(),
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    }
}

fn nack(kind: ResourceType, names: &[&str], nonce: &str) -> DiscoveryRequest {
    let error = rpc::Status { message: "bad \u{1b}[31m config".to_owned(), ..Default::default() };
    DiscoveryRequest { error_detail: Some(error), ..request(kind, names, nonce) }
}

/// A stream and the requests a well-behaved Envoy would make.
struct Dialogue {
    stream: Stream,
}

impl Dialogue {
    fn new(versions: [&str; 4], applied: i64) -> Self {
        Self { stream: Stream::new(published(versions, applied)) }
    }

    fn ask(&mut self, kind: ResourceType, names: &[&str]) {
        assert_eq!(self.stream.receive(request(kind, names, "")), Ok(Reception::Subscribed(kind)));
    }

    fn pushed(&mut self, kind: ResourceType) -> DiscoveryResponse {
        let (pushed, response) = self.stream.next_push().expect("a push");
        assert_eq!(pushed, kind);
        response
    }

    fn ack(&mut self, names: &[&str], response: &DiscoveryResponse) {
        let kind = ResourceType::from_type_url(&response.type_url).unwrap();
        let ack = request(kind, names, &response.nonce);
        assert_eq!(self.stream.receive(ack), Ok(Reception::Acked(kind)));
    }

    fn quiet(&mut self) {
        assert_eq!(self.stream.next_push(), None);
    }

    /// Subscribed to endpoints, which are acknowledged.
    fn settled(applied: i64) -> Self {
        let mut dialogue = Self::new(["c", "e", "l", "r"], applied);
        dialogue.ask(Endpoints, &["nginx"]);
        let push = dialogue.pushed(Endpoints);
        dialogue.ack(&["nginx"], &push);
        dialogue
    }
}

#[test]
fn all_kinds_are_answered_in_their_order() {
    let mut dialogue = Dialogue::new(["c", "e", "l", "r"], 1);
    for (kind, names) in [(Routes, &["edge"][..]), (Listeners, &[]), (Endpoints, &["nginx"]), (Clusters, &[])]
    {
        dialogue.ask(kind, names);
    }
    for kind in ResourceType::ALL {
        let push = dialogue.pushed(kind);
        assert_eq!(push.resources.len(), 1);
    }
    dialogue.quiet();
}

#[test]
fn the_first_request_needs_a_node_and_later_ones_do_not() {
    let mut stream = Stream::new(published(["c", "e", "l", "r"], 1));
    let bare = DiscoveryRequest { node: None, ..request(Clusters, &[], "") };
    assert_eq!(stream.receive(bare.clone()), Err(Refusal::NoNode));
    for bad in ["a b", "<script>", "ä", &"x".repeat(65)] {
        let node = Some(Node { id: bad.to_owned(), ..Default::default() });
        assert_eq!(stream.receive(DiscoveryRequest { node, ..bare.clone() }), Err(Refusal::BadNode));
    }
    assert!(stream.receive(request(Clusters, &[], "")).is_ok());
    assert!(stream.receive(DiscoveryRequest { type_url: Listeners.type_url().to_owned(), ..bare }).is_ok());
    assert_eq!(stream.envoy(), Some("envoy-1"));
}

#[test]
fn a_request_without_a_type_ends_the_stream_and_an_unknown_one_does_not() {
    let mut dialogue = Dialogue::settled(1);
    let v2 = "type.googleapis.com/envoy.api.v2.Cluster";
    let unknown = DiscoveryRequest { type_url: v2.to_owned(), ..request(Clusters, &[], "") };
    assert_eq!(dialogue.stream.receive(unknown), Ok(Reception::Unknown(v2.to_owned())));
    dialogue.quiet();
    let none = DiscoveryRequest { type_url: String::new(), ..request(Clusters, &[], "") };
    assert_eq!(dialogue.stream.receive(none), Err(Refusal::NoType));
}

#[test]
fn a_stale_or_foreign_nonce_changes_nothing() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.publish(published(["c", "e2", "l", "r"], 2));
    let push = dialogue.pushed(Endpoints);
    for nonce in ["1", "77", "another leader's"] {
        // Not even its names: the client will send them again with the nonce it is about to read.
        let stale = dialogue.stream.receive(request(Endpoints, &[], nonce));
        assert_eq!(stale, Ok(Reception::Stale(Endpoints)));
        dialogue.quiet();
    }
    dialogue.ack(&["nginx"], &push);
    assert_eq!(dialogue.stream.through(), 2);
}

#[test]
fn a_flood_of_acks_is_answered_by_nothing() {
    let mut dialogue = Dialogue::settled(1);
    for _ in 0..1_000 {
        assert!(dialogue.stream.receive(request(Endpoints, &["nginx"], "1")).is_ok());
        dialogue.quiet();
    }
}

#[test]
fn a_rejected_version_waits_for_the_next_change() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.publish(published(["c", "bad", "l", "r"], 2));
    let push = dialogue.pushed(Endpoints);
    let Ok(Reception::Rejected(rejection)) =
        dialogue.stream.receive(nack(Endpoints, &["nginx"], &push.nonce))
    else {
        panic!("a rejection")
    };
    assert_eq!((rejection.kind, rejection.version.as_str()), (Endpoints, "bad"));
    assert!(rejection.detail.is_ascii() && !rejection.detail.contains('\u{1b}'), "{}", rejection.detail);
    for _ in 0..10 {
        assert!(dialogue.stream.receive(nack(Endpoints, &["nginx"], &push.nonce)).is_ok());
        assert!(dialogue.stream.receive(nack(Endpoints, &["nginx"], "")).is_ok());
        dialogue.stream.publish(published(["c", "bad", "l", "r"], 3));
        dialogue.quiet();
    }
    assert_eq!(dialogue.stream.through(), 1, "what is in force is not what was rejected");
    assert_eq!(dialogue.stream.last_rejection(), Some(&rejection));

    dialogue.stream.publish(published(["c", "good", "l", "r"], 4));
    let push = dialogue.pushed(Endpoints);
    dialogue.ack(&["nginx"], &push);
    assert_eq!(dialogue.stream.through(), 4);
}

#[test]
fn back_to_the_version_before_a_rejected_one_is_pushed_again() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.publish(published(["c", "bad", "l", "r"], 2));
    let push = dialogue.pushed(Endpoints);
    dialogue.stream.receive(nack(Endpoints, &["nginx"], &push.nonce)).unwrap();
    dialogue.stream.publish(published(["c", "e", "l", "r"], 3));
    let push = dialogue.pushed(Endpoints);
    assert_eq!(dialogue.stream.through(), 1);
    dialogue.ack(&["nginx"], &push);
    assert_eq!(dialogue.stream.through(), 3);
}

#[test]
fn changes_coalesce_while_a_push_is_outstanding() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.publish(published(["c", "e2", "l", "r"], 2));
    let push = dialogue.pushed(Endpoints);
    for (version, applied) in [("e3", 3), ("e4", 4), ("e5", 5)] {
        dialogue.stream.publish(published(["c", version, "l", "r"], applied));
        dialogue.quiet();
    }
    dialogue.ack(&["nginx"], &push);
    let push = dialogue.pushed(Endpoints);
    assert_eq!(push.version_info, "e5");
    assert_eq!(dialogue.stream.through(), 1);
    dialogue.ack(&["nginx"], &push);
    dialogue.quiet();
    assert_eq!(dialogue.stream.through(), 5);
}

#[test]
fn through_moves_without_a_push_when_the_endpoints_did_not_change() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.publish(published(["c", "e", "l", "r"], 9));
    dialogue.quiet();
    assert_eq!(dialogue.stream.through(), 9);
}

#[test]
fn through_stays_while_a_push_of_other_endpoints_is_outstanding() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.publish(published(["c", "e2", "l", "r"], 2));
    let away = dialogue.pushed(Endpoints);
    dialogue.stream.publish(published(["c", "e", "l", "r"], 3));
    dialogue.quiet();
    assert_eq!(dialogue.stream.through(), 1, "Envoy may be applying e2 at this moment");
    dialogue.ack(&["nginx"], &away);
    let back = dialogue.pushed(Endpoints);
    assert_eq!(dialogue.stream.through(), 1);
    dialogue.ack(&["nginx"], &back);
    assert_eq!(dialogue.stream.through(), 3);
}

#[test]
fn through_stays_0_without_a_subscription_to_the_endpoints() {
    let mut dialogue = Dialogue::new(["c", "e", "l", "r"], 5);
    dialogue.ask(Clusters, &[]);
    let push = dialogue.pushed(Clusters);
    dialogue.ack(&[], &push);
    dialogue.ask(Endpoints, &["another"]);
    let push = dialogue.pushed(Endpoints);
    assert!(push.resources.is_empty());
    dialogue.ack(&["another"], &push);
    assert_eq!(dialogue.stream.through(), 0);
}

#[test]
fn another_history_starts_through_again() {
    let mut dialogue = Dialogue::settled(40);
    assert_eq!(dialogue.stream.through(), 40);
    let other = Published { epoch: 2, ..(*published(["c", "e2", "l", "r"], 60)).clone() };
    dialogue.stream.publish(Arc::new(other));
    assert_eq!(dialogue.stream.through(), 0, "40 is a revision of a registry that is no more");
}

#[test]
fn a_reconnect_is_answered_although_it_carries_the_current_version() {
    let mut stream = Stream::new(published(["c", "e", "l", "r"], 7));
    let known = DiscoveryRequest { version_info: "e".to_owned(), ..request(Endpoints, &["nginx"], "") };
    stream.receive(known).unwrap();
    assert_eq!(stream.through(), 0, "a version is a claim, an ACK is a fact");
    let (_, push) = stream.next_push().unwrap();
    assert_eq!(push.version_info, "e");
    stream.receive(request(Endpoints, &["nginx"], &push.nonce)).unwrap();
    assert_eq!(stream.through(), 7);
}

#[test]
fn a_first_request_with_a_foreign_nonce_is_answered() {
    let mut stream = Stream::new(published(["c", "e", "l", "r"], 7));
    stream.receive(request(Endpoints, &["nginx"], "from another stream")).unwrap();
    assert!(stream.next_push().is_some());
}

#[test]
fn asking_again_with_an_empty_nonce_is_answered_once() {
    let mut dialogue = Dialogue::settled(1);
    for _ in 0..3 {
        dialogue.ask(Endpoints, &["nginx"]);
    }
    let push = dialogue.pushed(Endpoints);
    dialogue.ask(Endpoints, &["nginx"]);
    dialogue.quiet();
    dialogue.ack(&["nginx"], &push);
    dialogue.quiet();
}

#[test]
fn names_follow_the_protocol() {
    let mut dialogue = Dialogue::new(["c", "e", "l", "r"], 1);
    // Nothing named: everything, for clusters and listeners only.
    dialogue.ask(Endpoints, &[]);
    dialogue.quiet();
    dialogue.ask(Clusters, &[]);
    let all = dialogue.pushed(Clusters);
    assert_eq!(all.resources.len(), 1);
    dialogue.ack(&[], &all);
    dialogue.stream.publish(published(["c2", "e", "l", "r"], 2));
    let still_all = dialogue.pushed(Clusters);
    assert_eq!(still_all.resources.len(), 1);
    // Explicit names end the wildcard; none after them is an unsubscription.
    dialogue.ack(&["nginx"], &still_all);
    dialogue.quiet();
    dialogue.stream.receive(request(Clusters, &[], &still_all.nonce)).unwrap();
    dialogue.stream.publish(published(["c3", "e", "l", "r"], 3));
    dialogue.quiet();
    // A star is all again, and owed.
    dialogue.stream.receive(request(Clusters, &["*"], &still_all.nonce)).unwrap();
    let star = dialogue.pushed(Clusters);
    assert_eq!((star.version_info.as_str(), star.resources.len()), ("c3", 1));
    // None after a star is none.
    dialogue.ack(&[], &star);
    dialogue.stream.publish(published(["c4", "e", "l", "r"], 4));
    dialogue.quiet();
}

#[test]
fn a_new_name_is_answered_and_a_dropped_one_is_not() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.receive(request(Endpoints, &["nginx", "more"], "1")).unwrap();
    let push = dialogue.pushed(Endpoints);
    assert_eq!(push.resources.len(), 1, "unknown names are left out, known ones stay");
    dialogue.ack(&["nginx"], &push);
    dialogue.quiet();
}

#[test]
fn nothing_made_for_a_dropped_subscription_is_sent() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.stream.publish(published(["c", "e2", "l", "r"], 2));
    dialogue.stream.receive(request(Endpoints, &[], "1")).unwrap();
    dialogue.quiet();
    assert_eq!(dialogue.stream.through(), 1);
    dialogue.stream.receive(request(Endpoints, &["nginx"], "1")).unwrap();
    assert_eq!(dialogue.pushed(Endpoints).version_info, "e2");
}

#[test]
fn endpoints_follow_every_push_of_clusters() {
    let mut dialogue = Dialogue::settled(1);
    dialogue.ask(Clusters, &[]);
    let clusters = dialogue.pushed(Clusters);
    let endpoints = dialogue.pushed(Endpoints);
    assert_eq!(endpoints.version_info, "e");
    dialogue.ack(&["nginx"], &endpoints);
    dialogue.ack(&[], &clusters);
    dialogue.stream.publish(published(["c2", "e", "l", "r"], 2));
    dialogue.pushed(Clusters);
    // The clusters' ACK may wait for these, so these do not wait for it.
    dialogue.pushed(Endpoints);
    dialogue.quiet();
}

#[test]
fn listeners_and_routes_wait_for_what_they_refer_to() {
    let mut dialogue = Dialogue::new(["c", "e", "l", "r"], 1);
    for (kind, names) in [(Clusters, &[][..]), (Endpoints, &["nginx"]), (Listeners, &[]), (Routes, &["edge"])]
    {
        dialogue.ask(kind, names);
    }
    let first = ResourceType::ALL.map(|kind| dialogue.pushed(kind));
    for (push, names) in first[1..].iter().zip([&["nginx"][..], &[], &["edge"]]) {
        dialogue.ack(names, push);
    }
    dialogue.stream.publish(published(["c2", "e", "l2", "r2"], 2));
    dialogue.quiet();
    dialogue.ack(&[], &first[0]);
    for kind in ResourceType::ALL {
        dialogue.pushed(kind);
    }
    dialogue.quiet();
}

#[test]
fn names_are_bounded() {
    let mut dialogue = Dialogue::settled(1);
    let many = DiscoveryRequest {
        resource_names: (0..100_000).map(|i| i.to_string()).collect(),
        ..request(Endpoints, &[], "1")
    };
    assert_eq!(dialogue.stream.receive(many), Err(Refusal::TooManyNames(100_000)));
    let long =
        DiscoveryRequest { resource_names: vec!["x".repeat(1_000_000)], ..request(Endpoints, &[], "1") };
    assert!(dialogue.stream.receive(long).is_err());
}
