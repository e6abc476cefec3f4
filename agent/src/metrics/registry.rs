//! [`MetricRegistry`]: a registry that gives every series its 0 at once.

use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::process::Process;

/// Seconds: from below a watch event's way to the files up to a drain's bound.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub(super) type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// Counters are named without `_total` and help texts end without a period: the encoder adds both.
#[derive(Default)]
pub(super) struct MetricRegistry {
    pub(super) registry: Registry,
}

impl MetricRegistry {
    /// With what every process of muster tells: its build, and what the kernel knows of it.
    pub(super) fn of_this_process(version: &'static str, revision: &'static str) -> Self {
        let mut book = Self::default();
        book.registry.register_collector(Box::new(Process::now()));
        let build: Family<[(&str, &str); 2], Gauge> = Family::default();
        build.get_or_create(&[("version", version), ("revision", revision)]).set(1);
        book.registry.register("muster_build_info", "Version and source revision of this agent", build);
        book
    }

    /// A metric without labels.
    pub(super) fn plain<M: EncodeMetric + Clone + Default + Send + Sync + Debug + 'static>(
        &mut self,
        name: &str,
        help: &str,
    ) -> M {
        let metric = M::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// A series for each value of a label.
    pub(super) fn each<L, M>(&mut self, name: &str, help: &str, values: &[L]) -> Family<L, M>
    where
        L: EncodeLabelSet + Clone + Eq + Hash + Send + Sync + Debug + 'static,
        M: EncodeMetric + TypedMetric + Default + Send + Sync + Debug + 'static,
    {
        let family = Family::<L, M>::default();
        for value in values {
            drop(family.get_or_create(value));
        }
        self.registry.register(name, help, family.clone());
        family
    }

    /// A series for each pair of values of two labels.
    pub(super) fn pairs<A, B, M>(&mut self, name: &str, help: &str, a: &[A], b: &[B]) -> Family<(A, B), M>
    where
        A: EncodeLabelSet + Copy + Eq + Hash + Send + Sync + Debug + 'static,
        B: EncodeLabelSet + Copy + Eq + Hash + Send + Sync + Debug + 'static,
        M: EncodeMetric + TypedMetric + Default + Send + Sync + Debug + 'static,
    {
        let values: Vec<(A, B)> = a.iter().flat_map(|a| b.iter().map(|b| (*a, *b))).collect();
        self.each(name, help, &values)
    }

    /// A histogram of seconds.
    pub(super) fn timed(&mut self, name: &str, help: &str) -> Histogram {
        let metric = seconds();
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// A histogram of seconds for each value of a label.
    pub(super) fn timed_each<L>(&mut self, name: &str, help: &str, values: &[L]) -> HistogramFamily<L>
    where
        L: EncodeLabelSet + Clone + Eq + Hash + Send + Sync + Debug + 'static,
    {
        let family = HistogramFamily::<L>::new_with_constructor(seconds);
        for value in values {
            drop(family.get_or_create(value));
        }
        self.registry.register(name, help, family.clone());
        family
    }
}

fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}
