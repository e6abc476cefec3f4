//! The leader writes down what happened: one key an event, exactly once, complete over leader changes.
//!
//! Events and the cursor are written in one fenced transaction, and a new leader takes the watch up from the cursor:
//! etcd keeps the revisions in between. Keys go by revision, so that what is written twice stands there once.

mod cursor;

use std::net::Ipv4Addr;

use etcd_client::{TxnOp, WatchStream};
use tokio::sync::watch::Receiver;
use tracing::warn;

use super::term::{Duty, Term, TermError};
use crate::clock::wall;
use crate::config::Allow;
use crate::fleet::events::{Event, EventKind, events};
use crate::fleet::{Change, KeySpace, Roster, Value};
use crate::latest;
use crate::registry::address::allowed_networks;
use crate::registry::client::{CallError, Etcd, change_of, classify, txn};
use crate::registry::drained;

/// Events kept; the oldest go first, so many at a time.
const MAX_EVENTS: usize = 10_000;
const TRIM: usize = 100;

/// Writes the events.
pub struct WriteEvents {
    pub space: KeySpace,
    /// Which nodes are nodes: the same as in the list.
    pub allow: Vec<Allow>,
    pub address: Receiver<Option<Ipv4Addr>>,
}

/// What is written down.
struct Log<'a> {
    term: &'a Term,
    space: KeySpace,
    /// The range as it was at the last revision written down.
    roster: Roster,
    /// Events in the registry.
    kept: usize,
}

impl Duty for WriteEvents {
    const NAME: &'static str = "history";

    async fn lead(&mut self, term: &Term) -> Result<(), TermError> {
        // Whoever leads has registered, and so knows its address.
        latest::wait_for(&mut self.address, Option::is_some).await;
        let Some(ip) = *self.address.borrow() else { return Ok(()) };
        let mut space = self.space.clone();
        space.set_allow(allowed_networks(&self.allow, ip));
        let (roster, gap) = cursor::take_up(&term.etcd, &space).await?;
        let kept = count(&term.etcd, &space).await?;
        let (start, end) = space.range();
        let mut stream = term.etcd.watch(start, end, roster.read_at + 1).await?;
        let mut log = Log { term, space, roster, kept };
        if let Some(gap) = gap {
            warn!(name: "history-has-a-gap", reason = gap.reason, "history has a gap");
            log.write(&[gap]).await?;
        }
        loop {
            let changes = next(&mut stream).await?;
            let happened = log.step(&changes).await;
            log.write(&happened).await?;
        }
    }
}

impl Log<'_> {
    /// Applies what the watch said revision by revision, and tells what happened in each.
    async fn step(&mut self, changes: &[Change]) -> Vec<Event> {
        let mut happened = Vec::new();
        for one_revision in changes.chunk_by(|a, b| a.revision == b.revision) {
            let (next, _) = self.roster.apply(&self.space, one_revision);
            if next.applied > self.roster.applied {
                happened.extend(events(&self.roster, &next, &wall()));
                self.roster = next;
            }
        }
        for event in happened.iter_mut().filter(|event| event.event == EventKind::Left) {
            event.took_ms =
                drained::took(&self.term.etcd, &self.space, &event.instance, event.revision).await;
        }
        happened
    }

    async fn write(&mut self, happened: &[Event]) -> Result<(), TermError> {
        let keys = happened.chunk_by(|a, b| a.revision == b.revision).flat_map(|one_revision| {
            one_revision.iter().enumerate().map(|(n, event)| self.space.event_key(event.revision, n))
        });
        let mut puts: Vec<TxnOp> =
            keys.zip(happened).map(|(key, event)| txn::put(&key, event.to_bytes())).collect();
        // The last of them: what it covers is written before.
        puts.push(txn::put(&self.space.history_cursor_key(), cursor::at(&self.roster).to_bytes()));
        self.term.commit(&puts).await?;
        self.kept += happened.len();
        if self.kept > MAX_EVENTS + TRIM {
            self.trim().await?;
        }
        Ok(())
    }

    async fn trim(&mut self) -> Result<(), TermError> {
        let surplus = self.kept - MAX_EVENTS;
        let (start, end) = self.space.history();
        let oldest = self.term.etcd.first_keys(&start, &end, surplus).await?;
        let Some(last) = oldest.last() else { return Ok(()) };
        self.term.commit(&[txn::delete_range(&start, &txn::after(last))]).await?;
        self.kept = count(&self.term.etcd, &self.space).await?;
        Ok(())
    }
}

async fn count(etcd: &Etcd, space: &KeySpace) -> Result<usize, CallError> {
    let (start, end) = space.history();
    etcd.count(&start, &end).await
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
