//! What an operator reads and writes by hand: leases, members, events, marks on nodes, and a change of leader.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;

use super::client::{CallError, Etcd, txn};
use crate::fleet::events::Event;
use crate::fleet::{Candidate, KeySpace, Mark, Value};
use crate::metrics::Op;

/// Questions under way at once.
const AT_ONCE: usize = 64;
/// Laps over all members before a write is given up.
const LAPS: usize = 2;

/// How long each lease has left; absent where it has ended or no answer came.
pub async fn leases_left(etcd: &Etcd, leases: impl IntoIterator<Item = i64>) -> BTreeMap<i64, Duration> {
    let asked = leases.into_iter().map(|lease| async move {
        let answer = etcd.call(Op::TimeToLive, 1, |client| async move {
            client.lease_client().time_to_live(lease, None).await
        });
        let left = u64::try_from(answer.await.ok()?.ttl()).ok()?;
        Some((lease, Duration::from_secs(left)))
    });
    iter(asked).buffer_unordered(AT_ONCE).filter_map(|answer| async move { answer }).collect().await
}

/// Which members answer a read that a majority must have agreed to.
pub async fn members_that_answer(etcd: &Etcd, space: &KeySpace) -> Vec<(String, Result<(), CallError>)> {
    let key = space.life_key();
    let asked = etcd.each().into_iter().map(|(endpoint, member)| {
        let key = key.clone();
        async move {
            let answer = member.call(Op::Range, 1, |client| {
                let key = key.clone();
                async move { client.kv_client().get(key, None).await }
            });
            (endpoint, answer.await.map(drop))
        }
    });
    futures::future::join_all(asked).await
}

/// What happened, the oldest first, and the revision up to which it was read.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn events(etcd: &Etcd, space: &KeySpace, after: i64) -> Result<(Vec<Event>, i64), CallError> {
    let (mut start, end) = space.history();
    if after > 0 {
        start = space.event_key(after + 1, 0);
    }
    let listing = etcd.list(&start, &end, 0).await?;
    let read = listing.entries.iter().filter_map(|entry| Event::read(&entry.put.as_ref()?.value));
    let read: Vec<Event> = read.collect();
    let newest = read.last().map_or(after, |event| event.revision);
    Ok((read, newest))
}

/// Takes a node out by hand: it stays registered and is not routed to. The revision by which it is so.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn mark(etcd: &Etcd, space: &KeySpace, name: &str, mark: &Mark) -> Result<i64, CallError> {
    let put = txn::put(&space.mark_key(name), mark.to_bytes());
    Ok(etcd.commit(LAPS, &[], &[put], &[]).await?.revision)
}

/// Takes the mark away. The revision by which it is so.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn unmark(etcd: &Etcd, space: &KeySpace, name: &str) -> Result<i64, CallError> {
    etcd.delete(LAPS, &space.mark_key(name)).await
}

/// Deletes every candidate key but `to`'s in one transaction: it leads, and the others queue anew. `false`: `leader` or
/// `to` has changed meanwhile, and nothing was done.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn switch(
    etcd: &Etcd,
    space: &KeySpace,
    leader: &Candidate,
    to: &Candidate,
) -> Result<bool, CallError> {
    let unchanged = [leader, to]
        .map(|candidate| txn::created_at(&space.candidate_key(candidate.lease), candidate.create_revision));
    let (start, end) = space.candidates();
    let key = space.candidate_key(to.lease);
    let deletes = [txn::delete_range(&start, &key), txn::delete_range(&txn::after(&key), &end)];
    Ok(etcd.commit(LAPS, &unchanged, &deletes, &[]).await?.succeeded)
}
