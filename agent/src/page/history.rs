//! `history.json`: the youngest events, rewritten when there are more.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::files::Publisher;
use super::render::{About, json};
use crate::fleet::events::Event;
use crate::metrics::{ListFile, Metrics, WriteResult};

/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// The order of the fields is the order in the file.
#[derive(Serialize)]
struct Recent<'a> {
    schema: u32,
    fleet: &'a str,
    /// The youngest first.
    events: Vec<&'a Event>,
}

/// The file's content. What happened is the same on every node, and so are the bytes.
pub fn render_history(events: &VecDeque<Event>, about: &About) -> Vec<u8> {
    json(&Recent { schema: 1, fleet: &about.fleet, events: events.iter().rev().collect() }, 2)
}

/// Follows the events, `None` until they were read once. Returns when the sender is gone, which is the end of the agent.
pub async fn run_history(
    publisher: Publisher,
    about: About,
    mut events: watch::Receiver<Option<Arc<VecDeque<Event>>>>,
    metrics: Metrics,
) {
    let publisher = Arc::new(publisher);
    let mut failing = false;
    loop {
        let now = events.borrow_and_update().clone();
        let mut written = true;
        if let Some(now) = now {
            let (publisher, bytes) = (publisher.clone(), render_history(&now, &about));
            let task = spawn_blocking(move || publisher.replace(&[(ListFile::HistoryJson, &bytes)]));
            let outcome = task.await.unwrap_or_else(|ended| resume_unwind(ended.into_panic()));
            written = outcome.is_ok();
            let count = |result| metrics.list_writes.get_or_create(&(ListFile::HistoryJson, result)).inc();
            match outcome {
                Ok(replaced) if replaced.is_empty() => 0,
                Ok(_) => count(WriteResult::Written),
                Err(error) => {
                    if !failing {
                        warn!(%error, "history not written to its file");
                    }
                    count(WriteResult::Failed)
                }
            };
        }
        if failing && written {
            info!("history written to its file again");
        }
        failing = !written;
        let changed = tokio::select! {
            changed = events.changed() => changed,
            () = sleep(RETRY), if failing => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}
