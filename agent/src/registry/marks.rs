//! The leader forgets the marks of names that nobody has had for long: a container's name never comes back, and a mark
//! that stays for ever would meet whoever is given that name by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use tokio::sync::watch::Receiver;
use tokio::time::sleep;
use tracing::{debug, info};

use super::etcd::{CallError, Etcd};
use crate::clock::BootTime;
use crate::fleet::{KeySpace, Leadership, Roster};
use crate::metrics::Op;

/// Pause before a removal that was not done is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep: timers stand still while the machine is suspended, and absence does not.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The leader's part.
pub struct Marks {
    pub etcd: Etcd,
    pub space: KeySpace,
    /// How long a name may be absent.
    pub keep: Duration,
    pub roster: Receiver<Arc<Roster>>,
    pub leadership: Receiver<Option<Leadership>>,
}

/// Since when each marked name has no node key, by this agent's own clock: a new leader begins again.
#[derive(Default)]
struct Absent {
    epoch: u64,
    since: BTreeMap<String, BootTime>,
}

impl Marks {
    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        loop {
            let leading = self.leadership.borrow_and_update().clone();
            match leading {
                Some(leading) => self.lead(&leading).await,
                None if self.leadership.changed().await.is_ok() => {}
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// One term.
    async fn lead(&mut self, leading: &Leadership) {
        let mut absent = Absent::default();
        loop {
            let roster = self.roster.borrow_and_update().clone();
            if self.leadership.borrow().as_ref() != Some(leading) {
                return;
            }
            absent.look(&roster, &self.space, BootTime::now());
            let (due, next) = absent.due(self.keep, BootTime::now());
            for name in &due {
                let absent_s = self.keep.as_secs();
                match self.remove(leading, &roster, name).await {
                    Ok(true) => {
                        info!(node = name, absent_s, "mark removed: nobody has had its name for long")
                    }
                    Ok(false) => debug!(node = name, "mark not removed: somebody has changed something"),
                    Err(error) => debug!(node = name, %error, "mark not removed"),
                }
            }
            // One that was removed is due until the watch says that it is gone.
            let pause = if due.is_empty() { next.min(LOOK_AGAIN) } else { RETRY_PAUSE };
            tokio::select! {
                _ = self.roster.changed() => {}
                _ = self.leadership.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Removes a mark as `roster` knows it; whether it was done. Not when another leads, when the mark is another, or when
    /// any node of that name has come since: a node key that the roster does not know was created after it.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn remove(&self, leading: &Leadership, roster: &Roster, name: &str) -> Result<bool, CallError> {
        let mark = self.space.mark_key(name);
        let known = roster.keys().get(&mark).copied().unwrap_or(0);
        let (first, end) = self.space.nodes_named(name);
        let guards = [
            Compare::create_revision(leading.key.clone(), CompareOp::Equal, leading.create_revision),
            Compare::mod_revision(mark.clone(), CompareOp::Equal, known),
            // The range has the nodes of longer names too; of no key at all, the revision counts as 0.
            Compare::create_revision(first, CompareOp::Less, roster.applied + 1).with_range(end),
        ];
        let answer = self.etcd.call(Op::Txn, 1, |client| {
            let txn = Txn::new().when(guards.clone()).and_then([TxnOp::delete(mark.clone(), None)]);
            async move { client.kv_client().txn(txn).await }
        });
        Ok(answer.await?.succeeded())
    }
}

impl Absent {
    fn look(&mut self, roster: &Roster, space: &KeySpace, now: BootTime) {
        if roster.epoch != self.epoch {
            *self = Self { epoch: roster.epoch, since: BTreeMap::new() };
        }
        if roster.marks().is_empty() {
            self.since.clear();
            return;
        }
        // By their keys: a node whose value this agent cannot read is there all the same.
        let present: BTreeSet<&str> = roster.keys().keys().filter_map(|key| space.node_name(key)).collect();
        let absent = roster.marks().keys().filter(|name| !present.contains(name.as_str()));
        let since = |name: &String| (name.clone(), self.since.get(name).copied().unwrap_or(now));
        self.since = absent.map(since).collect();
    }

    /// The names that have been absent for so long, and how long until another has.
    fn due(&self, keep: Duration, now: BootTime) -> (Vec<String>, Duration) {
        let left = |since: &BootTime| keep.saturating_sub(now.saturating_since(*since));
        let due = self.since.iter().filter(|(_, since)| left(since).is_zero());
        let next = self.since.values().map(left).filter(|left| !left.is_zero()).min();
        (due.map(|(name, _)| name.clone()).collect(), next.unwrap_or(Duration::MAX))
    }
}
