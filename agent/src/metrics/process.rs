//! The usual `process_*` metrics of this one process, read when scraped. The ready-made collector needs a crate that
//! reads all of /proc for four numbers.

use std::fmt::{self, Debug};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Debug)]
pub(super) struct Process {
    /// Unix time of the collector's making, which main does first. The kernel's own number would have to be
    /// translated from ticks since a boot that a container may not know.
    started: f64,
}

impl Process {
    pub(super) fn now() -> Self {
        Self {
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut put = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        put(
            "process_start_time_seconds",
            "Unix time at which the process started.",
            &ConstGauge::new(self.started),
        )?;
        // What cannot be read is left out: a 0 would look like an answer.
        if let Some(seconds) = cpu_seconds() {
            put("process_cpu_seconds", "User and system CPU time used.", &ConstCounter::new(seconds))?;
        }
        if let Some(bytes) = resident_bytes() {
            put("process_resident_memory_bytes", "Resident memory size.", &ConstGauge::new(bytes))?;
        }
        if let Some(count) = open_files() {
            put("process_open_fds", "Open file descriptors.", &ConstGauge::new(count))?;
        }
        Ok(())
    }
}

fn cpu_seconds() -> Option<f64> {
    let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    Some(used.tv_sec() as f64 + used.tv_nsec() as f64 / 1e9)
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(kibibytes * 1024)
}

/// Without the one that this very question opens.
fn open_files() -> Option<u64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(open).ok()?.checked_sub(1)
}
