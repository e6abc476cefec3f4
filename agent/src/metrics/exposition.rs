//! The two text formats of a scrape.

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4: what `curl` gets.
    Prometheus,
    /// OpenMetrics 1.0.0, for scrapers whose Accept header asks for it.
    OpenMetrics,
}

impl Format {
    /// Reads an `Accept` header.
    pub fn accepted(accept: &str) -> Self {
        let named = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next() == Some("application/openmetrics-text") && !parts.any(|part| part == "q=0")
        });
        if named { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Encodes the registry.
pub(super) fn text(registry: &Registry, format: Format) -> String {
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, registry).expect("a String takes all");
    match format {
        Format::OpenMetrics => open_metrics,
        Format::Prometheus => to_prometheus(&open_metrics),
    }
}

/// OpenMetrics names a counter's family without `_total`, the older format names the series: without this, every
/// counter is untyped to a scraper of 0.0.4. `# EOF` is a plain comment there and is left out.
fn to_prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 1024);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let name = |line: &str, word: &str| Some(line.strip_prefix(word)?.split_once(' ')?.0.to_owned());
        let kind =
            lines.peek().and_then(|next| next.strip_prefix("# TYPE ")?.split_once(' ').map(|(_, kind)| kind));
        match name(line, "# HELP ") {
            Some(family) if kind == Some("counter") => {
                let help = line.split_at("# HELP ".len() + family.len()).1;
                out.push_str(&format!("# HELP {family}_total{help}\n# TYPE {family}_total counter\n"));
                lines.next();
            }
            _ if line == "# EOF" => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}
