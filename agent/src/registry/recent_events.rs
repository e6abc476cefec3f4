//! The youngest events, as every node follows them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::EventType;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::sleep;
use tracing::debug;

use super::client::{CallError, Etcd, classify};
use crate::fleet::KeySpace;
use crate::fleet::events::{Event, RECENT_EVENTS};
use crate::latest;

/// Pause before the history is read again after etcd did not answer.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Follows the history, oldest event first.
pub struct FollowEvents {
    pub etcd: Etcd,
    pub space: KeySpace,
    /// Another history of the registry has another history of the fleet.
    pub epoch: Receiver<u64>,
    /// `None` until it was read once.
    pub events: Sender<Option<Arc<VecDeque<Event>>>>,
}

impl FollowEvents {
    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        let mut pause = RETRY_PAUSE.0;
        loop {
            // Before the first list it is not known whether this registry is the right one.
            if *self.epoch.borrow_and_update() > 0 {
                let mut epoch = self.epoch.clone();
                tokio::select! {
                    error = self.follow(&mut pause) => debug!(
                        name: "history-not-followed",
                        %error,
                        "history not followed"
                    ),
                    () = latest::changed(&mut epoch) => continue,
                }
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(RETRY_PAUSE.1),
                () = latest::changed(&mut self.epoch) => {}
            }
        }
    }

    /// Lists, then watches from there; returns why it cannot go on.
    async fn follow(&self, pause: &mut Duration) -> CallError {
        let (mut events, revision) = match self.list().await {
            Ok(listed) => listed,
            Err(error) => return error,
        };
        self.show(&events);
        let (start, end) = self.space.history();
        let mut stream = match self.etcd.watch(start, end, revision + 1).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        *pause = RETRY_PAUSE.0;
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) if !response.canceled() => response,
                Ok(_) => return CallError::Unavailable("the watch has ended".into()),
                Err(error) => return classify(error),
            };
            let puts = response.events().iter().filter(|event| event.event_type() == EventType::Put);
            let fresh: Vec<Event> = puts.filter_map(|event| Event::read(event.kv()?.value())).collect();
            if fresh.is_empty() {
                continue;
            }
            // A leader that did not hear of its own success writes the same keys once more.
            events.retain(|known| !fresh.iter().any(|one| is_same(one, known)));
            events.extend(fresh);
            while events.len() > RECENT_EVENTS {
                events.pop_front();
            }
            self.show(&events);
        }
    }

    async fn list(&self) -> Result<(VecDeque<Event>, i64), CallError> {
        let (start, end) = self.space.history();
        let (values, revision) = self.etcd.last_values(&start, &end, RECENT_EVENTS).await?;
        Ok((values.iter().rev().filter_map(|value| Event::read(value)).collect(), revision))
    }

    fn show(&self, events: &VecDeque<Event>) {
        self.events.send_if_modified(|known| {
            let changed = known.as_deref() != Some(events);
            if changed {
                *known = Some(Arc::new(events.clone()));
            }
            changed
        });
    }
}

/// One written down twice may differ in its time alone.
fn is_same(one: &Event, other: &Event) -> bool {
    (one.revision, one.event, &one.instance, &one.node)
        == (other.revision, other.event, &other.instance, &other.node)
}
