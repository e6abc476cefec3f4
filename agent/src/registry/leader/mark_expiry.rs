//! The leader removes the marks of names that no node has had for long: a container's name never comes back, and a mark
//! that stays for ever would apply to a node that is given that name by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp};
use tokio::sync::watch::Receiver;
use tokio::time::sleep;
use tracing::{debug, info};

use super::term::{Duty, Term, TermError};
use crate::clock::BootTime;
use crate::fleet::{KeySpace, Roster};
use crate::registry::client::{CallError, txn};

/// Pause before a removal that was not done is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep: timers stand still while the machine is suspended, and absence does not.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Removes the marks of names that are absent.
pub struct ExpireMarks {
    pub space: KeySpace,
    /// How long a name may be absent.
    pub keep: Duration,
    pub roster: Receiver<Arc<Roster>>,
}

/// Since when each marked name has no node key, by this agent's own clock: a new leader begins again.
#[derive(Default)]
struct Absent {
    epoch: u64,
    since: BTreeMap<String, BootTime>,
}

impl Duty for ExpireMarks {
    const NAME: &'static str = "marks";

    async fn lead(&mut self, term: &Term) -> Result<(), TermError> {
        let mut absent = Absent::default();
        loop {
            let roster = self.roster.borrow_and_update().clone();
            absent.look(&roster, &self.space, BootTime::now());
            let (due, next) = absent.due(self.keep, BootTime::now());
            for name in &due {
                let absent_s = self.keep.as_secs();
                match self.remove(term, &roster, name).await {
                    Ok(true) => {
                        info!(
                            name: "mark-removed",
                            node = name,
                            absent_s,
                            "mark removed: nobody has had its name for long"
                        )
                    }
                    Ok(false) => debug!(
                        name: "mark-not-removed",
                        node = name,
                        "mark not removed: somebody has changed something"
                    ),
                    Err(error) => debug!(name: "mark-not-removed", node = name, %error, "mark not removed"),
                }
            }
            // One that was removed is due until the watch says that it is gone.
            let pause = if due.is_empty() { next.min(LOOK_AGAIN) } else { RETRY_PAUSE };
            tokio::select! {
                _ = self.roster.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }
}

impl ExpireMarks {
    /// Removes a mark as `roster` knows it; whether it was done. Not when another leads, when the mark is another, or when
    /// any node of that name has come since: a node key that the roster does not know was created after it.
    ///
    /// # Errors
    /// As [`Term::commit_if`].
    pub async fn remove(&self, term: &Term, roster: &Roster, name: &str) -> Result<bool, CallError> {
        let mark = self.space.mark_key(name);
        let known = roster.keys().get(&mark).copied().unwrap_or(0);
        let (first, end) = self.space.nodes_named(name);
        let guards = [
            txn::modified_at(&mark, known),
            // The range has the nodes of longer names too; of no key at all, the revision counts as 0.
            Compare::create_revision(first, CompareOp::Less, roster.applied + 1).with_range(end),
        ];
        term.commit_if(&guards, &[txn::delete(&mark)]).await
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
