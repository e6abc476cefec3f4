//! What an operator reads and writes by hand: the Envoys as the leader sees them, marks on nodes, and who leads next.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, DeleteOptions, Txn, TxnOp};
use futures::StreamExt;
use futures::stream::iter;
use serde::Deserialize;

use super::etcd::{CallError, Etcd};
use crate::fleet::history::Event;
use crate::fleet::{Candidate, KeySpace, Mark};
use crate::metrics::Op;

/// Questions under way at once.
const AT_ONCE: usize = 64;

/// What the leader wrote of one Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EnvoyRecord {
    pub connected: bool,
    /// Of the endpoints it acknowledged last.
    #[serde(default)]
    pub digest: Option<String>,
    /// The last push it rejected, in its own words.
    #[serde(default)]
    pub rejection: Option<String>,
    /// Create revision of the candidate key of the leader that wrote it.
    #[serde(default)]
    pub writer: i64,
}

/// Every Envoy on record, by its id.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn envoys(etcd: &Etcd, space: &KeySpace) -> Result<BTreeMap<String, EnvoyRecord>, CallError> {
    let (start, end) = space.envoys();
    let listing = etcd.list(&start, &end, 0).await?;
    let read = listing.entries.iter().filter_map(|entry| {
        let value = serde_json::from_slice(&entry.put.as_ref()?.value).ok()?;
        Some((space.envoy_id(&entry.key)?.to_owned(), value))
    });
    Ok(read.collect())
}

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
    let read = listing.entries.iter().filter_map(|entry| super::history::read(&entry.put.as_ref()?.value));
    let read: Vec<Event> = read.collect();
    let newest = read.last().map_or(after, |event| event.revision);
    Ok((read, newest))
}

/// Takes a node out by hand: it stays registered and is not routed to. The revision by which it is so.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn mark(etcd: &Etcd, space: &KeySpace, name: &str, mark: &Mark) -> Result<i64, CallError> {
    let value = serde_json::json!({ "v": 1, "since": mark.since, "why": mark.why }).to_string();
    write(etcd, Vec::new(), vec![TxnOp::put(space.mark_key(name), value, None)]).await.map(|(_, at)| at)
}

/// Takes the mark away. The revision by which it is so.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn unmark(etcd: &Etcd, space: &KeySpace, name: &str) -> Result<i64, CallError> {
    write(etcd, Vec::new(), vec![TxnOp::delete(space.mark_key(name), None)]).await.map(|(_, at)| at)
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
    let unchanged = [leader, to].map(|candidate| {
        let key = space.candidate_key(candidate.lease);
        Compare::create_revision(key, CompareOp::Equal, candidate.create_revision)
    });
    let (start, end) = space.candidates();
    let key = space.candidate_key(to.lease);
    let after = [&key[..], b"\0"].concat();
    let deletes = [(start, key), (after, end)]
        .map(|(from, to)| TxnOp::delete(from, Some(DeleteOptions::new().with_range(to))));
    write(etcd, unchanged.into(), deletes.into()).await.map(|(done, _)| done)
}

/// Whether the guards held, and the store's revision after it.
async fn write(etcd: &Etcd, guards: Vec<Compare>, writes: Vec<TxnOp>) -> Result<(bool, i64), CallError> {
    let answer = etcd.call(Op::Txn, 2, |client| {
        let txn = Txn::new().when(guards.clone()).and_then(writes.clone());
        async move { client.kv_client().txn(txn).await }
    });
    let answer = answer.await?;
    Ok((answer.succeeded(), answer.header().map_or(0, etcd_client::ResponseHeader::revision)))
}
