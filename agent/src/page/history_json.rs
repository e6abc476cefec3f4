//! `history.json`: the youngest events, rewritten when there are more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::files::Publisher;
use super::render::{About, json};
use super::writer::{Attempt, Writer};
use crate::fleet::events::Event;
use crate::metrics::{ListFile, Metrics};

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
    let mut writer = Writer::new(publisher, metrics);
    loop {
        let now = events.borrow_and_update().clone();
        let mut failing = false;
        if let Some(now) = now {
            let bytes = render_history(&now, &about);
            match writer.write(move |publisher| publisher.replace(&[(ListFile::HistoryJson, &bytes)])).await {
                Attempt::Done { again: true, .. } => info!(
                    name: "history-written-to-its-file-again",
                    "history written to its file again"
                ),
                Attempt::Done { .. } => {}
                Attempt::Failed { error, still } => {
                    if !still {
                        warn!(
                            name: "history-not-written-to-its-file",
                            %error,
                            "history not written to its file"
                        );
                    }
                    failing = true;
                }
            }
        }
        let changed = tokio::select! {
            changed = events.changed() => changed,
            () = sleep(RETRY), if failing => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}
