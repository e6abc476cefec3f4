//! Reading the key `drained`: up to which revision every Envoy has acknowledged.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::client::{CallError, Etcd, txn};
use crate::fleet::{DrainedValue, KeySpace, Value};

/// It is asked again this often even if the watch says nothing.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Pause before it is asked again after etcd did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Waits until every Envoy has acknowledged a roster in which nothing is routed to a node any more: `target` says by which
/// revision that is so, and may move.
pub async fn wait_through(etcd: &Etcd, space: &KeySpace, target: impl Fn() -> i64) {
    let mut reached = 0;
    loop {
        match read(etcd, space, 0).await {
            Ok((DrainedValue { through, .. }, revision)) => {
                reached = through.max(reached);
                if reached >= target() {
                    info!(
                        name: "every-envoy-has-acknowledged",
                        through,
                        awaited = target(),
                        "every envoy has acknowledged"
                    );
                    return;
                }
                _ = timeout(ASK_AGAIN, next_write(etcd, space, revision)).await;
            }
            Err(error) => {
                debug!(name: "acknowledgements-not-read", %error, "acknowledgements not read");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// How long a node's drain took until it was acknowledged, in milliseconds, as known when its key went at `revision`.
pub(super) async fn took(etcd: &Etcd, space: &KeySpace, instance: &str, revision: i64) -> Option<u64> {
    let (drained, _) = read(etcd, space, revision).await.ok()?;
    drained.took_ms.get(instance).copied()
}

/// What it said at a revision, or says now when that is 0; and the store's revision at that. Where nothing that can be read
/// stands there, nothing was acknowledged.
///
/// # Errors
/// As [`Etcd::call`].
pub(super) async fn read(etcd: &Etcd, space: &KeySpace, at: i64) -> Result<(DrainedValue, i64), CallError> {
    let (value, revision) = etcd.get(&space.drained_key(), at).await?;
    Ok((value.and_then(|value| DrainedValue::read(&value).ok()).unwrap_or_default(), revision))
}

/// Returns when the key was written after `revision`, or the watch has failed.
async fn next_write(etcd: &Etcd, space: &KeySpace, revision: i64) {
    let key = space.drained_key();
    let end = txn::after(&key);
    let Ok(mut stream) = etcd.watch(key, end, revision + 1).await else { return };
    while let Ok(Some(response)) = stream.message().await {
        if !response.events().is_empty() || response.canceled() {
            return;
        }
    }
}
