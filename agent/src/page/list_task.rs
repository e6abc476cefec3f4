//! The task that keeps the files like the roster.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tracing::{info, warn};

use super::files::{Publisher, Written};
use super::render::{About, render};
use super::writer::{Attempt, Writer};
use crate::fleet::{Contact, NodeState, Roster};
use crate::metrics::{Listed, Metrics};

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
    let about = Arc::new(about);
    let mut writer = Writer::new(publisher, metrics.clone());
    let mut told = Told { metrics, listed: None };
    let mut retry = RETRY_FIRST;
    let mut waiting_since = Instant::now();
    loop {
        let now = Arc::clone(&roster.borrow_and_update());
        let touch = contact.borrow_and_update().clone();
        let mut written = true;
        if now.epoch > 0 {
            let (about, shown) = (about.clone(), now.clone());
            match writer.write(move |publisher| publisher.publish(&render(&shown, &touch, &about))).await {
                Attempt::Done { written, again } => {
                    if again {
                        info!(name: "list-written-again", "list written again");
                    }
                    told.tell(&now, &written, waiting_since);
                }
                Attempt::Failed { error, still } => {
                    if !still {
                        warn!(name: "list-not-written", %error, "list not written");
                    }
                    written = false;
                }
            }
        }
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

/// What metrics and log say of the list.
struct Told {
    metrics: Metrics,
    /// What the last line of the log spoke of: epoch and revision.
    listed: Option<(u64, i64)>,
}

impl Told {
    /// The files say what `roster` says, which became known here at `since`.
    fn tell(&mut self, roster: &Roster, written: &[Written], since: Instant) {
        if !written.is_empty() {
            self.metrics.list_apply_duration.observe(since.elapsed().as_secs_f64());
            self.metrics.list_changed_timestamp.set(unix_seconds());
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
        info!(
            name: "list-changed",
            revision = roster.revision,
            count = roster.routable().len(),
            "list changed"
        );
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
