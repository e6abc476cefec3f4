//! How a client is spoken with: what a connection may cost, and which spelling of a request goes on.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    self as core, http_protocol_options::HeadersWithUnderscoresAction,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
    http_connection_manager::{PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation},
    http_filter,
};
use envoy_types::util::pack_any;

use super::names::EDGE;
use super::pb::{boolean, duration, uint};
use super::settings::EdgeSettings;
use super::{access_log, headers};

/// Time to send all headers: a slow sender is cut off with 408.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to send the whole request; a GET has no body worth waiting for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that takes nothing for so long has gone; one that pauses for a minute has not. What Envoy sees of a slow one may
/// be some seconds old, and two minutes are promised. Before an answer begins there is a shorter bound: see
/// [`super::deadline`].
pub(super) const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(125);
/// How long a connection that Envoy has closed may make no progress with the tail of its last answer. With the default of
/// 1 s a client at 10 kB/s lost its tail. Much longer is bad for others: connections that are cut off for a flood stay for so
/// long, and so do those of clients that read Envoy's own answers to their very end and not by their length.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A browser's keep-alive connection between two reads of the page.
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Below Envoy's 60, and what nginx takes too (`large_client_header_buffers`): cookies of other programs on the same
/// host are sent here as well.
const MAX_HEADERS_KB: u32 = 16;
/// A browser sends about 15.
const MAX_HEADERS: u32 = 100;
/// Streams and windows of one HTTP/2 connection, by Envoy's advice for an edge: they bound what one client can hold.
const H2_STREAMS: u32 = 100;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Frames that wait for a client that does not read. All of its streams with a small answer each are 200; Envoy's own
/// bound is 10,000.
const H2_OUTBOUND_FRAMES: u32 = 1000;
/// Of those, answers to its own PING, SETTINGS and resets: a client that sends them and does not read is flooding.
const H2_OUTBOUND_CONTROL_FRAMES: u32 = 200;
/// PRIORITY says nothing to this server; browsers send a handful.
const H2_PRIORITY_FRAMES: u32 = 10;
/// Frames without content that end nothing have no use; one may be a client's mistake.
const H2_EMPTY_FRAMES: u32 = 1;

const ROUTER: &str = "envoy.filters.http.router";

/// What sends a request on.
pub(in crate::envoy) fn router() -> HttpFilter {
    let router = Router {
        // Neither `x-envoy-*` headers to the public nor per-request statistics that are not read: both cost throughput.
        suppress_envoy_headers: true,
        dynamic_stats: boolean(false),
        ..Default::default()
    };
    HttpFilter {
        name: ROUTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(router))),
        ..Default::default()
    }
}

/// HTTP/1.0 is what `ab` and an nginx with a bare `proxy_pass` speak. A request without a host gets this fleet's name. The
/// listener that redirects has no default, because a redirect needs the host: Envoy answers 400 there.
fn http_1(routes: &RouteSpecifier) -> core::Http1ProtocolOptions {
    let host = if matches!(routes, RouteSpecifier::Rds(_)) { EDGE } else { "" };
    core::Http1ProtocolOptions {
        accept_http_10: true,
        default_host_for_http_10: host.to_owned(),
        ..Default::default()
    }
}

/// The same for every listener, but for the name its counters have and where its requests go.
pub(super) fn connection_manager(
    listener: &str,
    routes: RouteSpecifier,
    settings: &EdgeSettings,
) -> HttpConnectionManager {
    let log_from = settings.log_from;
    HttpConnectionManager {
        stat_prefix: listener.to_owned(),
        http_filters: vec![router()],
        early_header_mutation_extensions: vec![headers::stripped(settings.trusted_proxies > 0)],
        // The peer is the client, or behind this many proxies whom the first of them names in `x-forwarded-for`.
        use_remote_address: boolean(true),
        xff_num_trusted_hops: settings.trusted_proxies,
        // One spelling of a path before a route looks at it, or `/%2e%2e/` walks around the dotfile route.
        normalize_path: boolean(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest.into(),
        // nginx's own name or none: a response made by Envoy does not tell what stands in front.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        local_reply_config: Some(headers::own_answers()),
        access_log: log_from.map(access_log::log).into_iter().collect(),
        // For the logs alone: it costs a random number a request. What the client said under that name is gone by then.
        generate_request_id: boolean(log_from.is_some()),
        request_headers_timeout: duration(HEADERS_TIMEOUT),
        request_timeout: duration(REQUEST_TIMEOUT),
        stream_idle_timeout: duration(STREAM_IDLE_TIMEOUT),
        delayed_close_timeout: duration(CLOSE_TIMEOUT),
        max_request_headers_kb: uint(MAX_HEADERS_KB),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: duration(CONNECTION_IDLE_TIMEOUT),
            max_headers_count: uint(MAX_HEADERS),
            // `X_Served_By` and `X-Served-By` are one header to many programs, so the odd one does not get in. To refuse the
            // request was rejected: SDKs and CDNs send such names, and no program here reads them.
            headers_with_underscores_action: HeadersWithUnderscoresAction::DropHeader.into(),
            ..Default::default()
        }),
        http_protocol_options: Some(http_1(&routes)),
        route_specifier: Some(routes),
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            max_concurrent_streams: uint(H2_STREAMS),
            initial_stream_window_size: uint(H2_STREAM_WINDOW),
            initial_connection_window_size: uint(H2_CONNECTION_WINDOW),
            max_outbound_frames: uint(H2_OUTBOUND_FRAMES),
            max_outbound_control_frames: uint(H2_OUTBOUND_CONTROL_FRAMES),
            max_inbound_priority_frames_per_stream: uint(H2_PRIORITY_FRAMES),
            max_consecutive_inbound_frames_with_empty_payload: uint(H2_EMPTY_FRAMES),
            ..Default::default()
        }),
        ..Default::default()
    }
}
