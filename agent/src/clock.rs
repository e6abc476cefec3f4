//! The two clocks: one that counts through a suspend, for everything that must end in time, and one for people.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A moment on CLOCK_BOOTTIME. [`std::time::Instant`] stands still while the machine is suspended, so a lease judged
/// by it would look alive after it had ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// # Panics
    /// Never on Linux, where the clock exists since 2.6.39.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists on Linux");
        Self(Duration::from(now))
    }

    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

/// A [`BootTime`] that one task moves and any thread reads. It starts at 0, the distant past.
#[derive(Clone, Debug, Default)]
pub struct SharedTime(Arc<AtomicU64>);

impl SharedTime {
    pub fn set(&self, at: BootTime) {
        self.0.store(at.0.as_millis() as u64, Ordering::Release);
    }

    pub fn get(&self) -> BootTime {
        BootTime(Duration::from_millis(self.0.load(Ordering::Acquire)))
    }
}

/// Wall-clock time for people: RFC 3339 in UTC with milliseconds.
pub fn wall() -> String {
    wall_before(Duration::ZERO)
}

/// The wall-clock time `age` ago.
pub fn wall_before(age: Duration) -> String {
    let now = jiff::Timestamp::now();
    shown(now.checked_sub(age).unwrap_or(now))
}

/// The wall-clock time in `span`.
pub fn wall_after(span: Duration) -> String {
    let now = jiff::Timestamp::now();
    shown(now.checked_add(span).unwrap_or(now))
}

/// Seconds since 1970 by the wall clock, as certificates count them.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()).cast_signed()
}

/// RFC 3339 in UTC with milliseconds, of one width: order as text is order in time.
pub fn shown(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn wall_time_has_one_width() {
        let now = super::wall();
        assert_eq!(now.len(), "2026-11-20T20:15:58.980Z".len(), "{now}");
        assert!(now.parse::<jiff::Timestamp>().is_ok(), "{now}");
    }
}
