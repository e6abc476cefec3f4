//! The task that keeps the files like the roster.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::files::{PublishError, Publisher, Written};
use super::render::{About, render};
use crate::fleet::{Contact, NodeState, Roster};
use crate::metrics::{Listed, Metrics, WriteResult};

/// First wait after a failed write; doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Follows roster and contact and rewrites the files when what they say changes. Nothing is written before the first
/// complete roster (epoch above 0). Returns when the senders are gone, which is the end of the agent.
///
/// A failed write is tried again with back-off, and at once when there is something newer to write.
pub async fn run(
    publisher: Publisher,
    about: About,
    mut roster: watch::Receiver<Arc<Roster>>,
    mut contact: watch::Receiver<Contact>,
    metrics: Metrics,
) {
    let mut desk = Desk {
        publisher: Arc::new(publisher),
        about: Arc::new(about),
        metrics,
        listed: None,
        failing: false,
    };
    let mut retry = RETRY_FIRST;
    let mut waiting_since = Instant::now();
    loop {
        let now = Arc::clone(&roster.borrow_and_update());
        let touch = contact.borrow_and_update().clone();
        let written = now.epoch == 0 || desk.publish(now, touch, waiting_since).await;
        let changed = tokio::select! {
            changed = roster.changed() => changed,
            changed = contact.changed() => changed,
            () = tokio::time::sleep(retry), if !written => Ok(()),
        };
        if changed.is_err() {
            return;
        }
        if written {
            waiting_since = Instant::now();
            retry = RETRY_FIRST;
        } else {
            retry = (retry * 2).min(RETRY_LONGEST);
        }
    }
}

struct Desk {
    publisher: Arc<Publisher>,
    about: Arc<About>,
    metrics: Metrics,
    /// What the last line of the log spoke of: epoch and revision.
    listed: Option<(u64, i64)>,
    failing: bool,
}

impl Desk {
    /// Whether the files now say what `roster` and `contact` say; `since` is when that became known here.
    async fn publish(&mut self, roster: Arc<Roster>, contact: Contact, since: Instant) -> bool {
        let (publisher, about, shown) = (self.publisher.clone(), self.about.clone(), Arc::clone(&roster));
        // On a thread of its own: a sync to a real disk would hold up the lease's renewal.
        let task = spawn_blocking(move || publisher.publish(&render(&shown, &contact, &about)));
        let outcome = task.await.unwrap_or_else(|ended| resume_unwind(ended.into_panic()));
        self.count(&outcome, since);
        match outcome {
            Ok(_) => {
                self.tell(&roster);
                true
            }
            Err(error) => {
                if !self.failing {
                    warn!(%error, "list not written");
                }
                self.failing = true;
                false
            }
        }
    }

    fn count(&self, outcome: &Result<Vec<Written>, PublishError>, since: Instant) {
        match outcome {
            Ok(written) => {
                for one in written {
                    self.metrics.list_writes.get_or_create(&(one.file, WriteResult::Written)).inc();
                }
                if !written.is_empty() {
                    self.metrics.list_apply_duration.observe(since.elapsed().as_secs_f64());
                    self.metrics.list_changed_timestamp.set(unix_seconds());
                }
            }
            Err(error) => {
                self.metrics.list_writes.get_or_create(&(error.file, WriteResult::Failed)).inc();
            }
        }
    }

    fn tell(&mut self, roster: &Roster) {
        if self.failing {
            info!("list written again");
            self.failing = false;
        }
        if self.listed.replace((roster.epoch, roster.revision)) == Some((roster.epoch, roster.revision)) {
            return;
        }
        let rows = roster.rows();
        for (state, label) in [
            (NodeState::Serving, Listed::Serving),
            (NodeState::Draining, Listed::Draining),
            (NodeState::Lost, Listed::Lost),
        ] {
            self.metrics.set_nodes(label, rows.iter().filter(|row| row.state == state).count());
        }
        self.metrics.list_revision.set(roster.revision);
        info!(revision = roster.revision, count = roster.routable().len(), "list changed");
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
