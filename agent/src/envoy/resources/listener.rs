//! The listeners of the edge: what is open to the public. Without TLS there is `edge`; with it `edge-tls` takes its place,
//! and `edge` sends people there.

use std::net::SocketAddrV4;

use envoy_types::pb::envoy::config::core::v3::{SocketOption, TrafficDirection, socket_option};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
};
use envoy_types::util::pack_any;

use super::cluster::BUFFER_BYTES;
use super::http_connection_manager::connection_manager;
use super::names::{EDGE, EDGE_TLS};
use super::pb::{address, over_ads, uint};
use super::settings::EdgeSettings;
use super::{route, tls};

/// As Linux numbers them, on every architecture.
const IPPROTO_TCP: i64 = 6;
const TCP_NOTSENT_LOWAT: i64 = 25;
const UNSENT_BYTES: i64 = 64 * 1024;

const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// They come from the leader and not from the bootstrap, so that an Envoy without a roster opens no public port.
pub(in crate::envoy) fn listeners(settings: &EdgeSettings) -> Vec<Listener> {
    let nodes = RouteSpecifier::Rds(Rds { config_source: over_ads(), route_config_name: EDGE.to_owned() });
    match &settings.tls {
        None => vec![listener(EDGE, settings, settings.listen, nodes, FilterChain::default())],
        Some(tls) => {
            let elsewhere = RouteSpecifier::RouteConfig(route::redirects(tls.port));
            vec![
                listener(EDGE, settings, settings.listen, elsewhere, FilterChain::default()),
                listener(EDGE_TLS, settings, tls.listen, nodes, tls::filter_chain(&tls.secret)),
            ]
        }
    }
}

fn listener(
    name: &str,
    settings: &EdgeSettings,
    listen: SocketAddrV4,
    routes: RouteSpecifier,
    chain: FilterChain,
) -> Listener {
    let connections = connection_manager(name, routes, settings);
    Listener {
        name: name.to_owned(),
        address: address(listen),
        per_connection_buffer_limit_bytes: uint(BUFFER_BYTES),
        traffic_direction: TrafficDirection::Inbound.into(),
        socket_options: vec![unsent_bytes()],
        filter_chains: vec![FilterChain { filters: vec![manager(connections)], ..chain }],
        ..Default::default()
    }
}

/// The only network filter there is.
pub(super) fn manager(connections: HttpConnectionManager) -> Filter {
    Filter {
        name: CONNECTION_MANAGER.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack_any(connections))),
    }
}

/// Most bytes that the kernel holds for a client without having sent them. With megabytes, as it takes by itself, Envoy
/// would not see for half a minute that a slow client goes on reading, and 2,500 of them would have gigabytes.
fn unsent_bytes() -> SocketOption {
    SocketOption {
        description: "TCP_NOTSENT_LOWAT".to_owned(),
        level: IPPROTO_TCP,
        name: TCP_NOTSENT_LOWAT,
        value: Some(socket_option::Value::IntValue(UNSENT_BYTES)),
        state: socket_option::SocketState::StateListening.into(),
        ..Default::default()
    }
}
