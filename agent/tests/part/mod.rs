//! The real programs that tests run.

use std::path::{Path, PathBuf};

/// A program from the parts' cache. `None`, said loudly, when it was never fetched; in CI that is an error.
pub fn part(name: &str) -> Option<PathBuf> {
    let parts = std::env::var_os("MUSTER_PARTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/parts/bin"), PathBuf::from);
    let program = parts.join(name);
    if program.exists() {
        return Some(program);
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{} is missing", program.display());
    println!("SKIPPED: no {name}; set MUSTER_PARTS or run `images/parts.sh {name}`");
    None
}
