//! Short spellings for protobuf's wrapped values.

use std::net::SocketAddrV4;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf;
use envoy_types::util::pack_any;
use prost::Name;

pub(super) fn duration(value: Duration) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds: value.as_secs() as i64, nanos: value.subsec_nanos() as i32 })
}

pub(super) fn uint(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

pub(super) fn boolean(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

pub(super) fn percent(value: f64) -> Option<Percent> {
    Some(Percent { value })
}

/// An extension by name. `message` must hold no map with two entries, or its bytes differ from run to run.
pub(super) fn extension(name: &str, message: impl Name) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig { name: name.to_owned(), typed_config: Some(pack_any(message)) }
}

pub(super) fn address(socket: SocketAddrV4) -> Option<core::Address> {
    let socket = core::SocketAddress {
        address: socket.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(socket.port().into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

/// "Ask for it on the stream you already hold", and wait for as long as it takes: with a fetch timeout Envoy would
/// go on without endpoints or routes, and answer 503 or 404 where a moment's patience gives a page.
pub(super) fn over_ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        initial_fetch_timeout: duration(Duration::ZERO),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    })
}
