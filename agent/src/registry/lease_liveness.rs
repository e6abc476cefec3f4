//! [`LeaseLiveness`]: whether a lease is still renewed, from several readings of the time it has left.

use std::time::Duration;

use tokio::time::Instant;

/// More than a renewal takes, by which even the second of two may be late.
const LATE: Duration = Duration::from_millis(200);
/// etcd tells whole seconds, rounded down.
const ROUNDING: Duration = Duration::from_secs(1);

/// What the readings so far come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It was renewed between two readings: its holder is alive.
    Renewed,
    /// Two renewals in a row did not come.
    Unrenewed,
    /// Too early to tell.
    Open,
}

/// Readings of one lease. A lease is renewed every third of its time; one that slept for less than that and woke has
/// missed one renewal and not two.
#[derive(Debug, Default)]
pub struct LeaseLiveness {
    /// When the lease ends at the latest if it is not renewed.
    ends_by: Option<Instant>,
}

impl LeaseLiveness {
    /// Takes a reading: asked at `asked`, answered at `answered`, with `left` whole seconds of `granted`.
    pub fn read(&mut self, asked: Instant, answered: Instant, left: Duration, granted: Duration) -> Liveness {
        if self.ends_by.is_some_and(|ends_by| asked + left > ends_by) {
            return Liveness::Renewed;
        }
        let ends_by = self.ends_by.unwrap_or(answered + left + ROUNDING).min(answered + left + ROUNDING);
        self.ends_by = Some(ends_by);
        let two_missed = granted * 2 / 3 + LATE;
        if ends_by.saturating_duration_since(answered) + two_missed <= granted {
            Liveness::Unrenewed
        } else {
            Liveness::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads every `every` from `from` on a lease of `granted` that is renewed at the times given, for ever after the
    /// last of them not; the first word that is not open, and when it fell. All in milliseconds.
    fn verdict(granted: u64, renewed: &[u64], from: u64, every: u64) -> (Liveness, u64) {
        let start = Instant::now();
        let mut renewals = LeaseLiveness::default();
        for now in (from..).step_by(every as usize) {
            let last = renewed.iter().filter(|at| **at <= now).max().copied().unwrap_or(0);
            let left = Duration::from_secs((last + granted).saturating_sub(now) / 1000);
            let at = start + Duration::from_millis(now);
            match renewals.read(at, at, left, Duration::from_millis(granted)) {
                Liveness::Open => {}
                word => return (word, now),
            }
        }
        unreachable!("the readings never end")
    }

    #[test]
    fn two_renewals_that_did_not_come_are_enough() {
        for age in (0..1667).step_by(50) {
            let (word, at) = verdict(5000, &[0], age, 100);
            assert_eq!(word, Liveness::Unrenewed);
            assert!((3533..3734).contains(&at), "{at} ms after the last renewal");
        }
    }

    proptest! {
        #[test]
        fn who_renews_in_time_or_wakes_after_a_third_is_never_unrenewed(
            third in 667u64..20_000, from in 0u64..20_000, nap in 0u64..20_000, at in 0u64..60_000,
        ) {
            let granted = third * 3;
            // Renewed by rote, but for one nap of a third at most, whose first act is a renewal.
            let (nap, woke) = (at, at + nap.min(third));
            let mut renewed: Vec<u64> = (0..100).map(|round| round * third).collect();
            renewed.retain(|time| *time < nap || *time >= woke);
            renewed.push(woke);
            prop_assert_eq!(verdict(granted, &renewed, from, 100).0, Liveness::Renewed);
        }
    }
}
