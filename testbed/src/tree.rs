//! Reading `/proc`: who descends from whom, and what a process costs.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest time that [`freeze`] takes.
const FREEZE_BOUND: Duration = Duration::from_millis(100);

/// What a process holds and has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory in KiB, now.
    pub rss_kib: u64,
    /// Highest resident memory so far, in KiB.
    pub peak_rss_kib: u64,
    /// User and system time since its start.
    pub cpu: Duration,
}

/// Every descendant of `pid`, parents before children.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (child, parent) in parents() {
        children.entry(parent).or_default().push(child);
    }
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(next) = open.pop() {
        let own = children.remove(&next).unwrap_or_default();
        open.extend(&own);
        found.extend(own);
    }
    found
}

/// Stops `pid` and all its descendants, and names them. A process that is stopped starts nothing new, but one that was
/// about to may have: so the tree is read again until a reading shows nobody new and everybody stopped.
pub fn freeze(pid: i32) -> Vec<i32> {
    let began = Instant::now();
    let mut frozen = Vec::new();
    loop {
        let all: Vec<i32> = std::iter::once(pid).chain(descendants(pid)).collect();
        let settled = all == frozen && all.iter().all(|pid| is_stopped(*pid));
        // One that waits in the kernel for a child it has just made does not stop before that child goes on.
        if settled || began.elapsed() > FREEZE_BOUND {
            return all;
        }
        for pid in &all {
            let _gone = kill(Pid::from_raw(*pid), Signal::SIGSTOP);
        }
        frozen = all;
    }
}

/// The program name of a process as the kernel knows it (at most 15 bytes).
pub fn program_name(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned())
}

/// # Errors
/// When the process is gone.
pub fn usage(pid: i32) -> anyhow::Result<Usage> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let kib = |field: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    // Time on the run queue's clock is in nanoseconds; the ticks of /proc/PID/stat are too coarse for an idle agent.
    let mut cpu = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let nanos = schedstat.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
        cpu += Duration::from_nanos(nanos);
    }
    Ok(Usage { rss_kib: kib("VmRSS"), peak_rss_kib: kib("VmHWM"), cpu })
}

/// Stopped, ended or gone.
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    matches!(state, None | Some("T" | "t" | "Z" | "X"))
}

fn parents() -> impl Iterator<Item = (i32, i32)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name is in parentheses and may hold anything, also parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
}
