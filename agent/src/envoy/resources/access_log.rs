//! Which requests Envoy says on its standard output, and in which words.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ComparisonFilter, OrFilter, ResponseFlagFilter, StatusCodeFilter, access_log,
    access_log_filter::FilterSpecifier, comparison_filter,
};
use envoy_types::pb::envoy::config::core::v3::RuntimeUInt32;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

const STDOUT: &str = "envoy.access_loggers.stdout";

/// A member of each line, and what stands there. nginx's lines have the same names for the same things.
const FIELDS: [(&str, &str); 13] = [
    ("ts", "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%"),
    ("level", "info"),
    ("event", "request"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("remote", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(:PATH)%"),
    ("status", "%RESPONSE_CODE%"),
    ("bytes", "%BYTES_SENT%"),
    ("duration_ms", "%DURATION%"),
    ("upstream", "%UPSTREAM_HOST%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("flags", "%RESPONSE_FLAGS%"),
];

/// What cuts an answer short whose status was sent: by the node, or by Envoy for its silence. A client that goes away is
/// none of it: browsers do so all day, and a flood of resets would be one of lines.
const CUT_SHORT: [&str; 6] = ["UC", "UR", "UPE", "UT", "SI", "LR"];

/// Requests answered with `from` or more, and those not answered whole; all of them with 0.
pub(super) fn log(from: u32) -> AccessLog {
    let filter = (from > 0).then(|| {
        let filters = vec![
            FilterSpecifier::StatusCodeFilter(at_least(from)),
            FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
                flags: CUT_SHORT.map(str::to_owned).into(),
            }),
        ];
        let filters = filters.into_iter().map(|filter| AccessLogFilter { filter_specifier: Some(filter) });
        AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::OrFilter(OrFilter { filters: filters.collect() })),
        }
    });
    AccessLog {
        name: STDOUT.to_owned(),
        filter,
        config_type: Some(access_log::ConfigType::TypedConfig(lines())),
    }
}

fn at_least(status: u32) -> StatusCodeFilter {
    StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: comparison_filter::Op::Ge.into(),
            value: Some(RuntimeUInt32 { default_value: status, runtime_key: "edge.log_from".to_owned() }),
        }),
    }
}

/// [`StdoutAccessLog`] with a JSON format. Its map has an order in these types and none in those of `envoy_types`, with
/// which equal settings would give other bytes on every agent.
fn lines() -> Any {
    let value = |text: &str| Text { text: text.to_owned() };
    let fields = FIELDS.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
    let log = Log { format: Some(Format { json: Some(Object { fields }) }) };
    Any { type_url: StdoutAccessLog::type_url(), value: log.encode_to_vec() }
}

/// `StdoutAccessLog`.
#[derive(Clone, PartialEq, Message)]
struct Log {
    #[prost(message, optional, tag = "1")]
    format: Option<Format>,
}

/// `SubstitutionFormatString`.
#[derive(Clone, PartialEq, Message)]
struct Format {
    #[prost(message, optional, tag = "2")]
    json: Option<Object>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Text>,
}

/// `google.protobuf.Value` of a string.
#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "3")]
    text: String,
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format as JsonFormat;
    use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::stdout_access_log::AccessLogFormat;
    use envoy_types::pb::google::protobuf::value::Kind;

    use super::*;

    #[test]
    fn envoy_reads_each_field_from_what_is_written() {
        let written = lines();
        assert_eq!(written, lines());
        let read = StdoutAccessLog::decode(written.value.as_slice()).unwrap();
        let Some(AccessLogFormat::LogFormat(format)) = read.access_log_format else { panic!("a format") };
        let Some(JsonFormat::JsonFormat(object)) = format.format else { panic!("JSON") };
        assert_eq!(object.fields.len(), FIELDS.len());
        for (name, text) in FIELDS {
            assert_eq!(object.fields[name].kind, Some(Kind::StringValue(text.to_owned())), "{name}");
        }
    }
}
