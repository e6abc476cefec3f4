//! Before Envoy ends: no new connections, and an end to the requests under way.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::admin::{Admin, Readiness};
use crate::metrics::EdgeDrain;

/// Shortest drain: idle connections are told with their next answer, and clients open new ones elsewhere meanwhile.
const LEAST: Duration = Duration::from_secs(1);
/// Between two looks at what is under way.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for what Envoy says before it is drained.
const ASK_BOUND: Duration = Duration::from_secs(1);

/// Takes Envoy out: every answer from now on ends its connection, every listener is closed; then waits until nothing
/// is under way, for [`LEAST`] at least and `bound` at most.
pub(super) async fn drain(admin: &Admin, bound: Duration) -> EdgeDrain {
    let began = Instant::now();
    match admin.ready(ASK_BOUND).await {
        Ok(Readiness::Initializing) => return EdgeDrain::NotNeeded,
        Ok(_) => {}
        Err(error) => {
            warn!(name: "envoy-not-drained", %error, "envoy not drained: it does not answer");
            return EdgeDrain::Silent;
        }
    }
    // In this order: the answers that say so must have begun before the last new connection has come.
    let told = async {
        admin.fail_health_check().await?;
        admin.close_listeners().await
    };
    if let Err(error) = told.await {
        warn!(name: "envoy-not-drained", %error, "envoy not drained: it does not answer");
        return EdgeDrain::Silent;
    }
    loop {
        let active = admin.under_way().await.ok();
        if let Some(result) = over(began.elapsed(), active, bound) {
            return result;
        }
        sleep(LOOK).await;
    }
}

/// Whether a drain is over after this time with so much under way; `None` where Envoy did not say.
fn over(elapsed: Duration, active: Option<u64>, bound: Duration) -> Option<EdgeDrain> {
    match active {
        Some(0) if elapsed >= LEAST.min(bound) => Some(EdgeDrain::Done),
        _ if elapsed >= bound => Some(EdgeDrain::Timeout),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_over_when_nothing_is_under_way_and_at_its_bound() {
        let (ms, bound) = (Duration::from_millis, Duration::from_secs(5));
        for (at, active, expected) in [
            (0, Some(0), None),
            (999, Some(0), None),
            (1000, Some(0), Some(EdgeDrain::Done)),
            (1000, Some(1), None),
            (1000, None, None),
            (4999, Some(7), None),
            (5000, Some(7), Some(EdgeDrain::Timeout)),
            (5000, None, Some(EdgeDrain::Timeout)),
            (5000, Some(0), Some(EdgeDrain::Done)),
        ] {
            assert_eq!(over(ms(at), active, bound), expected, "{at} ms, {active:?}");
        }
        assert_eq!(over(ms(0), Some(0), ms(0)), Some(EdgeDrain::Done));
        assert_eq!(over(ms(0), Some(1), ms(0)), Some(EdgeDrain::Timeout));
    }
}
