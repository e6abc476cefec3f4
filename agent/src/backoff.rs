//! Pauses before something is tried again: growing, and jittered, so that clients that failed together do not come back
//! together.

use std::time::Duration;

/// Growing, jittered pauses between starts of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    pub first: Duration,
    pub max: Duration,
    /// A process that ran this long before it ended starts again from `first`.
    pub stable: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(10),
            stable: Duration::from_secs(30),
        }
    }
}

impl BackOff {
    /// Between half and all of `first * 2^failures`, at most `max`.
    pub fn delay(&self, failures: u32) -> Duration {
        let ceiling = self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.max);
        jittered(ceiling)
    }
}

/// A random span between half and all of `ceiling`.
pub fn jittered(ceiling: Duration) -> Duration {
    ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_their_jitter_and_stop_growing() {
        let back_off =
            BackOff { first: Duration::from_millis(100), max: Duration::from_secs(2), ..BackOff::default() };
        for (failures, ceiling) in [(0, 100), (1, 200), (3, 800), (5, 2000), (31, 2000), (u32::MAX, 2000)] {
            let ceiling = Duration::from_millis(ceiling);
            let delay = back_off.delay(failures);
            assert!(delay >= ceiling / 2 && delay <= ceiling, "{failures}: {delay:?}");
        }
    }
}
