//! The longest wait for the first byte of an answer, apart from how long the answer may then take.
//!
//! Envoy has one idle time for both, and one time-out for the whole of an answer: the first long enough for a slow reader
//! would let a request to a silent node hang for minutes, the second would cut large files off. What does tell them apart
//! are attempts, because none is made once an answer has begun. So the last attempt of a request does not go to a node but
//! here: to a listener that answers 504, late. Whichever node answers before it wins.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{DataSource, TrafficDirection, data_source::Specifier};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteConfiguration, VirtualHost, route,
};
use envoy_types::pb::envoy::extensions::clusters::composite::v3::{
    ClusterConfig, cluster_config::ClusterEntry,
};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{
    FaultDelay, fault_delay::FaultDelaySecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
    http_connection_manager::{RouteSpecifier, ServerHeaderTransformation},
    http_filter,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::util::pack_any;

use super::cluster::{circuit_breakers, load_assignment_of};
use super::headers::{OWN_ANSWERS, header};
use super::http_connection_manager::router;
use super::listener::manager;
use super::names::CLUSTER;
use super::pb::{address, duration};
use super::route::{RETRIES, everything};

/// The cluster that requests are routed to: each attempt to the nodes, and the last one here.
pub(super) const ATTEMPTS: &str = "attempts";
const DEADLINE: &str = "deadline";

/// After the last of the others, which is made when the ones before have been silent for 0.15 s each: 5 s in all.
const DELAY: Duration = Duration::from_millis(4_000);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Port of the listener, on loopback: only Envoy itself connects to it. Two Envoys in one network namespace share the port,
/// and either answers.
const PORT: u16 = 18_504;

const COMPOSITE: &str = "envoy.clusters.composite";
const FAULT: &str = "envoy.filters.http.fault";

/// Both clusters that stand beside the one of the nodes.
pub(in crate::envoy) fn clusters(edge: SocketAddrV4) -> [Cluster; 2] {
    let entry = |name: &str| ClusterEntry { name: name.to_owned() };
    let mut entries = vec![entry(CLUSTER); RETRIES as usize];
    entries.push(entry(DEADLINE));
    let attempts = Cluster {
        name: ATTEMPTS.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::ClusterType(
            cluster::CustomClusterType {
                name: COMPOSITE.to_owned(),
                typed_config: Some(pack_any(ClusterConfig { clusters: entries })),
            },
        )),
        lb_policy: cluster::LbPolicy::ClusterProvided.into(),
        // Retries are counted here, requests and connections there.
        circuit_breakers: Some(circuit_breakers()),
        ..Default::default()
    };
    let deadline = Cluster {
        name: DEADLINE.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static.into(),
        )),
        connect_timeout: duration(CONNECT_TIMEOUT),
        load_assignment: Some(load_assignment_of(DEADLINE, &[socket(edge)])),
        circuit_breakers: Some(circuit_breakers()),
        ..Default::default()
    };
    [attempts, deadline]
}

/// Answers 504 to everything, late.
pub(in crate::envoy) fn listener(edge: SocketAddrV4) -> Listener {
    let answer = Route {
        name: DEADLINE.to_owned(),
        r#match: Some(everything()),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: 504,
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString("no node has answered in time\n".to_owned())),
                ..Default::default()
            }),
            ..Default::default()
        })),
        response_headers_to_add: OWN_ANSWERS.map(|(name, value)| header(name, value)).into(),
        ..Default::default()
    };
    let virtual_host = VirtualHost {
        name: DEADLINE.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![answer],
        ..Default::default()
    };
    let connections = HttpConnectionManager {
        stat_prefix: DEADLINE.to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: DEADLINE.to_owned(),
            virtual_hosts: vec![virtual_host],
            ..Default::default()
        })),
        http_filters: vec![
            HttpFilter {
                name: FAULT.to_owned(),
                config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(late()))),
                ..Default::default()
            },
            router(),
        ],
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        ..Default::default()
    };
    Listener {
        name: DEADLINE.to_owned(),
        address: address(socket(edge)),
        traffic_direction: TrafficDirection::Outbound.into(),
        filter_chains: vec![FilterChain { filters: vec![manager(connections)], ..Default::default() }],
        ..Default::default()
    }
}

fn late() -> HttpFault {
    let always = FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() };
    HttpFault {
        delay: Some(FaultDelay {
            percentage: Some(always),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(DELAY).unwrap_or_default())),
        }),
        ..Default::default()
    }
}

/// On the edge's own loopback address, where it has one.
fn socket(edge: SocketAddrV4) -> SocketAddrV4 {
    let ip = if edge.ip().is_loopback() { *edge.ip() } else { Ipv4Addr::LOCALHOST };
    SocketAddrV4::new(ip, PORT)
}
