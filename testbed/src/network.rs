//! A network namespace of a test's own: for settings that would be the whole machine's, and for losing an interface.

use std::future::Future;
use std::io::Write;
use std::process::Command;

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, unshare};

/// Runs a test on a thread that has its own network, with `lo` up and `tcp_migrate_req` set as the container `front` has
/// it. Everything started from there has the same network. Says so and does nothing where that is not allowed.
///
/// # Errors
/// The test's own.
///
/// # Panics
/// When the test does.
pub fn alone<F: Future<Output = anyhow::Result<()>>>(
    test: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<()> {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            ensure!(
                std::env::var_os("CI").is_none_or(|ci| ci.is_empty()),
                "nothing is skipped in CI: a network namespace needs root ({errno})"
            );
            // Not `eprintln!`, which the harness captures.
            _ = writeln!(std::io::stderr(), "SKIPPED: a network namespace needs root ({errno})");
            return Ok(());
        }
        ip(&["link", "set", "lo", "up"])?;
        std::fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1").context("setting tcp_migrate_req")?;
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `ip` with these words, in the calling thread's network.
///
/// # Errors
/// What it said.
pub fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).output().context("running ip")?;
    ensure!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
