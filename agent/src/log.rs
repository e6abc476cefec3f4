//! Logging: text on a terminal, JSON lines otherwise.

use std::fmt;
use std::io::{IsTerminal, stderr, stdout};

use serde::Serializer;
use serde::ser::SerializeMap;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFlags, LogFormat};

/// The event of lines that a library wrote: their messages are not this program's to fix.
pub const LIBRARY: &str = "library";

/// Sets the process's logger. What prints data, or runs a COMMAND that does, logs to stderr; all else logs to stdout.
pub fn start(flags: &LogFlags, to_stdout: bool) {
    let (terminal, writer) = match to_stdout {
        true => (stdout().is_terminal(), BoxMakeWriter::new(stdout)),
        false => (stderr().is_terminal(), BoxMakeWriter::new(stderr)),
    };
    let json = match flags.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let logger = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&flags.filter))
        .with_timer(Wall)
        .with_writer(writer)
        // What cannot be written is lost; saying so on a stderr that may be gone as well would be a panic.
        .log_internal_errors(false)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    if json {
        logger.event_format(Lines).init();
    } else {
        logger.with_target(false).init();
    }
}

struct Wall;

impl FormatTime for Wall {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&crate::clock::wall())
    }
}

/// One JSON object a line: `ts`, `level`, `event` (the name that its call has, which docs/operations.md explains) and `msg`, then the fields as the call has them, then `target`.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        said: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        said.record(&mut fields);
        let about = said.metadata();
        let line = line(&crate::clock::wall(), *about.level(), about.name(), about.target(), &fields);
        writeln!(writer, "{}", line.map_err(|_| fmt::Error)?)
    }
}

fn line(ts: &str, level: Level, name: &str, target: &str, fields: &Fields) -> serde_json::Result<String> {
    let own = target.split("::").next() == Some(env!("CARGO_PKG_NAME"));
    let mut line = Vec::new();
    let mut json = serde_json::Serializer::new(&mut line);
    let mut map = json.serialize_map(None)?;
    map.serialize_entry("ts", ts)?;
    map.serialize_entry("level", &level.as_str().to_ascii_lowercase())?;
    map.serialize_entry("event", if own { name } else { LIBRARY })?;
    map.serialize_entry("msg", &fields.message)?;
    for (name, value) in &fields.others {
        map.serialize_entry(name, value)?;
    }
    map.serialize_entry("target", target)?;
    map.end()?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// What a call gave, in its order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_in_a_fixed_order() {
        let fields = Fields {
            message: "lease lost: registering again".to_owned(),
            others: vec![("node", "a\"b\nc".into()), ("revision", 7.into())],
        };
        let own =
            line("2026-01-01T00:00:00.000Z", Level::WARN, "lease-lost", "muster::registry", &fields).unwrap();
        assert_eq!(
            own,
            r#"{"ts":"2026-01-01T00:00:00.000Z","level":"warn","event":"lease-lost","msg":"lease lost: registering again","node":"a\"b\nc","revision":7,"target":"muster::registry"}"#
        );
        let other = line("", Level::INFO, "event src/codec.rs:1", "h2::codec", &fields).unwrap();
        assert!(other.contains(r#""event":"library""#), "{other}");
    }
}
