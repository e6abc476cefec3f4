//! `muster healthcheck`: for the container engine, which knows 0 and 1 only.

use std::time::Duration;

use crate::config::HealthFlags;
use crate::process::probe::{local_address, probe};

/// Below the engine's own time-out, so that the reason is seen.
const BOUND: Duration = Duration::from_millis(1500);

/// Asks `/livez` of what runs here, or `/readyz`.
///
/// # Errors
/// The runtime cannot be made.
pub fn run(flags: &HealthFlags) -> anyhow::Result<u8> {
    let address = local_address(flags.listen, flags.metrics_port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = if flags.ready { "/readyz" } else { "/livez" };
    let why = match runtime.block_on(probe(address, path, BOUND)) {
        Ok(answer) if answer.status.as_u16() == 200 => return Ok(0),
        Ok(answer) => format!("answered {}", answer.status),
        Err(error) => error.to_string(),
    };
    if flags.ready {
        tracing::error!(name: "not-ready", %address, why, "not ready");
    } else {
        tracing::error!(
            name: "agent-or-nginx-does-not-answer",
            %address,
            why,
            "agent or nginx does not answer"
        );
    }
    Ok(1)
}
