//! The cluster `nginx` and its endpoints: how Envoy finds, tests and gives up a node.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, LoadBalancingPolicy, OutlierDetection, circuit_breakers::Thresholds, cluster,
    load_balancing_policy,
};
use envoy_types::pb::envoy::config::core::v3::{self as core, HealthCheck, health_check};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::{
    LeastRequest, least_request::SelectionMethod,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    },
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::util::pack_any;

use super::names::CLUSTER;
use super::pb::{address, boolean, duration, extension, over_ads, percent, uint};

/// A dead host on a live bridge is silent for 3 s; a live one on the same network answers a SYN within 1 ms. Far
/// below the per-try timeout's 150 ms, so that a failed connect still leaves its retry a chance to be first.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);

/// Panic, that is routing to all, only while no node is healthy: a machine too busy to answer in time has then ejected
/// its whole fleet, and asking it late is better than 503. With 0 a single node that is late once answers 503; with the
/// default of 50 a third of the requests would go back to the dead as soon as two nodes of three are gone.
const PANIC_THRESHOLD_PERCENT: f64 = 1.0;

/// nginx closes idle connections after 75 s. Envoy closes first, and long before, or an idle close races a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Per connection and direction. The pages are small: more only costs memory under many slow readers.
pub(super) const BUFFER_BYTES: u32 = 32 * 1024;

/// nginx answers `/healthz` in under 1 ms; a machine under load still does within this.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(250);

/// Also without traffic and while unhealthy: a frozen node is out, and a thawed one back, within half a second.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// Spreads the first checks of many nodes that came in one update. Short, because a node is routed to only after its
/// first passed check.
const HEALTH_INITIAL_JITTER: Duration = Duration::from_millis(50);

/// One check decides, both ways: retries and hedging forgive a wrong verdict, nothing forgives a slow one.
const HEALTH_THRESHOLD: u32 = 1;

/// Served by nginx itself, so it tells of the process that answers users and not of the agent.
pub(super) const HEALTH_PATH: &str = "/healthz";

/// One refused, reset or timed out connect ejects: the request is retried elsewhere, and later ones avoid the host.
const LOCAL_ORIGIN_FAILURES: u32 = 1;

const EJECTION_SCAN: Duration = Duration::from_millis(500);
/// Time out of rotation times the number of ejections; a passed health check brings a host back earlier.
const EJECTION_BASE: Duration = Duration::from_secs(2);
/// Bounds the product above, so that a restarted node is not punished for its past.
const EJECTION_MAX: Duration = Duration::from_secs(5);
/// All but none may be ejected. Envoy's default of 10 % never ejects a second host of a small fleet.
const EJECTION_MAX_PERCENT: u32 = 100;
/// Verdicts of a counted kind are carried out always; statistical ones never, a handful of nodes is no statistic.
const ENFORCED: u32 = 100;
const NOT_ENFORCED: u32 = 0;

/// Connections, pending and active requests: four times Envoy's default, or a burst after a kill is turned away.
const MAX_IN_FLIGHT: u32 = 4096;
/// The default of 3 failed 589 requests at one kill under 400 requests a second; these are as many as may run.
const MAX_RETRIES: u32 = 1024;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const LEAST_REQUEST: &str = "envoy.load_balancing_policies.least_request";

/// The cluster: the same for as long as the fleet lives, so that every agent sends the same bytes. A changed cluster is
/// warmed anew, which holds its ACK for up to 15 s.
pub(in crate::envoy) fn cluster(prefix: &str) -> Cluster {
    Cluster {
        name: CLUSTER.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: over_ads(),
            service_name: CLUSTER.to_owned(),
        }),
        connect_timeout: duration(CONNECT_TIMEOUT),
        per_connection_buffer_limit_bytes: uint(BUFFER_BYTES),
        load_balancing_policy: Some(load_balancing()),
        common_lb_config: Some(cluster::CommonLbConfig {
            healthy_panic_threshold: percent(PANIC_THRESHOLD_PERCENT),
            // Health changes count at once. Merging them for the default of 1 s held a joining node back for as long.
            update_merge_window: duration(Duration::ZERO),
            ..Default::default()
        }),
        // A drain is a removal from EDS. Without this Envoy keeps routing to a removed host that passes its checks.
        ignore_health_on_host_removal: true,
        health_checks: vec![health_check(prefix)],
        outlier_detection: Some(outlier_detection()),
        circuit_breakers: Some(circuit_breakers()),
        typed_extension_protocol_options: HashMap::from([(
            HTTP_OPTIONS.to_owned(),
            pack_any(http_options()),
        )]),
        ..Default::default()
    }
}

/// The endpoints, in the order given: callers pass them sorted, so that equal rosters give equal bytes.
pub(in crate::envoy) fn load_assignment(endpoints: &[SocketAddrV4]) -> ClusterLoadAssignment {
    load_assignment_of(CLUSTER, endpoints)
}

pub(super) fn load_assignment_of(cluster: &str, endpoints: &[SocketAddrV4]) -> ClusterLoadAssignment {
    let lb_endpoints = endpoints.iter().map(|&endpoint| LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: address(endpoint),
            ..Default::default()
        })),
        ..Default::default()
    });
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: lb_endpoints.collect(), ..Default::default() }],
        ..Default::default()
    }
}

/// Fewest requests in flight, of all hosts: a hung host collects requests and so stops getting new ones. Two random
/// choices, the default, would still pick it now and then in a small fleet.
fn load_balancing() -> LoadBalancingPolicy {
    let least_request =
        LeastRequest { selection_method: SelectionMethod::FullScan.into(), ..Default::default() };
    LoadBalancingPolicy {
        policies: vec![load_balancing_policy::Policy {
            typed_extension_config: Some(extension(LEAST_REQUEST, least_request)),
        }],
    }
}

/// A stranger that got a dead node's address may answer 200, too: it is accepted only if it names this fleet.
///
/// Naming the instance as well, by a host name for each endpoint's check, was rejected: Envoy may keep the host of
/// before when one update hands its address on, and would then check the new node for the old one's name.
fn health_check(prefix: &str) -> HealthCheck {
    HealthCheck {
        timeout: duration(HEALTH_TIMEOUT),
        interval: duration(HEALTH_INTERVAL),
        no_traffic_interval: duration(HEALTH_INTERVAL),
        unhealthy_interval: duration(HEALTH_INTERVAL),
        initial_jitter: duration(HEALTH_INITIAL_JITTER),
        unhealthy_threshold: uint(HEALTH_THRESHOLD),
        healthy_threshold: uint(HEALTH_THRESHOLD),
        health_checker: Some(health_check::HealthChecker::HttpHealthCheck(health_check::HttpHealthCheck {
            path: HEALTH_PATH.to_owned(),
            service_name_matcher: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Exact(prefix.to_owned())),
                ..Default::default()
            }),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        // Connection failures and answers are counted apart, so that one failure can be enough for the first kind.
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: uint(LOCAL_ORIGIN_FAILURES),
        enforcing_consecutive_local_origin_failure: uint(ENFORCED),
        // 503 comes from a live nginx that has enough: with all of its kind out, Envoy would route to all in panic. It counts
        // as a failure of a gateway and, by a counter of its own, as one of 5xx.
        enforcing_consecutive_5xx: uint(NOT_ENFORCED),
        enforcing_consecutive_gateway_failure: uint(NOT_ENFORCED),
        enforcing_success_rate: uint(NOT_ENFORCED),
        enforcing_local_origin_success_rate: uint(NOT_ENFORCED),
        interval: duration(EJECTION_SCAN),
        base_ejection_time: duration(EJECTION_BASE),
        max_ejection_time: duration(EJECTION_MAX),
        max_ejection_percent: uint(EJECTION_MAX_PERCENT),
        successful_active_health_check_uneject_host: boolean(true),
        ..Default::default()
    }
}

pub(super) fn circuit_breakers() -> CircuitBreakers {
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: uint(MAX_IN_FLIGHT),
            max_pending_requests: uint(MAX_IN_FLIGHT),
            max_requests: uint(MAX_IN_FLIGHT),
            max_retries: uint(MAX_RETRIES),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn http_options() -> HttpProtocolOptions {
    let http1 = ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default());
    HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: duration(IDLE_TIMEOUT),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(http1),
        })),
        ..Default::default()
    }
}
