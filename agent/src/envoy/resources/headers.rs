//! Headers that are not the client's to say, and those of answers that Envoy gives by itself.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, StatusCodeFilter, access_log_filter::FilterSpecifier,
    comparison_filter,
};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation,
    header_mutation::{Action, RemoveOnMatch},
};
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeUInt32, TypedExtensionConfig,
    header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as Early;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};

use super::pb::extension;

const EARLY: &str = "envoy.http.early_header_mutation.header_mutation";

/// What proxies tell those behind them. By prefix: Envoy itself takes away the ones that it would obey, and lets every
/// other name through to a program that may believe it.
const FROM_PROXIES: [&str; 2] = ["x-envoy-", FORWARDED];
const FORWARDED: &str = "x-forwarded-";
/// Of these, what is taken from a trusted proxy: the client's address, and whether it used TLS. Every proxy adds to the first; the second
/// it has to set itself, or its client does. Nothing else has such a rule, and so nothing else gets in.
const BELIEVED: [&str; 2] = ["for", "proto"];
/// The same under older names. Envoy writes an id of its own over that of a request only from an address it takes for a
/// stranger's, and none without access logs: what came under that name would be the client's.
const FROM_OTHER_PROXIES: [&str; 3] = ["forwarded", "x-real-ip", "x-request-id"];

/// On what Envoy answers by itself: a line of text that is nothing else, belongs to one moment and into no frame. nginx
/// says the same of its own answers, so these are for those alone.
pub(in crate::envoy) const OWN_ANSWERS: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
];

/// Removed from every request before anything reads it: without a trusted proxy this Envoy is the first. What Envoy says under such names comes after it.
pub(super) fn stripped(behind_a_proxy: bool) -> TypedExtensionConfig {
    let by_prefix = FROM_PROXIES.map(|prefix| {
        let pattern = if behind_a_proxy && prefix == FORWARDED {
            let regex = format!("{prefix}{}", none_of(&BELIEVED));
            MatchPattern::SafeRegex(RegexMatcher { regex, ..Default::default() })
        } else {
            MatchPattern::Prefix(prefix.to_owned())
        };
        let key_matcher = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
        Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(key_matcher) })
    });
    let by_name = FROM_OTHER_PROXIES.map(|name| Action::Remove(name.to_owned()));
    let mutations = by_prefix.into_iter().chain(by_name);
    let mutations = mutations.map(|action| HeaderMutation { action: Some(action) }).collect();
    extension(EARLY, Early { mutations })
}

/// Refusals of the codec are among them, for which there is no route that could add a header.
pub(super) fn own_answers() -> LocalReplyConfig {
    // There is no filter that lets everything through.
    let any_status = StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: comparison_filter::Op::Ge.into(),
            value: Some(RuntimeUInt32 { default_value: 100, runtime_key: "edge.own_answers".to_owned() }),
        }),
    };
    LocalReplyConfig {
        mappers: vec![ResponseMapper {
            filter: Some(AccessLogFilter {
                filter_specifier: Some(FilterSpecifier::StatusCodeFilter(any_status)),
            }),
            headers_to_add: OWN_ANSWERS.map(|(name, value)| header(name, value)).into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A regular expression of every text but these, for RE2, which has no negative look-ahead.
fn none_of(words: &[&str]) -> String {
    let firsts: BTreeSet<char> = words.iter().filter_map(|word| word.chars().next()).collect();
    let others =
        if firsts.is_empty() { ".+".to_owned() } else { format!("[^{}].*", String::from_iter(&firsts)) };
    let mut branches = vec![others];
    for first in firsts {
        let rests: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix(first)).collect();
        branches.push(format!("{first}{}", none_of(&rests)));
    }
    let or_nothing = if words.contains(&"") { "" } else { "?" };
    format!("(?:{}){or_nothing}", branches.join("|"))
}

/// A header of an answer, in place of any of that name.
pub(in crate::envoy) fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_of_all_texts_but_some() {
        assert_eq!(none_of(&["a"]), "(?:[^a].*|a(?:.+))?");
        assert_eq!(none_of(&["ab", "ac"]), "(?:[^a].*|a(?:[^bc].*|b(?:.+)|c(?:.+))?)?");
    }
}
