//! Programs that a test makes and runs.
//!
//! By another process: one that a test beside this one starts meanwhile would hold a file of ours open for writing, and
//! such a file cannot be run ("Text file busy").

use std::path::Path;
use std::process::Command;

/// Copies the agent to `to`, where a user may run it who may not come near the target directory.
pub fn copy_of_the_agent(to: &Path) {
    let made = Command::new("cp").arg(env!("CARGO_BIN_EXE_muster")).arg(to).status().unwrap();
    assert!(made.success(), "{}: {made}", to.display());
}

/// Writes `text` to `to`, and makes it a script that can be run.
pub fn script(to: &Path, text: &str) {
    let write = r#"printf %s "$1" >"$2" && chmod 0755 "$2""#;
    let made = Command::new("sh").args(["-c", write, "sh", text]).arg(to).status().unwrap();
    assert!(made.success(), "{}: {made}", to.display());
}
