//! Acknowledgements in the registry: the leader writes how far every Envoy is, and a leaving node waits for it.

mod drains;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, WatchOptions};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use super::etcd::{CALL_TIMEOUT, CallError, Etcd};
use crate::fleet::through::{Acknowledgements, AdsStream, Through, after_leader};
use crate::fleet::{KeySpace, Leadership, Roster};
use crate::metrics::Op;
use drains::Drains;

/// Pause before the leader's duties are begun again after etcd did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Keys in one transaction; etcd takes 128 operations.
const MAX_PUTS: usize = 100;
/// A leaving node asks again this often even if its watch says nothing.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The leader's part.
pub struct Drained {
    pub etcd: Etcd,
    pub space: KeySpace,
    /// Time to live of the fleet's leases.
    pub ttl: Duration,
    /// This agent's instance, for people who read the key.
    pub instance: String,
    pub roster: Receiver<Arc<Roster>>,
    pub leadership: Receiver<Option<Leadership>>,
    pub streams: Receiver<BTreeMap<u64, AdsStream>>,
    /// Streams whose Envoy this leader has on record: only these are answered.
    pub admitted: Sender<Arc<BTreeSet<u64>>>,
}

#[derive(Default, Deserialize)]
struct DrainedValue {
    through: i64,
    /// By instance: milliseconds from `draining` to the last Envoy's acknowledgement.
    #[serde(default)]
    took_ms: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct EnvoyValue {
    connected: bool,
}

/// What one Envoy's key says, as far as a change of it is worth a write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Envoy {
    connected: bool,
    digest: Option<String>,
    rejection: Option<String>,
    /// Its open streams. Each new one is recorded anew, because each record proves again that this agent leads.
    streams: BTreeSet<u64>,
}

/// What a leader has written so far.
struct Written {
    through: i64,
    envoys: BTreeMap<String, Envoy>,
}

impl Drained {
    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        loop {
            let leading = self.leadership.borrow_and_update().clone();
            let Some(leading) = leading else {
                if self.leadership.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                continue;
            };
            let outcome = self.lead(&leading).await;
            self.admitted.send_replace(Arc::default());
            if let Err(error) = outcome {
                debug!(%error, "acknowledgements not written");
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// One term: until the leadership or the history is another.
    async fn lead(&mut self, leading: &Leadership) -> Result<(), CallError> {
        let began = Instant::now();
        let epoch = self.roster.borrow().epoch;
        let mut written = self.take_over().await?;
        let predecessors =
            written.envoys.iter().filter(|(_, envoy)| envoy.connected).map(|(id, _)| id.clone());
        let mut acks = Acknowledgements::new(predecessors, after_leader(self.ttl));
        let mut drains = Drains::default();
        let mut wanted = 0;
        loop {
            let roster = self.roster.borrow_and_update().clone();
            let streams = self.streams.borrow_and_update().clone();
            if roster.epoch != epoch || self.leadership.borrow().as_ref() != Some(leading) {
                return Ok(());
            }
            wanted = wanted.max(drains.wanted(&roster, &self.space));
            acks.update(streams.clone(), began.elapsed());
            let through = acks.through(roster.applied, began.elapsed());
            let mut puts = self.changed_envoys(leading, &streams, &through, &mut written);
            if wanted > written.through && through.revision > written.through {
                written.through = through.revision;
                drains.reached(through.revision);
                let value = self.drained_value(&through, &drains);
                puts.push(TxnOp::put(self.space.drained_key(), value, None));
            }
            // `drained` is the last of them: nobody may leave before it is written how far each Envoy is.
            for puts in puts.chunks(MAX_PUTS) {
                if !self.commit(leading, puts).await? {
                    // Somebody else leads, and this agent is about to hear of it.
                    return self.another_term(leading).await;
                }
            }
            let admitted: BTreeSet<u64> =
                written.envoys.values().flat_map(|envoy| envoy.streams.iter().copied()).collect();
            self.admitted.send_if_modified(|known| {
                let changed = **known != admitted;
                *known = Arc::new(admitted);
                changed
            });
            let timer = acks
                .next_change(began.elapsed())
                .map_or(Duration::MAX, |at| at.saturating_sub(began.elapsed()));
            tokio::select! {
                _ = self.roster.changed() => {}
                _ = self.streams.changed() => {}
                _ = self.leadership.changed() => {}
                () = sleep(timer.min(Duration::from_secs(3600))) => {}
            }
        }
    }

    async fn another_term(&mut self, leading: &Leadership) -> Result<(), CallError> {
        let changed = self.leadership.wait_for(|now| now.as_ref() != Some(leading));
        _ = timeout(CALL_TIMEOUT, changed).await;
        Ok(())
    }

    /// What the predecessor wrote.
    async fn take_over(&self) -> Result<Written, CallError> {
        let (start, end) = self.space.envoys();
        let known = self.etcd.list(&start, &end, 0).await?;
        let envoys = known.entries.iter().filter_map(|entry| {
            let id = self.space.envoy_id(&entry.key)?;
            let value: EnvoyValue = serde_json::from_slice(&entry.put.as_ref()?.value).ok()?;
            Some((
                id.to_owned(),
                Envoy { connected: value.connected, digest: None, rejection: None, streams: BTreeSet::new() },
            ))
        });
        let (drained, _) = read(&self.etcd, &self.space, 0).await?;
        Ok(Written { through: drained.through, envoys: envoys.collect() })
    }

    /// Puts for the Envoys whose key says something else than what is so now.
    fn changed_envoys(
        &self,
        leading: &Leadership,
        streams: &BTreeMap<u64, AdsStream>,
        through: &Through,
        written: &mut Written,
    ) -> Vec<TxnOp> {
        let mut now: BTreeMap<String, (Envoy, i64)> = BTreeMap::new();
        for (id, known) in &written.envoys {
            // One that is still expected counts as connected for a successor, too.
            let connected = known.connected && through.missing.contains(id);
            now.insert(id.clone(), (Envoy { connected, streams: BTreeSet::new(), ..known.clone() }, 0));
        }
        for (number, stream) in streams {
            let Some(id) = &stream.envoy else { continue };
            let mut open = now.remove(id).map_or_else(BTreeSet::new, |(envoy, _)| envoy.streams);
            open.insert(*number);
            let (digest, rejection) = (stream.digest.clone(), stream.rejection.clone());
            let envoy = Envoy { connected: true, digest, rejection, streams: open };
            now.insert(id.clone(), (envoy, stream.through));
        }
        let mut puts = Vec::new();
        for (id, (envoy, reached)) in now {
            if written.envoys.get(&id) == Some(&envoy) {
                continue;
            }
            let value = json!({
                "v": 1, "connected": envoy.connected, "through": reached, "digest": envoy.digest,
                "rejection": envoy.rejection, "writer": leading.create_revision,
            });
            puts.push(TxnOp::put(self.space.envoy_key(&id), value.to_string(), None));
            written.envoys.insert(id, envoy);
        }
        puts
    }

    fn drained_value(&self, through: &Through, drains: &Drains) -> String {
        json!({
            "v": 1, "leader": self.instance, "through": through.revision,
            "envoys": through.envoys, "missing": through.missing, "took_ms": drains.took_ms(),
        })
        .to_string()
    }

    /// Fenced: whether this agent was still the one whose candidate key has led.
    async fn commit(&self, leading: &Leadership, puts: &[TxnOp]) -> Result<bool, CallError> {
        let guard = Compare::create_revision(leading.key.clone(), CompareOp::Equal, leading.create_revision);
        let answer = self.etcd.call(Op::Txn, 2, |client| {
            let txn = Txn::new().when([guard.clone()]).and_then(puts);
            async move { client.kv_client().txn(txn).await }
        });
        Ok(answer.await?.succeeded())
    }
}

/// Waits until every Envoy has acknowledged a roster in which nothing is routed to this node any more: `target` says
/// by which revision that is so, and may move.
pub async fn wait_through(etcd: &Etcd, space: &KeySpace, target: impl Fn() -> i64) {
    let mut reached = 0;
    loop {
        match read(etcd, space, 0).await {
            Ok((DrainedValue { through, .. }, revision)) => {
                reached = through.max(reached);
                if reached >= target() {
                    info!(through, awaited = target(), "every envoy has acknowledged");
                    return;
                }
                _ = timeout(ASK_AGAIN, next_write(etcd, space, revision)).await;
            }
            Err(error) => {
                debug!(%error, "acknowledgements not read");
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

/// What `drained` said at a revision, or says now when that is 0; and the store's revision at that.
async fn read(etcd: &Etcd, space: &KeySpace, at: i64) -> Result<(DrainedValue, i64), CallError> {
    let key = space.drained_key();
    let end = [&key[..], b"\0"].concat();
    let listing = etcd.list(&key, &end, at).await?;
    let value = listing.entries.first().and_then(|entry| entry.put.as_ref());
    let value = value.and_then(|put| serde_json::from_slice(&put.value).ok());
    Ok((value.unwrap_or_default(), listing.revision))
}

/// Returns when the key was written after `revision`, or the watch has failed.
async fn next_write(etcd: &Etcd, space: &KeySpace, revision: i64) {
    let Ok(client) = etcd.client().await else { return };
    let options = WatchOptions::new().with_start_revision(revision + 1);
    let Ok(mut stream) = client.watch_client().watch(space.drained_key(), Some(options)).await else {
        return;
    };
    while let Ok(Some(response)) = stream.message().await {
        if !response.events().is_empty() || response.canceled() {
            return;
        }
    }
}
