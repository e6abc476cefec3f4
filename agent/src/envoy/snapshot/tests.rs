use std::net::{Ipv4Addr, SocketAddrV4};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, route};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::envoy::resources::route::RETRIES;
use crate::fleet::{Change, KeySpace, Node, NodeState, Ports, Put, node_value};

fn settings() -> EdgeSettings {
    EdgeSettings {
        listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 8080),
        prefix: "/muster".to_owned(),
        log_from: Some(400),
        trusted_proxies: 0,
        tls: None,
    }
}

fn entry(last: u8, state: NodeState, revision: i64) -> Change {
    let node = Node {
        name: format!("node-{last}"),
        instance: format!("{last:016x}"),
        ip: Ipv4Addr::new(10, 0, 0, last),
        ports: Ports { http: 8080, control: 18000, metrics: 9464 },
        state,
        reason: String::new(),
        since: "2026-01-01T00:00:00Z".to_owned(),
        version: "1".to_owned(),
        took_ms: None,
        lease: revision,
        create_revision: revision,
        mod_revision: revision,
    };
    let space = KeySpace::new("/muster", Vec::new());
    let put = Put { value: node_value(&node), create_revision: revision, lease: revision };
    Change { key: space.node_key(&node.name, &node.instance), revision, put: Some(put) }
}

fn roster(entries: &[Change]) -> Roster {
    let (roster, rejections) =
        Roster::from_list(&KeySpace::new("/muster", Vec::new()), 1, entries, 1_000, None);
    assert!(rejections.is_empty(), "{rejections:?}");
    roster
}

fn decoded<T: Message + Default>(snapshot: &Snapshot, kind: ResourceType) -> T {
    let resource = &snapshot.resources(kind)[0];
    assert_eq!(resource.body.type_url, kind.type_url());
    T::decode(resource.body.value.as_slice()).unwrap()
}

fn addresses(snapshot: &Snapshot) -> Vec<String> {
    let assignment: ClusterLoadAssignment = decoded(snapshot, ResourceType::Endpoints);
    let endpoints = assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints);
    endpoints
        .map(|endpoint| {
            let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else { panic!() };
            format!("{:?}", endpoint.address.unwrap().address.unwrap())
        })
        .collect()
}

#[test]
fn only_serving_nodes_are_endpoints_in_numeric_order() {
    let roster = roster(&[
        entry(10, NodeState::Serving, 3),
        entry(9, NodeState::Serving, 4),
        entry(8, NodeState::Draining, 5),
        entry(7, NodeState::Lost, 6),
    ]);
    let shown = addresses(&Snapshot::of(&roster, &settings()));
    assert_eq!(shown.len(), 2);
    assert!(shown[0].contains("\"10.0.0.9\"") && shown[0].contains("8080"), "{shown:?}");
    assert!(shown[1].contains("\"10.0.0.10\""), "{shown:?}");
}

#[test]
fn a_change_of_endpoints_changes_no_other_version() {
    let one = Snapshot::of(&roster(&[entry(1, NodeState::Serving, 3)]), &settings());
    let two = Snapshot::of(
        &roster(&[entry(1, NodeState::Serving, 3), entry(2, NodeState::Serving, 4)]),
        &settings(),
    );
    for kind in ResourceType::ALL {
        assert_eq!(one.version(kind) != two.version(kind), kind == ResourceType::Endpoints, "{kind:?}");
    }
}

#[test]
fn without_nodes_nobody_waits_for_one() {
    let routed = |roster: &Roster| {
        let routes: RouteConfiguration = decoded(&Snapshot::of(roster, &settings()), ResourceType::Routes);
        format!("{:?}", routes.virtual_hosts[0].routes.last_chunk::<2>().unwrap()[0].action)
    };
    assert!(routed(&Roster::default()).contains("Cluster(\"nginx\")"));
    assert!(routed(&roster(&[entry(1, NodeState::Draining, 3)])).contains("Cluster(\"nginx\")"));
    assert!(routed(&roster(&[entry(1, NodeState::Serving, 3)])).contains("Cluster(\"attempts\")"));
}

#[test]
fn each_attempt_but_the_last_goes_to_the_nodes() {
    let snapshot = Snapshot::of(&Roster::default(), &settings());
    let names: Vec<&str> =
        snapshot.resources(ResourceType::Clusters).iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!(names, ["nginx", "attempts", "deadline"]);
    let attempts =
        Cluster::decode(snapshot.resources(ResourceType::Clusters)[1].body.value.as_slice()).unwrap();
    let text = String::from_utf8_lossy(&attempts.encode_to_vec()).into_owned();
    assert_eq!((text.matches("nginx").count(), text.matches("deadline").count()), (RETRIES as usize, 1));
}

#[test]
fn only_routes_for_reading_repeat_requests() {
    let routes: RouteConfiguration =
        decoded(&Snapshot::of(&Roster::default(), &settings()), ResourceType::Routes);
    let repeating: Vec<_> = routes.virtual_hosts[0]
        .routes
        .iter()
        .filter(|route| matches!(&route.action, Some(route::Action::Route(_))))
        .map(|route| (route.name.as_str(), route.r#match.as_ref().unwrap().headers.len()))
        .collect();
    assert_eq!(repeating, [("well-known", 2), ("reading", 1)]);
}

#[test]
fn no_map_has_a_second_entry() {
    let cluster: Cluster = decoded(&Snapshot::of(&Roster::default(), &settings()), ResourceType::Clusters);
    assert_eq!(cluster.typed_extension_protocol_options.len(), 1);
}

#[test]
fn the_cluster_without_nodes_is_an_empty_assignment_and_not_none() {
    let snapshot = Snapshot::of(&Roster::default(), &settings());
    assert_eq!(snapshot.resources(ResourceType::Endpoints).len(), 1);
    assert!(addresses(&snapshot).is_empty());
}

#[test]
fn type_urls_are_those_of_the_messages() {
    for kind in ResourceType::ALL {
        assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
        let snapshot = Snapshot::of(&Roster::default(), &settings());
        assert_eq!(snapshot.resources(kind)[0].body.type_url, kind.type_url());
    }
    assert_eq!(ResourceType::from_type_url("type.googleapis.com/envoy.api.v2.Cluster"), None);
}

fn fleets() -> impl Strategy<Value = Vec<(u8, NodeState)>> {
    let state = prop_oneof![Just(NodeState::Serving), Just(NodeState::Draining), Just(NodeState::Lost)];
    proptest::collection::btree_map(1..=250_u8, state, 0..20).prop_map(|fleet| fleet.into_iter().collect())
}

proptest! {
    #[test]
    fn equal_rosters_give_equal_bytes(fleet in fleets(), rotation in 0..20_usize) {
        let mut entries: Vec<Change> =
            fleet.iter().map(|&(last, state)| entry(last, state, i64::from(last))).collect();
        let one = Snapshot::of(&roster(&entries), &settings());
        let turns = rotation % entries.len().max(1);
        entries.rotate_left(turns);
        let other = Snapshot::of(&roster(&entries), &settings());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn versions_tell_endpoints_apart(one in fleets(), other in fleets()) {
        let snapshot = |fleet: &[(u8, NodeState)]| {
            let entries: Vec<_> = fleet.iter().map(|&(last, state)| entry(last, state, 9)).collect();
            Snapshot::of(&roster(&entries), &settings())
        };
        let (one, other) = (snapshot(&one), snapshot(&other));
        let same = one.resources(ResourceType::Endpoints) == other.resources(ResourceType::Endpoints);
        prop_assert_eq!(one.digest() == other.digest(), same);
    }
}
