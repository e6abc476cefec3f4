//! What `muster edge` counts of its Envoy. Envoy's own metrics stand before these in a scrape.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::exposition::{self, Format};
use super::labels::{EdgeDrain, EnvoyRestart};
use super::registry::MetricRegistry;

/// All of `muster edge`'s metrics: a cheap handle.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    registry: Arc<Registry>,
    /// 1 while Envoy answers its admin interface, whatever it says.
    pub envoy_up: Gauge,
    /// 1 while it says that it is ready.
    pub envoy_ready: Gauge,
    pub envoy_restarts: Family<EnvoyRestart, Counter>,
    pub drains: Family<EdgeDrain, Counter>,
}

impl EdgeMetrics {
    /// As [`super::Metrics::new`].
    pub fn new(version: &'static str, revision: &'static str) -> Self {
        let mut book = MetricRegistry::of_this_process(version, revision);
        let envoy_up = book.plain("muster_edge_envoy_up", "Whether Envoy answered the last question");
        let envoy_ready = book.plain("muster_edge_envoy_ready", "Whether Envoy said that it is ready");
        let restarts = "Starts of Envoy after the first, by why the one before is gone";
        let envoy_restarts = book.each("muster_edge_envoy_restarts", restarts, EnvoyRestart::ALL);
        let drains = book.each("muster_edge_drains", "Graceful stops of Envoy", EdgeDrain::ALL);
        Self { registry: Arc::new(book.registry), envoy_up, envoy_ready, envoy_restarts, drains }
    }

    /// The text that a scrape gets after Envoy's own.
    pub fn text(&self, format: Format) -> String {
        exposition::text(&self.registry, format)
    }
}
