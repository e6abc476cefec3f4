//! Logging: text on a terminal, JSON lines otherwise.

use std::io::{IsTerminal, stderr, stdout};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{LogFlags, LogFormat};

/// Sets the process's logger. Commands that print data log to stderr; `run` has no data and logs to stdout.
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
        logger.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        logger.with_target(false).init();
    }
}

struct Wall;

impl FormatTime for Wall {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        writer.write_str(&crate::clock::wall())
    }
}
