//! Measured times, and reading the agents' own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use testbed::node::Node;
use tokio::time::sleep;

/// Seconds.
#[derive(Serialize)]
pub struct Times {
    pub min: f64,
    pub p50: f64,
    pub max: f64,
    pub all: Vec<f64>,
}

/// Upper bounds in seconds, as good as the histogram's buckets.
#[derive(Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub count: u64,
}

impl From<Vec<Duration>> for Times {
    fn from(times: Vec<Duration>) -> Self {
        // To a tenth of a millisecond: the way of asking is no finer.
        let mut all: Vec<f64> = times.iter().map(|time| (time.as_secs_f64() * 1e4).round() / 1e4).collect();
        all.sort_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
        Self { min: at(0), p50: at(all.len() / 2), max: at(all.len().saturating_sub(1)), all }
    }
}

/// Asks without a pause worth measuring until `look` succeeds.
///
/// # Errors
/// What it said last.
pub async fn until(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match look().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("not in time: {what}")));
            }
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

/// All running nodes' `muster_list_apply_duration_seconds` together; `None` when nobody has counted anything.
pub async fn event_to_file(nodes: &[Node]) -> Option<Quantiles> {
    // Bounds as their bits: times are positive, so the bits are in the same order.
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.is_up()) {
        for (name, value) in node.metrics().await.unwrap_or_default() {
            let Some(labels) = name.strip_prefix("muster_list_apply_duration_seconds_bucket{") else {
                continue;
            };
            let bound = labels.split('"').nth(1).unwrap_or_default().replace("+Inf", "inf");
            let Ok(bound) = bound.parse::<f64>() else { continue };
            *buckets.entry(bound.to_bits()).or_default() += value as u64;
        }
    }
    let count = buckets.values().copied().max().filter(|count| *count > 0)?;
    let bound_of = |share: f64| {
        let rank = (count as f64 * share).ceil() as u64;
        let reached = buckets.iter().find(|(_, cumulated)| **cumulated >= rank);
        reached.map_or(f64::INFINITY, |(bits, _)| f64::from_bits(*bits))
    };
    Some(Quantiles { p50: bound_of(0.5), p99: bound_of(0.99), count })
}
