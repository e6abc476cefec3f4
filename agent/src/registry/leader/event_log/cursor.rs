//! Where the history was left, and how it is taken up from there.

use tokio::time::timeout;

use crate::clock::wall;
use crate::fleet::events::{Event, EventKind};
use crate::fleet::{CursorValue, KeySpace, Roster, Value, digest};
use crate::registry::client::{CALL_TIMEOUT, CallError, Etcd, classify};

/// The epoch of a roster that is compared with no other.
const EPOCH: u64 = 1;

/// The cursor when everything up to this roster is written down.
pub(super) fn at(roster: &Roster) -> CursorValue {
    CursorValue { revision: roster.applied.max(roster.read_at), held: held(roster) }
}

/// The range as it was where the history was left; with what is to be told when some of what followed is forgotten.
pub(super) async fn take_up(etcd: &Etcd, space: &KeySpace) -> Result<(Roster, Option<Event>), CallError> {
    let known = cursor(etcd, space).await?;
    // A store begins at revision 1, with nothing in it.
    let from = known.as_ref().map_or(1, |cursor| cursor.revision.max(1));
    match roster_at(etcd, space, from).await {
        Err(error) if error.is_compacted() || error.is_future_revision() => {}
        roster => return Ok((roster?, None)),
    }
    let oldest = oldest(etcd, space, from).await?;
    let roster = roster_at(etcd, space, oldest).await?;
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

async fn cursor(etcd: &Etcd, space: &KeySpace) -> Result<Option<CursorValue>, CallError> {
    let (value, _) = etcd.get(&space.history_cursor_key(), 0).await?;
    // One that cannot be read is none: then everything etcd remembers is written once more, to the same keys.
    Ok(value.and_then(|value| CursorValue::read(&value).ok()))
}

/// `at` 0: now.
async fn roster_at(etcd: &Etcd, space: &KeySpace, at: i64) -> Result<Roster, CallError> {
    let (start, end) = space.range();
    let listing = etcd.list(&start, &end, at).await?;
    let read_at = if at == 0 { listing.revision } else { at };
    Ok(Roster::from_list(space, EPOCH, &listing.entries, read_at, None).0)
}

/// The oldest revision that can still be read; 0 when that is the one asked for. Only a watch is told which.
async fn oldest(etcd: &Etcd, space: &KeySpace, from: i64) -> Result<i64, CallError> {
    let (start, end) = space.range();
    let asked = async {
        let mut stream = etcd.watch(start, end, from).await?;
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

fn held(roster: &Roster) -> String {
    digest(roster.keys().iter().map(|(key, revision)| [&key[..], &revision.to_be_bytes()].concat()))
}
