//! The listener `edge` and its routes: what the public may ask, and how long for.

use std::net::SocketAddrV4;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    self as core, HeaderValue, HeaderValueOption, TrafficDirection,
    header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd,
    http_protocol_options::HeadersWithUnderscoresAction,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, HedgePolicy, RetryPolicy, Route, RouteAction, RouteConfiguration,
    RouteMatch, VirtualHost, header_matcher::HeaderMatchSpecifier, retry_policy, route,
    route_action::ClusterSpecifier, route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
    http_connection_manager::{PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation},
    http_filter,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::util::pack_any;

use super::cluster::{BUFFER_BYTES, CLUSTER};
use super::wire::{address, boolean, duration, over_ads, uint};

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

/// Nothing in either direction for so long ends a request: 504 when no node answered. An overall timeout of the same
/// length was rejected, because it would cut a large file of the user's own site off in the middle.
const SILENCE: Duration = Duration::from_secs(5);
/// The first byte after which a second node is asked as well. 30 ms ejected healthy nodes on a busy machine; above
/// 250 ms people notice a frozen one.
const PER_TRY_TIMEOUT: Duration = Duration::from_millis(150);
/// A node that just died has the fewest requests in flight, so a full scan chooses it again and again until it is
/// ejected; on a busy machine that takes Envoy's main thread some milliseconds. Three attempts within 11 ms were once all
/// spent on it (a 503 in five kills with no core idle).
const RETRIES: u32 = 5;
/// How often the balancer is asked again for a host that has not been tried; the default of 1 gives up too early.
const HOST_SELECTION_ATTEMPTS: i64 = 5;
/// At once first, patiently later: half of 2, 6, 14 and twice 25 ms on average, 36 ms in all.
const RETRY_BACK_OFF: Duration = Duration::from_millis(2);
const RETRY_BACK_OFF_MAX: Duration = Duration::from_millis(25);
/// `reset` also repeats what a node may have begun to answer: only for methods that change nothing.
const RETRY_ON: &str = "connect-failure,refused-stream,reset,retriable-status-codes";
/// nginx sheds load, or Envoy has no healthy host for a moment.
const RETRIABLE_STATUS: u32 = 503;

/// The files change nothing when read, and nothing else is offered.
const METHODS: &str = "GET|HEAD";
const ALLOW: &str = "GET, HEAD";
/// Any path segment that begins with a dot, after normalization: temporary files of the agent and `.git` or `.env` of
/// a careless site. `/.well-known/` too.
const DOTFILE: &str = r".*/\..*";

/// Time to send all headers: a slow sender is cut off with 408.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to send the whole request; a GET has no body worth waiting for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// No progress of a response towards a client that does not read.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A browser's keep-alive connection between two reads of the page.
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Above nginx's 8 KiB for a request line and below Envoy's 60: such a request is refused at the edge.
const MAX_HEADERS_KB: u32 = 16;
/// A browser sends about 15.
const MAX_HEADERS: u32 = 100;
/// Streams and windows of one HTTP/2 connection, by Envoy's advice for an edge: they bound what one client can hold.
const H2_STREAMS: u32 = 100;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;

const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const ROUTER: &str = "envoy.filters.http.router";
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

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

/// Dotfiles are refused, reading goes to nginx, everything else is told what is allowed.
pub(super) fn routes() -> RouteConfiguration {
    let dotfiles = Route {
        name: "dotfiles".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::SafeRegex(regex(DOTFILE))),
            ..Default::default()
        }),
        action: Some(answer(404)),
        ..Default::default()
    };
    let reading = Route {
        name: "reading".to_owned(),
        r#match: Some(RouteMatch { headers: vec![method(METHODS)], ..everything() }),
        action: Some(route::Action::Route(forward())),
        ..Default::default()
    };
    let others = Route {
        name: "others".to_owned(),
        r#match: Some(everything()),
        response_headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "allow".to_owned(),
                value: ALLOW.to_owned(),
                ..Default::default()
            }),
            append_action: OverwriteIfExistsOrAdd.into(),
            ..Default::default()
        }],
        action: Some(answer(405)),
        ..Default::default()
    };
    RouteConfiguration {
        name: EDGE.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: EDGE.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![dotfiles, reading, others],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// To nginx, with all that makes a dying node invisible. Only the route for [`METHODS`] uses it.
fn forward() -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(CLUSTER.to_owned())),
        timeout: duration(Duration::ZERO),
        idle_timeout: duration(SILENCE),
        // The slow attempt goes on beside the new one, and the first answer wins: a node that was only slow is
        // not lost.
        hedge_policy: Some(HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() }),
        retry_policy: Some(RetryPolicy {
            retry_on: RETRY_ON.to_owned(),
            retriable_status_codes: vec![RETRIABLE_STATUS],
            num_retries: uint(RETRIES),
            per_try_timeout: duration(PER_TRY_TIMEOUT),
            host_selection_retry_max_attempts: HOST_SELECTION_ATTEMPTS,
            retry_host_predicate: vec![retry_policy::RetryHostPredicate {
                name: PREVIOUS_HOSTS.to_owned(),
                config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(pack_any(
                    PreviousHostsPredicate {},
                ))),
            }],
            retry_back_off: Some(retry_policy::RetryBackOff {
                base_interval: duration(RETRY_BACK_OFF),
                max_interval: duration(RETRY_BACK_OFF_MAX),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn connection_manager() -> HttpConnectionManager {
    let router = Router {
        // Neither `x-envoy-*` headers to the public nor per-request statistics nobody reads: both cost throughput.
        suppress_envoy_headers: true,
        dynamic_stats: boolean(false),
        ..Default::default()
    };
    HttpConnectionManager {
        stat_prefix: EDGE.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: over_ads(),
            route_config_name: EDGE.to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: ROUTER.to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(router))),
            ..Default::default()
        }],
        // The peer is the client: what it says in `x-forwarded-for` and `x-envoy-*` is not believed.
        use_remote_address: boolean(true),
        // One spelling of a path before a route looks at it, or `/%2e%2e/` walks around the dotfile route.
        normalize_path: boolean(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest.into(),
        // nginx's own name or none: a response made by Envoy does not tell what stands in front.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        // Nobody logs it; it costs a random number a request.
        generate_request_id: boolean(false),
        request_headers_timeout: duration(HEADERS_TIMEOUT),
        request_timeout: duration(REQUEST_TIMEOUT),
        stream_idle_timeout: duration(STREAM_IDLE_TIMEOUT),
        max_request_headers_kb: uint(MAX_HEADERS_KB),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: duration(CONNECTION_IDLE_TIMEOUT),
            max_headers_count: uint(MAX_HEADERS),
            // `X_Served_By` and `X-Served-By` are one header to many programs: refused.
            headers_with_underscores_action: HeadersWithUnderscoresAction::RejectRequest.into(),
            ..Default::default()
        }),
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            max_concurrent_streams: uint(H2_STREAMS),
            initial_stream_window_size: uint(H2_STREAM_WINDOW),
            initial_connection_window_size: uint(H2_CONNECTION_WINDOW),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn everything() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }
}

fn method(methods: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(regex(methods))),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

fn answer(status: u32) -> route::Action {
    route::Action::DirectResponse(DirectResponseAction { status, ..Default::default() })
}
