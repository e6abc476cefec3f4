//! The transactions on a node's own keys. Each may be repeated: it recognizes that it has succeeded before, because
//! an answer that was lost says nothing about what was done.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::etcd::{CallError, Etcd};
use crate::fleet::{KeySpace, Node, Roster, candidate_value, life_value, node_value};
use crate::metrics::Op;

/// Laps over all members before a write is given up for now.
const LAPS: usize = 2;
/// Rivals removed in one transaction: etcd takes 128 operations.
const MAX_RIVALS: usize = 40;

/// Puts the node key and the candidate key on `lease`. The same transaction deletes both keys of any other instance
/// with this address and the candidate key of `previous`, the own earlier lease. Returns the revision by which it is so.
///
/// # Errors
/// As [`Etcd::call`]; `NotFound` when the lease is gone.
pub async fn put(
    etcd: &Etcd,
    space: &KeySpace,
    node: &Node,
    lease: i64,
    previous: Option<i64>,
    roster: &Roster,
) -> Result<i64, CallError> {
    ensure_life(etcd, space, roster).await?;
    let node_key = space.node_key(&node.name, &node.instance);
    let candidate_key = space.candidate_key(lease);
    let value = node_value(node);
    let done = [
        Compare::lease(candidate_key.clone(), CompareOp::Equal, lease),
        Compare::value(node_key.clone(), CompareOp::Equal, value.clone()),
        Compare::lease(node_key.clone(), CompareOp::Equal, lease),
    ];
    let rivals = roster.nodes().filter(|other| other.ip == node.ip && other.instance != node.instance);
    let mut gone: BTreeSet<Vec<u8>> =
        previous.map(|previous| space.candidate_key(previous)).into_iter().collect();
    for rival in rivals.take(MAX_RIVALS) {
        gone.insert(space.node_key(&rival.name, &rival.instance));
        gone.insert(space.candidate_key(rival.lease));
    }
    // A stray key can hang on this node's own lease; put and delete of one key in one transaction is refused.
    gone.remove(&candidate_key);
    let mut write: Vec<TxnOp> = gone.into_iter().map(|key| TxnOp::delete(key, None)).collect();
    write.push(TxnOp::put(candidate_key, candidate_value(&node.instance, control_address(node)), on(lease)));
    write.push(TxnOp::put(node_key.clone(), value, on(lease)));
    let txn = Txn::new().when(done).and_then([TxnOp::get(node_key, None)]).or_else(write);
    commit(etcd, txn).await.map(|answer| revision(&answer))
}

/// Deletes the node key and keeps the candidate key: nginx does not answer, the agent does. Without a put where none is
/// needed, because an etcd that is out of space takes deletions only. Returns the revision by which it is so.
///
/// # Errors
/// As [`Etcd::call`]; `NotFound` when the lease is gone.
pub async fn withdraw(etcd: &Etcd, space: &KeySpace, node: &Node, lease: i64) -> Result<i64, CallError> {
    let revision = delete(etcd, space.node_key(&node.name, &node.instance)).await?;
    let candidate_key = space.candidate_key(lease);
    let there = Compare::lease(candidate_key.clone(), CompareOp::Equal, lease);
    let put = TxnOp::put(candidate_key, candidate_value(&node.instance, control_address(node)), on(lease));
    match commit(etcd, Txn::new().when([there]).or_else([put])).await {
        Err(error) if error.is_no_space() => Ok(revision),
        outcome => outcome.map(|_| revision),
    }
}

/// Puts the node's `draining` value and, unless it leads, deletes its candidate key; the revision of it.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn put_draining(
    etcd: &Etcd,
    space: &KeySpace,
    node: &Node,
    lease: i64,
    leading: bool,
) -> Result<i64, CallError> {
    let node_key = space.node_key(&node.name, &node.instance);
    let value = node_value(node);
    let done = [Compare::value(node_key.clone(), CompareOp::Equal, value.clone())];
    let mut write = vec![TxnOp::put(node_key.clone(), value, on(lease))];
    if !leading {
        write.push(TxnOp::delete(space.candidate_key(lease), None));
    }
    let txn = Txn::new().when(done).and_then([TxnOp::get(node_key, None)]).or_else(write);
    commit(etcd, txn).await.map(|answer| revision(&answer))
}

/// Deletes the own candidate key: the next in line leads.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn resign(etcd: &Etcd, space: &KeySpace, lease: i64) -> Result<(), CallError> {
    delete(etcd, space.candidate_key(lease)).await.map(drop)
}

/// Deletes one key; the revision by which it is gone.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn delete(etcd: &Etcd, key: Vec<u8>) -> Result<i64, CallError> {
    commit(etcd, Txn::new().and_then([TxnOp::delete(key, None)])).await.map(|answer| revision(&answer))
}

/// 16 hex digits that nobody else has.
pub fn new_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// Gives the registry's life an id where it has none that can be read.
async fn ensure_life(etcd: &Etcd, space: &KeySpace, roster: &Roster) -> Result<(), CallError> {
    if roster.life().is_some() {
        return Ok(());
    }
    let key = space.life_key();
    let known = roster.keys().get(&key).copied().unwrap_or(0);
    let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, known);
    let txn = Txn::new().when([unchanged]).and_then([TxnOp::put(key, life_value(&new_id()), None)]);
    commit(etcd, txn).await.map(drop)
}

async fn commit(etcd: &Etcd, txn: Txn) -> Result<TxnResponse, CallError> {
    etcd.call(Op::Txn, LAPS, |client| {
        let txn = txn.clone();
        async move { client.kv_client().txn(txn).await }
    })
    .await
}

/// The revision of the write, or of the earlier one that it recognized.
fn revision(answer: &TxnResponse) -> i64 {
    let written_now = answer.header().map_or(0, |header| header.revision());
    let responses = answer.op_responses();
    let earlier = responses.iter().find_map(|response| match response {
        TxnOpResponse::Get(get) => get.kvs().first().map(|kv| kv.mod_revision()),
        _ => None,
    });
    earlier.unwrap_or(written_now)
}

/// Where the agent serves ADS.
fn control_address(node: &Node) -> SocketAddrV4 {
    SocketAddrV4::new(node.ip, node.ports.control)
}

fn on(lease: i64) -> Option<PutOptions> {
    Some(PutOptions::new().with_lease(lease))
}
