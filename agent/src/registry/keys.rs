//! The transactions on a node's own keys. Each may be repeated: it recognizes that it has succeeded before, because
//! an answer that was lost says nothing about what was done.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use etcd_client::TxnOp;

use super::client::{CallError, Etcd, txn};
use crate::fleet::{KeySpace, Node, Roster, candidate_value, life_value, node_value};

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
    let done =
        [txn::leased(&candidate_key, lease), txn::holds(&node_key, &value), txn::leased(&node_key, lease)];
    let rivals = roster.nodes().filter(|other| other.ip == node.ip && other.instance != node.instance);
    let mut gone: BTreeSet<Vec<u8>> =
        previous.map(|previous| space.candidate_key(previous)).into_iter().collect();
    for rival in rivals.take(MAX_RIVALS) {
        gone.insert(space.node_key(&rival.name, &rival.instance));
        gone.insert(space.candidate_key(rival.lease));
    }
    // A stray key can hang on this node's own lease; put and delete of one key in one transaction is refused.
    gone.remove(&candidate_key);
    let mut write: Vec<TxnOp> = gone.iter().map(|key| txn::delete(key)).collect();
    write.push(put_candidate(space, node, lease));
    write.push(txn::put_leased(&node_key, value, lease));
    etcd.write_once(LAPS, &done, &node_key, &write).await
}

/// Deletes the node key and keeps the candidate key: nginx does not answer, the agent does. Without a put where none is
/// needed, because an etcd that is out of space takes deletions only. Returns the revision by which it is so.
///
/// # Errors
/// As [`Etcd::call`]; `NotFound` when the lease is gone.
pub async fn withdraw(etcd: &Etcd, space: &KeySpace, node: &Node, lease: i64) -> Result<i64, CallError> {
    let revision = delete(etcd, &space.node_key(&node.name, &node.instance)).await?;
    let there = txn::leased(&space.candidate_key(lease), lease);
    match etcd.commit(LAPS, &[there], &[], &[put_candidate(space, node, lease)]).await {
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
    let done = txn::holds(&node_key, &value);
    let mut write = vec![txn::put_leased(&node_key, value, lease)];
    if !leading {
        write.push(txn::delete(&space.candidate_key(lease)));
    }
    etcd.write_once(LAPS, &[done], &node_key, &write).await
}

/// Deletes the own candidate key: the next in line leads.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn resign(etcd: &Etcd, space: &KeySpace, lease: i64) -> Result<(), CallError> {
    delete(etcd, &space.candidate_key(lease)).await.map(drop)
}

/// Deletes one key; the revision by which it is gone.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn delete(etcd: &Etcd, key: &[u8]) -> Result<i64, CallError> {
    etcd.delete(LAPS, key).await
}

/// A random id of 16 hex digits.
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
    let put = txn::put(&key, life_value(&new_id()));
    etcd.commit(LAPS, &[txn::modified_at(&key, known)], &[put], &[]).await.map(drop)
}

fn put_candidate(space: &KeySpace, node: &Node, lease: i64) -> TxnOp {
    let value = candidate_value(&node.instance, control_address(node));
    txn::put_leased(&space.candidate_key(lease), value, lease)
}

/// Where the agent serves ADS.
fn control_address(node: &Node) -> SocketAddrV4 {
    SocketAddrV4::new(node.ip, node.ports.control)
}
