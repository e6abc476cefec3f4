//! The real programs that tests run, and what happens to a test that this machine cannot run.

use std::path::{Path, PathBuf};

/// A program from the parts' cache, or from `MUSTER_PARTS`. `None` when it was never fetched, as [`skip`] has it.
#[allow(dead_code)] // not every test binary that can skip runs a part
pub fn part(name: &str) -> Option<PathBuf> {
    let parts = std::env::var_os("MUSTER_PARTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/parts/bin"), PathBuf::from);
    let program = parts.join(name);
    if program.exists() {
        return Some(program);
    }
    skip(&format!("{} is missing; set MUSTER_PARTS or run `images/parts.sh {name}`", program.display()));
    None
}

/// Says on stderr that a test, or a part of one, does not run here, past the harness that keeps what tests print.
///
/// # Panics
/// In CI, where nothing may be skipped.
#[allow(dead_code)] // not every test binary that runs a part can skip something else
pub fn skip(why: &str) {
    use std::io::Write;
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "nothing is skipped in CI: {why}");
    // Not `eprintln!`, which the harness captures.
    _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", std::thread::current().name().unwrap_or("a test"));
}
