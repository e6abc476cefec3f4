//! Transactions, and reads of a single key. What is written under a condition is written here.

use etcd_client::{
    Compare, CompareOp, DeleteOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::{CallError, Etcd, revision_of};
use crate::clock::BootTime;
use crate::metrics::Op;

/// What a transaction came to.
#[derive(Debug)]
pub struct Outcome {
    /// Whether all comparisons held: then the first branch was carried out, else the second.
    pub succeeded: bool,
    /// Revision of the store after it.
    pub revision: i64,
    /// When the attempt that was answered was sent: what it proves was so after that.
    pub sent: BootTime,
    /// What the first read of the branch found.
    pub found: Option<Found>,
}

/// A key as a transaction read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub value: Vec<u8>,
    pub mod_revision: i64,
}

impl Etcd {
    /// One transaction: `then` when all of `when` hold, else `otherwise`. Repeated as every call is, `laps` times around the
    /// members: an attempt whose answer was lost may have been carried out, and the next one meets what it did.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn commit(
        &self,
        laps: usize,
        when: &[Compare],
        then: &[TxnOp],
        otherwise: &[TxnOp],
    ) -> Result<Outcome, CallError> {
        let answer = self.call(Op::Txn, laps, |client| {
            let txn = Txn::new().when(when).and_then(then).or_else(otherwise);
            async move {
                let sent = BootTime::now();
                client.kv_client().txn(txn).await.map(|answer| (sent, answer))
            }
        });
        let (sent, answer) = answer.await?;
        Ok(Outcome {
            succeeded: answer.succeeded(),
            revision: revision_of(answer.header()),
            sent,
            found: found(&answer),
        })
    }

    /// Makes `writes` unless `done` says that it has been made before; the revision by which it is so. `key` is one that
    /// it puts: an earlier success is known by its revision.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn write_once(
        &self,
        laps: usize,
        done: &[Compare],
        key: &[u8],
        writes: &[TxnOp],
    ) -> Result<i64, CallError> {
        let outcome = self.commit(laps, done, &[get(key)], writes).await?;
        Ok(outcome.found.map_or(outcome.revision, |earlier| earlier.mod_revision))
    }

    /// Deletes one key; the revision by which it is gone.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn delete(&self, laps: usize, key: &[u8]) -> Result<i64, CallError> {
        self.commit(laps, &[], &[delete(key)], &[]).await.map(|outcome| outcome.revision)
    }

    /// The value of one key at a revision, or now when that is 0; and the revision of the store at which it was read.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn get(&self, key: &[u8], at: i64) -> Result<(Option<Vec<u8>>, i64), CallError> {
        let listing = self.list(key, &after(key), at).await?;
        let put = listing.entries.into_iter().next().and_then(|entry| entry.put);
        Ok((put.map(|put| put.value), listing.revision))
    }
}

/// The key that follows in order: the end of a range that holds `key` alone, or the beginning of what comes after it.
pub fn after(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}

/// Holds while the key is the one that was created at this revision; 0: while there is none.
pub fn created_at(key: &[u8], revision: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, revision)
}

/// Holds while the key was written last at this revision; 0: while there is none.
pub fn modified_at(key: &[u8], revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

/// Holds while the key has this value.
pub fn holds(key: &[u8], value: &[u8]) -> Compare {
    Compare::value(key, CompareOp::Equal, value)
}

/// Holds while the key hangs on this lease.
pub fn leased(key: &[u8], lease: i64) -> Compare {
    Compare::lease(key, CompareOp::Equal, lease)
}

pub fn get(key: &[u8]) -> TxnOp {
    TxnOp::get(key, None)
}

/// Puts a key that hangs on no lease.
pub fn put(key: &[u8], value: Vec<u8>) -> TxnOp {
    TxnOp::put(key, value, None)
}

/// Puts a key that is deleted when the lease ends.
pub fn put_leased(key: &[u8], value: Vec<u8>, lease: i64) -> TxnOp {
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
}

pub fn delete(key: &[u8]) -> TxnOp {
    TxnOp::delete(key, None)
}

/// Deletes `[start, end)`.
pub fn delete_range(start: &[u8], end: &[u8]) -> TxnOp {
    TxnOp::delete(start, Some(DeleteOptions::new().with_range(end)))
}

fn found(answer: &TxnResponse) -> Option<Found> {
    let read = |kv: &KeyValue| Found { value: kv.value().to_vec(), mod_revision: kv.mod_revision() };
    answer.op_responses().iter().find_map(|response| match response {
        TxnOpResponse::Get(got) => got.kvs().first().map(read),
        _ => None,
    })
}
