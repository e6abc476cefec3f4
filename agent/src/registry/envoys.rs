//! The Envoys' keys, as the leader wrote them.

use std::collections::BTreeMap;

use super::client::{CallError, Etcd};
use crate::fleet::{EnvoyValue, KeySpace, Value};

/// Every Envoy on record, by its id.
///
/// # Errors
/// As [`Etcd::call`].
pub async fn envoys(etcd: &Etcd, space: &KeySpace) -> Result<BTreeMap<String, EnvoyValue>, CallError> {
    let (start, end) = space.envoys();
    let listing = etcd.list(&start, &end, 0).await?;
    let read = listing.entries.iter().filter_map(|entry| {
        let value = EnvoyValue::read(&entry.put.as_ref()?.value).ok()?;
        Some((space.envoy_id(&entry.key)?.to_owned(), value))
    });
    Ok(read.collect())
}
