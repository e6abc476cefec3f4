//! The listener `edge` and its routes: what the public may ask, and how long for.

mod connection;
mod headers;
mod routes;

use std::net::SocketAddrV4;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::util::pack_any;

use super::cluster::BUFFER_BYTES;
use super::wire::{address, uint};
use connection::connection_manager;
pub(super) use routes::routes;

/// Name of the listener and of its route configuration.
pub(super) const EDGE: &str = "edge";

/// What the operator may choose about the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSettings {
    /// The address Envoy is told to open.
    pub listen: SocketAddrV4,
    /// The fleet's prefix, by which every node names its fleet to Envoy's health check.
    pub prefix: String,
}

const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// The listener. It comes from the leader and not from the bootstrap, so that an Envoy without a roster opens no
/// public port.
pub(super) fn listener(settings: &EdgeSettings) -> Listener {
    Listener {
        name: EDGE.to_owned(),
        address: address(settings.listen),
        per_connection_buffer_limit_bytes: uint(BUFFER_BYTES),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: CONNECTION_MANAGER.to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(connection_manager()))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}
