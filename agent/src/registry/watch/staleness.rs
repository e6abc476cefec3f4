//! When this node's list is stale: the registry has not been heard for too long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::clock::{BootTime, SharedTime, wall_before};
use crate::fleet::{Contact, Roster};

/// Marks this node stale while the registry has not been heard for `after`, and fresh again when it has.
pub async fn watch_contact(
    heard: SharedTime,
    after: Duration,
    contact: Sender<Contact>,
    mut roster: Receiver<Arc<Roster>>,
) {
    // Before the first list there is nothing that could be stale.
    if roster.wait_for(|roster| roster.epoch > 0).await.is_err() {
        return;
    }
    let look = after / 10;
    loop {
        let due = Instant::now() + look;
        sleep_until(due).await;
        // This agent itself stood still: what the registry said meanwhile waits to be read.
        if due.elapsed() > look {
            continue;
        }
        let age = BootTime::now().saturating_since(heard.get());
        let stale = age > after;
        contact.send_if_modified(|contact| {
            if stale == contact.stale_since.is_some() {
                return false;
            }
            if stale {
                warn!(
                    name: "registry-not-reached",
                    age_ms = age.as_millis() as u64,
                    "registry not reached: the list is marked stale and kept"
                );
            } else {
                info!(name: "registry-heard-again", "registry heard again: the list is fresh");
            }
            contact.stale_since = stale.then(|| wall_before(age));
            true
        });
    }
}
