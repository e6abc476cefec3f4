//! Where the history was left, and how it is taken up from there.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::History;
use crate::clock::wall;
use crate::fleet::history::{Event, EventKind};
use crate::fleet::{KeySpace, Roster};
use crate::registry::etcd::{CALL_TIMEOUT, CallError, classify};

/// Which epoch a roster is of that nobody compares with another.
const EPOCH: u64 = 1;

/// Up to where events are written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Cursor {
    revision: i64,
    /// What the range held at that revision, so that after a compaction it can be told whether anything happened since.
    held: String,
}

impl Cursor {
    pub(super) fn of(roster: &Roster) -> Self {
        Self { revision: roster.applied.max(roster.read_at), held: held(roster) }
    }

    pub(super) fn value(&self) -> String {
        serde_json::json!({ "v": 1, "revision": self.revision, "held": self.held }).to_string()
    }
}

impl History {
    /// The range as it was where the history was left; with what is to be told when some of what followed is forgotten.
    pub(super) async fn take_up(&self, space: &KeySpace) -> Result<(Roster, Option<Event>), CallError> {
        let known = self.cursor(space).await?;
        // A store begins at revision 1, with nothing in it.
        let from = known.as_ref().map_or(1, |cursor| cursor.revision.max(1));
        match self.roster_at(space, from).await {
            Err(error) if error.is_compacted() || error.is_future_revision() => {}
            roster => return Ok((roster?, None)),
        }
        let oldest = self.oldest(space, from).await?;
        let roster = self.roster_at(space, oldest).await?;
        if known.is_some_and(|cursor| cursor.held == held(&roster)) {
            return Ok((roster, None));
        }
        let reason = format!("the registry has forgotten revisions {} to {}", from + 1, roster.read_at);
        let gap = Event {
            revision: roster.read_at,
            at: wall(),
            event: EventKind::Gap,
            node: String::new(),
            instance: String::new(),
            ip: None,
            reason,
            took_ms: None,
        };
        Ok((roster, Some(gap)))
    }

    async fn cursor(&self, space: &KeySpace) -> Result<Option<Cursor>, CallError> {
        let key = space.history_cursor_key();
        let listing = self.etcd.list(&key, &[&key[..], b"\0"].concat(), 0).await?;
        let value = listing.entries.first().and_then(|entry| entry.put.as_ref());
        // One that cannot be read is none: then everything etcd remembers is written once more, to the same keys.
        Ok(value.and_then(|put| serde_json::from_slice(&put.value).ok()))
    }

    /// `at` 0: now.
    async fn roster_at(&self, space: &KeySpace, at: i64) -> Result<Roster, CallError> {
        let (start, end) = space.range();
        let listing = self.etcd.list(&start, &end, at).await?;
        let read_at = if at == 0 { listing.revision } else { at };
        Ok(Roster::from_list(space, EPOCH, &listing.entries, read_at, None).0)
    }

    /// The oldest revision that can still be read; 0 when that is the one asked for. Only a watch is told which.
    async fn oldest(&self, space: &KeySpace, from: i64) -> Result<i64, CallError> {
        let (start, end) = space.range();
        let asked = async {
            let mut stream = self.etcd.watch(start, end, from).await?;
            while let Some(response) = stream.message().await.map_err(classify)? {
                if response.compact_revision() > 0 {
                    return Ok(response.compact_revision());
                }
                if !response.created() {
                    break;
                }
            }
            Ok(0)
        };
        // Nothing comes where nothing was forgotten: the cursor is from a future that a restore has undone.
        timeout(CALL_TIMEOUT, asked).await.unwrap_or(Ok(0))
    }
}

fn held(roster: &Roster) -> String {
    let mut hash = Sha256::new();
    for (key, revision) in roster.keys() {
        hash.update(key);
        hash.update(revision.to_be_bytes());
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
