//! The leader writes down what happened: one key an event, exactly once, complete over leader changes.
//!
//! Events and the cursor are written in one fenced transaction, and a new leader takes the watch up from the cursor:
//! etcd keeps the revisions in between. Keys go by revision, so that what is written twice stands there once.

mod cursor;
mod recent;

use std::net::Ipv4Addr;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, SortOrder, SortTarget, Txn, TxnOp, WatchStream,
};
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::address::allowed_networks;
use super::drained;
use super::etcd::{CALL_TIMEOUT, CallError, Etcd, change_of, classify};
use crate::clock::wall;
use crate::config::Allow;
use crate::fleet::history::{Event, EventKind, events};
use crate::fleet::{Change, KeySpace, Leadership, Roster};
use crate::metrics::Op;
use cursor::Cursor;
pub use recent::Recent;
pub(crate) use recent::read;

/// Events kept; the oldest go first, so many at a time.
const MAX_EVENTS: usize = 10_000;
const TRIM: usize = 100;
/// Events in one transaction; etcd takes 128 operations.
const MAX_PUTS: usize = 100;
/// Pause before the history is taken up again after etcd did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The leader's part.
pub struct History {
    pub etcd: Etcd,
    pub space: KeySpace,
    /// Which nodes are nodes: the same as in the list.
    pub allow: Vec<Allow>,
    pub address: Receiver<Option<Ipv4Addr>>,
    pub leadership: Receiver<Option<Leadership>>,
}

/// One term's knowledge.
struct Term {
    leading: Leadership,
    space: KeySpace,
    /// The range as it was at the last revision written down.
    roster: Roster,
    /// Events in the registry.
    kept: usize,
}

impl History {
    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        loop {
            let Some(leading) = self.leadership.borrow_and_update().clone() else {
                if self.leadership.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                continue;
            };
            if let Err(error) = self.lead(leading).await {
                debug!(%error, "history not written");
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Until the leadership is another.
    async fn lead(&mut self, leading: Leadership) -> Result<(), CallError> {
        // Whoever leads has registered, and so knows its address.
        let Some(ip) = *self.address.borrow() else {
            sleep(RETRY_PAUSE).await;
            return Ok(());
        };
        let mut space = self.space.clone();
        space.set_allow(allowed_networks(&self.allow, ip));
        let (roster, gap) = self.take_up(&space).await?;
        let kept = self.count(&space).await?;
        let (start, end) = space.range();
        let mut stream = self.etcd.watch(start, end, roster.read_at + 1).await?;
        let mut term = Term { leading: leading.clone(), space, roster, kept };
        if let Some(gap) = gap {
            warn!(reason = gap.reason, "history has a gap");
            if !self.write(&mut term, vec![gap]).await? {
                return self.another_term(&leading).await;
            }
        }
        loop {
            let changes = tokio::select! {
                changes = next(&mut stream) => changes?,
                () = until_another(&mut self.leadership, &leading) => return Ok(()),
            };
            let happened = self.step(&mut term, &changes).await;
            if !self.write(&mut term, happened).await? {
                return self.another_term(&leading).await;
            }
        }
    }

    async fn another_term(&mut self, leading: &Leadership) -> Result<(), CallError> {
        _ = timeout(CALL_TIMEOUT, until_another(&mut self.leadership, leading)).await;
        Ok(())
    }

    /// Applies what the watch said revision by revision, and tells what happened in each.
    async fn step(&self, term: &mut Term, changes: &[Change]) -> Vec<Event> {
        let mut happened = Vec::new();
        for one_revision in changes.chunk_by(|a, b| a.revision == b.revision) {
            let (next, _) = term.roster.apply(&term.space, one_revision);
            if next.applied > term.roster.applied {
                happened.extend(events(&term.roster, &next, &wall()));
                term.roster = next;
            }
        }
        for event in happened.iter_mut().filter(|event| event.event == EventKind::Left) {
            event.took_ms = drained::took(&self.etcd, &term.space, &event.instance, event.revision).await;
        }
        happened
    }

    /// Whether this agent was still the one who leads.
    async fn write(&self, term: &mut Term, happened: Vec<Event>) -> Result<bool, CallError> {
        let keys = happened.chunk_by(|a, b| a.revision == b.revision).flat_map(|one_revision| {
            one_revision.iter().enumerate().map(|(n, event)| term.space.event_key(event.revision, n))
        });
        let mut puts: Vec<TxnOp> =
            keys.zip(&happened).map(|(key, event)| TxnOp::put(key, value(event), None)).collect();
        let cursor = Cursor::of(&term.roster);
        puts.push(TxnOp::put(term.space.history_cursor_key(), cursor.value(), None));
        // The cursor is in the last of them.
        for puts in puts.chunks(MAX_PUTS) {
            if !self.commit(&term.leading, puts.to_vec()).await? {
                return Ok(false);
            }
        }
        term.kept += happened.len();
        if term.kept > MAX_EVENTS + TRIM {
            self.trim(term).await?;
        }
        Ok(true)
    }

    async fn trim(&self, term: &mut Term) -> Result<(), CallError> {
        let surplus = term.kept - MAX_EVENTS;
        let (start, end) = term.space.history();
        let options = GetOptions::new()
            .with_range(end)
            .with_keys_only()
            .with_sort(SortTarget::Key, SortOrder::Ascend)
            .with_limit(i64::try_from(surplus).unwrap_or(i64::MAX));
        let oldest = self.etcd.call(Op::Range, 2, |client| {
            let (start, options) = (start.clone(), options.clone());
            async move { client.kv_client().get(start, Some(options)).await }
        });
        let Some(last) = oldest.await?.kvs().last().map(|kv| kv.key().to_vec()) else { return Ok(()) };
        let upto = DeleteOptions::new().with_range([last.as_slice(), b"\0"].concat());
        if self.commit(&term.leading, vec![TxnOp::delete(start, Some(upto))]).await? {
            term.kept = self.count(&term.space).await?;
        }
        Ok(())
    }

    async fn count(&self, space: &KeySpace) -> Result<usize, CallError> {
        let (start, end) = space.history();
        let options = GetOptions::new().with_range(end).with_count_only();
        let counted = self.etcd.call(Op::Range, 2, |client| {
            let (start, options) = (start.clone(), options.clone());
            async move { client.kv_client().get(start, Some(options)).await }
        });
        Ok(usize::try_from(counted.await?.count()).unwrap_or(0))
    }

    /// Fenced: whether this agent was still the one whose candidate key has led.
    async fn commit(&self, leading: &Leadership, operations: Vec<TxnOp>) -> Result<bool, CallError> {
        let guard = Compare::create_revision(leading.key.clone(), CompareOp::Equal, leading.create_revision);
        let answer = self.etcd.call(Op::Txn, 2, |client| {
            let txn = Txn::new().when([guard.clone()]).and_then(operations.clone());
            async move { client.kv_client().txn(txn).await }
        });
        Ok(answer.await?.succeeded())
    }
}

async fn until_another(leadership: &mut Receiver<Option<Leadership>>, leading: &Leadership) {
    if leadership.wait_for(|now| now.as_ref() != Some(leading)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the stream says next about the range.
async fn next(stream: &mut WatchStream) -> Result<Vec<Change>, CallError> {
    loop {
        let response = stream.message().await.map_err(classify)?;
        let Some(response) = response else {
            return Err(CallError::Unavailable("the watch has ended".into()));
        };
        if response.canceled() || response.compact_revision() > 0 {
            return Err(CallError::Unavailable(format!("watch ended: {}", response.cancel_reason())));
        }
        if !response.events().is_empty() {
            return Ok(response.events().iter().filter_map(change_of).collect());
        }
    }
}

/// As it stands under `history/`.
fn value(event: &Event) -> Vec<u8> {
    let mut value = serde_json::to_value(event).expect("plain structs always serialize");
    value["v"] = 1.into();
    value.to_string().into_bytes()
}
