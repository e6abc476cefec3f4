//! Pauses before something is tried again: growing, and jittered, so that those who failed together do not come back
//! together.

use std::time::Duration;

/// A random span between half and all of `ceiling`.
pub fn jittered(ceiling: Duration) -> Duration {
    ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
}
