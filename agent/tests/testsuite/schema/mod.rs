//! As much of JSON Schema as docs/schema uses. A keyword that is not known here is a failure, so that no promise of a
//! schema goes unchecked. A full validator would bring 45 crates.

use std::net::Ipv4Addr;

use regex::Regex;
use serde_json::Value;

/// Panics with the place and the reason of the first difference.
pub fn check(schema: &Value, value: &Value, at: &str) {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let fits = match keyword.as_str() {
            "$schema" | "title" | "description" => true,
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "const" => rule == value,
            "enum" => rule.as_array().unwrap().contains(value),
            // A keyword speaks of values of its own type only, as the specification has it.
            "pattern" | "format" if !value.is_string() => true,
            "minimum" | "maximum" if !value.is_number() => true,
            "minimum" => value.as_i64().unwrap() >= rule.as_i64().unwrap(),
            "maximum" => value.as_i64().unwrap() <= rule.as_i64().unwrap(),
            "minItems" => value.as_array().unwrap().len() as u64 >= rule.as_u64().unwrap(),
            "pattern" => Regex::new(rule.as_str().unwrap()).unwrap().is_match(value.as_str().unwrap()),
            "format" => match rule.as_str().unwrap() {
                "ipv4" => value.as_str().unwrap().parse::<Ipv4Addr>().is_ok(),
                "date-time" => is_date_time(value.as_str().unwrap()),
                other => panic!("format {other} is not checked"),
            },
            "uniqueItems" => {
                let items = value.as_array().unwrap();
                items.iter().enumerate().all(|(n, item)| !items[..n].contains(item))
            }
            "required" => {
                rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            // Open at the end for its readers, closed here: what the agent writes must be described.
            "properties" => {
                for (name, inner) in value.as_object().unwrap() {
                    let place = format!("{at}.{name}");
                    check(
                        rule.get(name).unwrap_or_else(|| panic!("{place} is not in the schema")),
                        inner,
                        &place,
                    );
                }
                true
            }
            "additionalProperties" => rule == false,
            "items" => {
                for (n, item) in value.as_array().unwrap().iter().enumerate() {
                    check(rule, item, &format!("{at}[{n}]"));
                }
                true
            }
            other => panic!("keyword {other} is not checked"),
        };
        assert!(fits, "{at}: {value} breaks {keyword} {rule}");
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "null" => value.is_null(),
        other => panic!("type {other} is not checked"),
    }
}

fn is_date_time(text: &str) -> bool {
    let shape = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$";
    Regex::new(shape).unwrap().is_match(text) && text.parse::<jiff::Timestamp>().is_ok()
}
