//! TLS for the public: which versions, which protocols inside, and where the certificate is.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, ConfigSource, PathConfigSource, TransportSocket, config_source::ConfigSourceSpecifier,
    transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3::FilterChain;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters, tls_parameters::TlsProtocol,
};
use envoy_types::util::pack_any;

use super::names::EDGE;
use super::pb::duration;

/// Time for the handshake: a client that only opens connections holds none of them longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 for clients that speak it; browsers do over TLS only.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

const TLS: &str = "envoy.transport_sockets.tls";

/// A chain without filters. `secret` is a path where Envoy is: only a certificate that is named by a file of its own is
/// read again when it was renewed.
pub(super) fn filter_chain(secret: &str) -> FilterChain {
    let certificate = SdsSecretConfig {
        name: EDGE.to_owned(),
        sds_config: Some(ConfigSource {
            // The listener waits for its certificate, however long that takes. With one that cannot be used it opens
            // and refuses every handshake.
            initial_fetch_timeout: duration(Duration::ZERO),
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
                path: secret.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }),
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            // Ciphers are Envoy's own choice, which for 1.2 has only those with forward secrecy.
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
                tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: vec![certificate],
            alpn_protocols: PROTOCOLS.map(str::to_owned).into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    FilterChain {
        transport_socket: Some(TransportSocket {
            name: TLS.to_owned(),
            config_type: Some(transport_socket::ConfigType::TypedConfig(pack_any(context))),
        }),
        transport_socket_connect_timeout: duration(HANDSHAKE_TIMEOUT),
        ..Default::default()
    }
}
