//! Acknowledgements in the registry: the leader writes how far every Envoy is, which a leaving node waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::TxnOp;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{Instant, sleep};

use super::drain_times::DrainTimes;
use super::term::{Duty, Term, TermError};
use crate::fleet::acknowledgements::{Acknowledgements, AdsStream, Through, after_leader};
use crate::fleet::{DrainedValue, EnvoyValue, KeySpace, Roster, Value};
use crate::registry::client::{CallError, Etcd, txn};
use crate::registry::drained;
use crate::registry::envoys::envoys;

/// Writes `drained` and the Envoys' keys.
pub struct WriteAcknowledgements {
    pub space: KeySpace,
    /// Time to live of the fleet's leases.
    pub ttl: Duration,
    /// This agent's instance, for people who read the key.
    pub instance: String,
    pub roster: Receiver<Arc<Roster>>,
    pub streams: Receiver<BTreeMap<u64, AdsStream>>,
    /// Streams whose Envoy this leader has on record: only these are answered.
    pub admitted: Sender<Arc<BTreeSet<u64>>>,
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

impl Duty for WriteAcknowledgements {
    const NAME: &'static str = "acknowledgements";

    /// Returns when the history is another.
    async fn lead(&mut self, term: &Term) -> Result<(), TermError> {
        let began = Instant::now();
        let epoch = self.roster.borrow().epoch;
        let mut written = self.take_over(&term.etcd).await?;
        let predecessors =
            written.envoys.iter().filter(|(_, envoy)| envoy.connected).map(|(id, _)| id.clone());
        let mut acks = Acknowledgements::new(predecessors, after_leader(self.ttl));
        let mut drains = DrainTimes::default();
        let mut wanted = 0;
        loop {
            let roster = self.roster.borrow_and_update().clone();
            let streams = self.streams.borrow_and_update().clone();
            if roster.epoch != epoch {
                return Ok(());
            }
            wanted = wanted.max(drains.wanted(&roster, &self.space));
            acks.update(streams.clone(), began.elapsed());
            let through = acks.through(roster.applied, began.elapsed());
            let mut puts = self.changed_envoys(term, &streams, &through, &mut written);
            if wanted > written.through && through.revision > written.through {
                written.through = through.revision;
                drains.reached(through.revision);
                // The last of them: no node may leave before it is written how far each Envoy is.
                let value = self.drained_value(&through, &drains);
                puts.push(txn::put(&self.space.drained_key(), value.to_bytes()));
            }
            term.commit(&puts).await?;
            self.admit(&written);
            let timer = acks
                .next_change(began.elapsed())
                .map_or(Duration::MAX, |at| at.saturating_sub(began.elapsed()));
            tokio::select! {
                _ = self.roster.changed() => {}
                _ = self.streams.changed() => {}
                () = sleep(timer.min(Duration::from_secs(3600))) => {}
            }
        }
    }

    fn rest(&mut self) {
        self.admitted.send_replace(Arc::default());
    }
}

impl WriteAcknowledgements {
    /// Lets the streams be answered whose Envoys are on record now.
    fn admit(&self, written: &Written) {
        let streams = written.envoys.values().flat_map(|envoy| envoy.streams.iter().copied());
        let admitted: BTreeSet<u64> = streams.collect();
        self.admitted.send_if_modified(|known| {
            let changed = **known != admitted;
            *known = Arc::new(admitted);
            changed
        });
    }

    /// What the predecessor wrote.
    async fn take_over(&self, etcd: &Etcd) -> Result<Written, CallError> {
        let envoys = envoys(etcd, &self.space).await?.into_iter().map(|(id, known)| {
            let connected = known.connected;
            (id, Envoy { connected, digest: None, rejection: None, streams: BTreeSet::new() })
        });
        let envoys = envoys.collect();
        let (drained, _) = drained::read(etcd, &self.space, 0).await?;
        Ok(Written { through: drained.through, envoys })
    }

    /// Puts for the Envoys whose key says something else than what is so now.
    fn changed_envoys(
        &self,
        term: &Term,
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
            let value = EnvoyValue {
                connected: envoy.connected,
                through: reached,
                digest: envoy.digest.clone(),
                rejection: envoy.rejection.clone(),
                writer: term.leadership.create_revision,
            };
            puts.push(txn::put(&self.space.envoy_key(&id), value.to_bytes()));
            written.envoys.insert(id, envoy);
        }
        puts
    }

    fn drained_value(&self, through: &Through, drains: &DrainTimes) -> DrainedValue {
        DrainedValue {
            leader: self.instance.clone(),
            through: through.revision,
            envoys: through.envoys.clone(),
            missing: through.missing.clone(),
            took_ms: drains.took_ms(),
        }
    }
}
