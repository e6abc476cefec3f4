//! What is counted, and the port that tells it: `/metrics`, `/livez`, `/readyz`.
//! A node counts in [`Metrics`], `muster edge` in [`EdgeMetrics`].
//!
//! Every series is there from the start with 0, so that an alert on its growth sees the first event too.
//! Times are timestamps and not ages: an age that is not refreshed would stand still and look young.

mod edge;
mod exposition;
mod labels;
mod process;
mod registry;
mod serve;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use edge::EdgeMetrics;
pub use exposition::Format;
pub use labels::*;
use registry::{HistogramFamily, MetricRegistry};
pub use serve::{Health, Scrape, serve};

/// A gauge of seconds.
pub type Seconds = Gauge<f64, AtomicU64>;

/// All of the agent's metrics: a cheap handle, to be cloned into every room that counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    node_state: Family<Phase, Gauge>,
    nodes: Family<Listed, Gauge>,
    /// 1 while this node leads.
    pub leader: Gauge,
    pub leader_changes: Counter,
    pub list_revision: Gauge,
    pub list_changed_timestamp: Seconds,
    /// From the moment a change was known here to its last file renamed.
    pub list_apply_duration: Histogram,
    pub list_writes: Family<(ListFile, WriteResult), Counter>,
    pub membership_events: Family<Event, Counter>,
    pub registry_last_contact_timestamp: Seconds,
    /// 1 while the registry is not reached.
    pub registry_stale: Gauge,
    pub registry_requests: Family<(Op, OpResult), Counter>,
    pub registry_request_duration: HistogramFamily<Op>,
    pub registry_refused: Family<Refused, Counter>,
    pub watch_restarts: Family<WatchRestart, Counter>,
    pub lease_expires_timestamp: Seconds,
    pub lease_losses: Counter,
    pub xds_streams: Gauge,
    pub xds_pushes: Family<Resource, Counter>,
    pub xds_responses: Family<(Resource, XdsResult), Counter>,
    /// From a push to its ACK or NACK.
    pub xds_ack_duration: Histogram,
    /// When the first of the certificates in use ends; 0 without TLS.
    pub tls_expires_timestamp: Seconds,
    pub tls_reloads: Family<Reload, Counter>,
    pub drains: Family<DrainResult, Counter>,
    pub drain_duration: Histogram,
    pub nginx_up: Gauge,
    pub nginx_restarts: Counter,
    pub nginx_probe_duration: Histogram,
}

impl Metrics {
    /// `version` and `revision` are those of the build. To be called first thing: the process is taken to have
    /// started now.
    pub fn new(version: &'static str, revision: &'static str) -> Self {
        let mut book = MetricRegistry::of_this_process(version, revision);
        let metrics = Self {
            node_state: book.each(
                "muster_node_state",
                "1 for the phase of life this agent is in",
                Phase::ALL,
            ),
            nodes: book.each("muster_nodes", "Nodes in the list", Listed::ALL),
            leader: book.plain("muster_leader", "Whether this node leads"),
            leader_changes: book.plain("muster_leader_changes", "Changes of leader seen"),
            list_revision: book.plain("muster_list_revision", "Registry revision the files show"),
            list_changed_timestamp: book.plain(
                "muster_list_changed_timestamp_seconds",
                "Unix time at which a file was last replaced",
            ),
            list_apply_duration: book.timed(
                "muster_list_apply_duration_seconds",
                "Time from a change known here to its files renamed",
            ),
            list_writes: book.pairs(
                "muster_list_writes",
                "Generated files written",
                ListFile::ALL,
                WriteResult::ALL,
            ),
            membership_events: book.each(
                "muster_membership_events",
                "What was seen to happen to nodes",
                Event::ALL,
            ),
            registry_last_contact_timestamp: book.plain(
                "muster_registry_last_contact_timestamp_seconds",
                "Unix time at which the registry was last heard",
            ),
            registry_stale: book.plain("muster_registry_stale", "Whether the registry is out of reach"),
            registry_requests: book.pairs(
                "muster_registry_requests",
                "Requests to the registry",
                Op::ALL,
                OpResult::ALL,
            ),
            registry_request_duration: book.timed_each(
                "muster_registry_request_duration_seconds",
                "Time from a request to the registry to its answer",
                Op::ALL,
            ),
            registry_refused: book.each(
                "muster_registry_refused",
                "Keys under the prefix left alone because they say nothing valid",
                Refused::ALL,
            ),
            watch_restarts: book.each("muster_watch_restarts", "Watches opened anew", WatchRestart::ALL),
            lease_expires_timestamp: book.plain(
                "muster_lease_expires_timestamp_seconds",
                "Unix time at which the lease ends unless renewed",
            ),
            lease_losses: book.plain("muster_lease_losses", "Leases lost while they were wanted"),
            xds_streams: book.plain("muster_xds_streams", "Open ADS streams"),
            xds_pushes: book.each("muster_xds_pushes", "Responses sent to Envoys", Resource::ALL),
            xds_responses: book.pairs(
                "muster_xds_responses",
                "What Envoys answered to pushes",
                Resource::ALL,
                XdsResult::ALL,
            ),
            xds_ack_duration: book.timed("muster_xds_ack_duration_seconds", "Time from a push to its answer"),
            tls_expires_timestamp: book.plain(
                "muster_tls_expires_timestamp_seconds",
                "Unix time at which the first of the certificates in use ends",
            ),
            tls_reloads: book.each("muster_tls_reloads", "New certificates found", Reload::ALL),
            drains: book.each("muster_drains", "Graceful leaves of this node", DrainResult::ALL),
            drain_duration: book.timed("muster_drain_duration_seconds", "Time a graceful leave took"),
            nginx_up: book.plain("muster_nginx_up", "Whether nginx answered the last probe"),
            nginx_restarts: book.plain("muster_nginx_restarts", "Restarts of nginx"),
            nginx_probe_duration: book
                .timed("muster_nginx_probe_duration_seconds", "Time from a probe of nginx to its answer"),
            registry: Arc::default(),
        };
        metrics.set_phase(Phase::Starting);
        Self { registry: Arc::new(book.registry), ..metrics }
    }

    /// Sets the one phase that holds, and 0 for the others.
    pub fn set_phase(&self, phase: Phase) {
        for each in Phase::ALL {
            self.node_state.get_or_create(each).set(i64::from(*each == phase));
        }
    }

    /// How many nodes of the list are in one state.
    pub fn set_nodes(&self, state: Listed, count: usize) {
        self.nodes.get_or_create(&state).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The text that a scrape gets.
    pub fn text(&self, format: Format) -> String {
        exposition::text(&self.registry, format)
    }
}
