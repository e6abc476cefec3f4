//! What may be asked, and how a request is kept alive over a node that is not.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, HedgePolicy, RedirectAction, RetryPolicy, Route, RouteAction,
    RouteConfiguration, RouteMatch, VirtualHost, header_matcher::HeaderMatchSpecifier,
    redirect_action::SchemeRewriteSpecifier, retry_policy, route, route_action::ClusterSpecifier,
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::util::pack_any;

use super::cluster::HEALTH_PATH;
use super::deadline::ATTEMPTS;
use super::headers::header;
use super::http_connection_manager::STREAM_IDLE_TIMEOUT;
use super::names::{CLUSTER, EDGE};
use super::pb::{duration, uint};

/// For `/healthz`, which is short: nothing in either direction for so long ends a request, with 504 when no node answered.
const SILENCE: Duration = Duration::from_secs(5);
/// The first byte after which a second node is asked as well. 30 ms ejected healthy nodes on a busy machine; above
/// 250 ms people notice a frozen one.
const PER_TRY_TIMEOUT: Duration = Duration::from_millis(150);
/// A node that just died has the fewest requests in flight, so a full scan chooses it again and again until it is
/// ejected; on a busy machine that takes Envoy's main thread some milliseconds. Three attempts within 11 ms were once all
/// spent on it (a 503 in five kills with no core idle).
///
/// One more than that many nodes are asked, because the last attempt goes to [`super::deadline`].
pub(in crate::envoy) const RETRIES: u32 = 6;
/// How often the balancer is asked again for a host that has not been tried; the default of 1 gives up too early.
const HOST_SELECTION_ATTEMPTS: i64 = 5;
/// At once first, patiently later: half of 2, 6, 14 and three times 25 ms on average, 48 ms in all.
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
/// a careless site.
const DOTFILE: &str = r".*/\..*";
/// But not this directory (RFC 8615), unless something below it begins with a dot. The pattern sees the query too, and is
/// only tried on what begins so.
const WELL_KNOWN: &str = "/.well-known/";
const WELL_KNOWN_PATH: &str = r"/\.well-known/([^?./][^?/]*/)*([^?./][^?/]*)?(\?.*)?";

const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

/// How a request is sent on.
enum To {
    /// Whatever is asked for: within seconds it is answered, and then it may take its time.
    Nodes,
    /// While there is no node: an attempt that waits for one would be in vain.
    Nobody,
    /// Something short.
    Health,
}

/// To the nodes: dotfiles are refused but for `/.well-known/`, reading goes to nginx, everything else is told what is allowed.
pub(in crate::envoy) fn routes(is_empty: bool) -> RouteConfiguration {
    let forward = route::Action::Route(forward(if is_empty { To::Nobody } else { To::Nodes }));
    configuration(vec![well_known(forward.clone()), dotfiles(), reading(forward), others()])
}

/// To the same with TLS, at this port, under the name that the client has used.
pub(super) fn redirects(port: u16) -> RouteConfiguration {
    // Machines that look whether the edge is alive take a redirect for a failure, and there is nothing secret in `ok`.
    let healthz = Route {
        name: "healthz".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Path(HEALTH_PATH.to_owned())),
            headers: vec![matching(":method", METHODS)],
            ..Default::default()
        }),
        action: Some(route::Action::Route(forward(To::Health))),
        ..Default::default()
    };
    let elsewhere = route::Action::Redirect(RedirectAction {
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
        port_redirect: port.into(),
        ..Default::default()
    });
    configuration(vec![well_known(elsewhere.clone()), dotfiles(), healthz, reading(elsewhere), others()])
}

fn configuration(routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: EDGE.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: EDGE.to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn well_known(action: route::Action) -> Route {
    Route {
        name: "well-known".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(WELL_KNOWN.to_owned())),
            headers: vec![matching(":path", WELL_KNOWN_PATH), matching(":method", METHODS)],
            ..Default::default()
        }),
        action: Some(action),
        ..Default::default()
    }
}

fn dotfiles() -> Route {
    Route {
        name: "dotfiles".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::SafeRegex(regex(DOTFILE))),
            ..Default::default()
        }),
        action: Some(answer(404)),
        ..Default::default()
    }
}

fn reading(action: route::Action) -> Route {
    Route {
        name: "reading".to_owned(),
        r#match: Some(RouteMatch { headers: vec![matching(":method", METHODS)], ..everything() }),
        action: Some(action),
        ..Default::default()
    }
}

fn others() -> Route {
    Route {
        name: "others".to_owned(),
        r#match: Some(everything()),
        response_headers_to_add: vec![header("allow", ALLOW)],
        action: Some(answer(405)),
        ..Default::default()
    }
}

/// To nginx, with all that makes a dying node invisible. Only routes for [`METHODS`] use it.
fn forward(to: To) -> RouteAction {
    let (cluster, idle_timeout) = match to {
        To::Nodes => (ATTEMPTS, STREAM_IDLE_TIMEOUT),
        To::Nobody | To::Health => (CLUSTER, SILENCE),
    };
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: duration(Duration::ZERO),
        idle_timeout: duration(idle_timeout),
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

pub(in crate::envoy) fn everything() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }
}

fn matching(name: &str, pattern: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(regex(pattern))),
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
