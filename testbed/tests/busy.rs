//! A machine that has no time: late is not dead. Alone in its program, so that it makes nobody else late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use testbed::Testbed;
use testbed::observe::Sampler;

/// What `make up` uses, so that the shortest bounds are tried that anybody meets.
const TTL: Duration = Duration::from_secs(5);

/// One thread for each core that never rests.
struct Burning {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Burning {
    fn every_core() -> anyhow::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let threads = (0..cores()?).map(|_| {
            let ended = ended.clone();
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {}
                clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Into::into)
            })
        });
        Ok(Self { threads: threads.collect(), ended })
    }

    /// Ends the threads, and returns the time that each had on a core.
    fn end(self) -> Vec<Duration> {
        self.ended.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("nothing in it panics")).collect()
    }
}

/// What all cores of the machine together have rested since its start, or waited for a disk: proc_stat(5).
fn idle_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map_while(|n| n.parse().ok())
        .collect();
    let [_, _, _, idle, waiting, ..] = fields[..] else { anyhow::bail!("no times in /proc/stat") };
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_secs_f64((idle + waiting) as f64 / ticks as f64))
}

fn cores() -> anyhow::Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

/// `BUSY_SECONDS=600` for the length that was promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_reaped_or_deposed_while_every_core_is_busy() -> anyhow::Result<()> {
    let seconds = std::env::var("BUSY_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Testbed::builder()
        .ttl(TTL)
        .run(async |bed| {
            let candidates = async || -> anyhow::Result<Vec<(String, i64)>> {
                let keys = bed.etcd.get_prefix("/muster/leader/").await?.keys;
                Ok(keys.into_iter().map(|key| (key.key, key.create_revision)).collect())
            };
            let before = candidates().await?;
            let sampler = Sampler::start(bed.nodes());
            let span = Duration::from_secs(seconds.unwrap_or(15));
            let idle_before = idle_time()?;
            let burning = Burning::every_core()?;
            tokio::time::sleep(span).await;
            let burnt = burning.end();
            // Beside other load they have less than their half: then it is the machine that had no time.
            let idle = idle_time()?.saturating_sub(idle_before).div_f64(cores()? as f64);
            ensure!(
                burnt.iter().all(|had| *had > span / 4) || idle < span / 20,
                "the cores were not busy: {burnt:?} of {span:?}, {idle:?} idle"
            );
            ensure!(candidates().await? == before, "somebody was deposed, or gave up its turn");
            for node in bed.nodes() {
                let reaped = node.said("reaped")?;
                ensure!(reaped.is_empty(), "{reaped:?}");
            }
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}
