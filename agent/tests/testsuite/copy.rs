//! A copy of the program where a user may run it who may not come near the target directory.

use std::path::Path;
use std::process::Command;

/// Copies the agent to `to`.
///
/// By another process: one that a test beside this one starts meanwhile would hold a file of ours open for writing, and
/// such a file cannot be run ("Text file busy").
pub fn agent(to: &Path) {
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_muster")).arg(to).status().unwrap();
    assert!(copied.success(), "cp to {}: {copied}", to.display());
}
