//! Headers that are not the client's to say, and those of answers that Envoy gives by itself.

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation,
    header_mutation::{Action, RemoveOnMatch},
};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as Early;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use crate::balancer::wire::extension;

const EARLY: &str = "envoy.http.early_header_mutation.header_mutation";

/// What proxies tell those behind them. By prefix: Envoy itself takes away the ones that it would obey, and lets every
/// other name through to a program that may believe it.
const FROM_PROXIES: [&str; 2] = ["x-envoy-", "x-forwarded-"];
/// The same under older names. Envoy writes no id of a request, so what came under that name would be the client's.
const FROM_OTHER_PROXIES: [&str; 3] = ["forwarded", "x-real-ip", "x-request-id"];

/// Taken off every request before anything looks at it: this Envoy is the first, nobody stands before it. What Envoy
/// says under such names comes after it.
pub(super) fn stripped() -> TypedExtensionConfig {
    let by_prefix = FROM_PROXIES.map(|prefix| {
        Action::RemoveOnMatch(RemoveOnMatch {
            key_matcher: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Prefix(prefix.to_owned())),
                ..Default::default()
            }),
        })
    });
    let by_name = FROM_OTHER_PROXIES.map(|name| Action::Remove(name.to_owned()));
    let mutations = by_prefix.into_iter().chain(by_name);
    let mutations = mutations.map(|action| HeaderMutation { action: Some(action) }).collect();
    extension(EARLY, Early { mutations })
}
