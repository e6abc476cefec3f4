//! Holding a list back that lost most of its nodes at once, to give them time to register again.
//!
//! It happens when the registry was wiped or restored, and when an etcd leader that was frozen wakes and ends every
//! lease (seen with etcd 3.5.30). Emptying every file and every balancer would be the worst answer to either; a real
//! death of most nodes is hidden by Envoy's own checks meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Holds while a floor has been set, the list is below it, and the time is not over.
#[derive(Debug, Default)]
pub struct Hold {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    /// A list as long as this ends the hold.
    floor: usize,
    limit: Duration,
    until: Instant,
}

impl Hold {
    /// Holds lists shorter than `floor` rows back for at most `limit`. One that holds already goes on.
    pub fn start(&mut self, floor: usize, limit: Duration) {
        self.held.get_or_insert_with(|| Held { floor, limit, until: Instant::now() + limit });
    }

    /// Gives the nodes their whole time again: while the registry was away they could not register.
    pub fn restart(&mut self) {
        if let Some(held) = &mut self.held {
            held.until = Instant::now() + held.limit;
        }
    }

    /// Whether a list of `rows` may be published; the first that may ends the hold.
    pub fn lets_through(&mut self, rows: usize) -> bool {
        let holds = self.held.as_ref().is_some_and(|held| rows < held.floor && Instant::now() < held.until);
        if !holds {
            self.held = None;
        }
        !holds
    }

    pub fn is_over(&self) -> bool {
        self.held.is_none()
    }

    /// Waits for the end of the hold's time; for ever when nothing is held.
    pub async fn time(&self) {
        match &self.held {
            Some(held) => sleep_until(held.until).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn holds_short_lists_until_the_time_is_over() {
        let mut hold = Hold::default();
        assert!(hold.lets_through(0), "nothing is held before it starts");
        hold.start(3, Duration::from_secs(5));
        assert!(!hold.lets_through(2));
        hold.time().await;
        assert!(hold.lets_through(2));
        assert!(hold.lets_through(0), "and the hold has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_as_long_as_before_ends_the_hold() {
        let mut hold = Hold::default();
        hold.start(3, Duration::from_secs(5));
        assert!(hold.lets_through(3));
        assert!(hold.lets_through(1), "later removals are believed");
    }

    #[tokio::test(start_paused = true)]
    async fn time_without_a_registry_does_not_count() {
        let mut hold = Hold::default();
        hold.start(3, Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(4)).await;
        hold.restart();
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!hold.lets_through(2));
    }
}
