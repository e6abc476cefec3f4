//! A machine that has no time: late is not dead. Alone in its program, so that it makes nobody else late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use testbed::Testbed;
use testbed::observe::Sampler;

/// What `make up` uses, so that the shortest bounds are tried that anybody meets.
const TTL: Duration = Duration::from_secs(5);

/// One thread for each core that never rests; dropping it ends them.
struct Burning(Arc<AtomicBool>);

impl Burning {
    fn every_core() -> anyhow::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism()?.get() {
            let ended = ended.clone();
            std::thread::spawn(move || while !ended.load(Ordering::Relaxed) {});
        }
        Ok(Self(ended))
    }
}

impl Drop for Burning {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `BUSY_SECONDS=600` for the length that was promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_reaped_or_deposed_while_every_core_is_busy() -> anyhow::Result<()> {
    let seconds = std::env::var("BUSY_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Testbed::builder()
        .ttl(TTL)
        .run(async |bed| {
            let leader = bed.leader().await?;
            let sampler = Sampler::start(bed.nodes());
            let burning = Burning::every_core()?;
            tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(15))).await;
            drop(burning);
            ensure!(bed.leader().await? == leader, "the leader was deposed");
            for node in bed.nodes() {
                let reaped = node.said("reaped")?;
                ensure!(reaped.is_empty(), "{reaped:?}");
            }
            sampler.saw_one_list()?;
            Ok(())
        })
        .await
}
