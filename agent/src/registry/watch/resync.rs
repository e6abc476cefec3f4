//! Reading the whole range: for the first time, to compare, and anew.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{error, warn};

use super::{Watch, WatchEnd};
use crate::clock::BootTime;
use crate::fleet::{Rejection, Roster, life_value};
use crate::metrics::WatchRestart;
use crate::registry::client::{CallError, Listing, txn};
use crate::registry::keys::new_id;

/// Between the two reads that must agree before a list that lost most of its nodes is believed.
const CONFIRM_PAUSE: Duration = Duration::from_millis(200);

impl Watch {
    /// Reads the range at the revision seen. The same answer means the same history: bring it up to date by watching.
    pub(super) async fn compare(&mut self) -> Result<(), WatchEnd> {
        let (start, end) = self.settings.space.range();
        match self.etcd.list(&start, &end, self.seen).await {
            Ok(listing) if says_the_same(self.roster.keys(), &listing) => {
                self.outlets.heard.set(BootTime::now());
                Ok(())
            }
            Ok(_) => self.another_history("keys differ at a revision already seen").await,
            Err(error) if error.is_future_revision() => {
                self.another_history("its revision has gone back").await
            }
            Err(error) if error.is_compacted() => self.relist(Some(WatchRestart::Compacted)).await,
            Err(error) => Err(unreachable(error)),
        }
    }

    /// The same comparison under a stream that lives: a difference is an event that never came.
    pub(super) async fn resync(&mut self) -> Result<(), WatchEnd> {
        let (start, end) = self.settings.space.range();
        let why = match self.etcd.list(&start, &end, self.seen).await {
            Ok(listing) if says_the_same(self.roster.keys(), &listing) => return Ok(()),
            Ok(_) => WatchRestart::LostEvent,
            Err(error) if error.is_compacted() => WatchRestart::Compacted,
            Err(error) => return Err(unreachable(error)),
        };
        self.relist(Some(why)).await?;
        Err(WatchEnd::new(why, "listed again"))
    }

    /// Lists afresh within the known history, or for the first time.
    pub(super) async fn relist(&mut self, why: Option<WatchRestart>) -> Result<(), WatchEnd> {
        let (mut next, mut seen, mut rejections) = self.read(self.roster.epoch.max(1)).await?;
        if why.is_some_and(|why| contradicts((self.roster.keys(), self.seen), (next.keys(), seen), why)) {
            return self.another_history("keys differ from those already seen").await;
        }
        if self.roster.is_decimated_by(&next) {
            sleep(CONFIRM_PAUSE).await;
            (next, seen, rejections) = self.read(self.roster.epoch).await?;
        }
        if let Some(why) = why {
            warn!(name: "listed-again", reason = why.as_str(), revision = seen, "listed again");
            self.metrics.watch_restarts.get_or_create(&why).inc();
        }
        (self.roster, self.seen) = (next, seen);
        self.report(rejections);
        self.outlets.epoch.send_replace(self.roster.epoch);
        self.publish();
        Ok(())
    }

    /// Drops everything known, and holds the list back until the nodes had time to register again.
    async fn another_history(&mut self, why: &str) -> Result<(), WatchEnd> {
        let epoch = self.roster.epoch + 1;
        let (next, seen, rejections) = self.read(epoch).await?;
        error!(
            name: "registry-has-another-history",
            why,
            was = self.seen,
            revision = seen,
            "registry has another history: registering anew"
        );
        self.stale_life = self.roster.life().map(|life| life.id.clone());
        let floor = self.outlets.roster.borrow().rows().len();
        self.hold.start(floor, self.settings.hold);
        (self.roster, self.seen) = (next, seen);
        self.replace_life().await;
        self.report(rejections);
        self.outlets.epoch.send_replace(epoch);
        self.publish();
        Ok(())
    }

    async fn read(&mut self, epoch: u64) -> Result<(Roster, i64, Vec<Rejection>), WatchEnd> {
        let (start, end) = self.settings.space.range();
        let listing = self.etcd.list(&start, &end, 0).await.map_err(unreachable)?;
        self.outlets.heard.set(BootTime::now());
        let before = (self.roster.epoch == epoch).then_some(&self.roster);
        let (roster, rejections) =
            Roster::from_list(&self.settings.space, epoch, &listing.entries, listing.revision, before);
        Ok((roster, listing.revision, rejections))
    }

    /// Gives the registry's new life a new id unless another agent has: readers accept a smaller revision with it. What
    /// fails, because etcd is full for example, is tried again at the next comparison.
    pub(super) async fn replace_life(&mut self) {
        let Some(found) = self.roster.life().filter(|life| Some(&life.id) == self.stale_life.as_ref()) else {
            self.stale_life = None;
            return;
        };
        let key = self.settings.space.life_key();
        let (guard, put) =
            (txn::modified_at(&key, found.mod_revision), txn::put(&key, life_value(&new_id())));
        match self.etcd.commit(2, &[guard], &[put], &[]).await {
            Ok(_) => self.stale_life = None,
            Err(error) => warn!(
                name: "the-registrys-life-could-not-be-replaced",
                %error,
                "the registry's life could not be replaced"
            ),
        }
    }
}

fn unreachable(error: CallError) -> WatchEnd {
    WatchEnd::new(WatchRestart::Unreachable, error)
}

/// Every key of the range with its mod revision.
type Keys = BTreeMap<Vec<u8>, i64>;

fn says_the_same(known: &Keys, listing: &Listing) -> bool {
    listing.entries.len() == known.len()
        && listing.entries.iter().all(|entry| known.get(&entry.key) == Some(&entry.revision))
}

/// Whether a fresh list cannot come from the history known, each with the revision up to which it is complete: its
/// revision is lower, or a key that has not changed since has another revision. Where an event was lost, only one that has
/// gone back is proof.
fn contradicts((known, seen): (&Keys, i64), (next, next_seen): (&Keys, i64), why: WatchRestart) -> bool {
    let other = |(key, revision): (&Vec<u8>, &i64)| match known.get(key) {
        Some(known) if why == WatchRestart::LostEvent => revision < known,
        None if why == WatchRestart::LostEvent => false,
        known => *revision <= seen && known != Some(revision),
    };
    next_seen < seen || next.iter().any(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Change, Put};

    fn keys(known: &[(&str, i64)]) -> Keys {
        known.iter().map(|(key, revision)| (key.as_bytes().to_vec(), *revision)).collect()
    }

    fn listing(entries: &[(&str, i64)]) -> Listing {
        let put = || Some(Put { value: Vec::new(), create_revision: 1, lease: 0 });
        let entry = |(key, revision): &(&str, i64)| Change {
            key: key.as_bytes().to_vec(),
            revision: *revision,
            put: put(),
        };
        Listing { revision: 9, entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn the_same_is_every_key_at_its_revision_and_no_other() {
        let known = keys(&[("a", 2), ("b", 3)]);
        assert!(says_the_same(&known, &listing(&[("a", 2), ("b", 3)])));
        for other in
            [&[("a", 2)][..], &[("a", 2), ("b", 4)], &[("a", 2), ("c", 3)], &[("a", 2), ("b", 3), ("c", 4)]]
        {
            assert!(!says_the_same(&known, &listing(other)), "{other:?}");
        }
    }

    #[test]
    fn after_a_compaction_only_what_is_younger_may_differ() {
        let (known, why) = (keys(&[("a", 2), ("b", 3)]), WatchRestart::Compacted);
        let against = |next: &[(&str, i64)], seen| contradicts((&known, 5), (&keys(next), seen), why);
        assert!(!against(&[("a", 2), ("b", 3)], 5));
        assert!(!against(&[("a", 2), ("b", 6), ("c", 7)], 8), "changed and added since");
        assert!(!against(&[("a", 2)], 8), "deleted since: that leaves no trace");
        assert!(against(&[("a", 2), ("b", 3)], 4), "its revision has gone back");
        assert!(against(&[("a", 2), ("b", 4)], 8), "changed at a revision already seen");
        assert!(against(&[("a", 2), ("b", 3), ("c", 5)], 8), "added at a revision already seen");
    }

    #[test]
    fn where_an_event_was_lost_only_a_key_that_went_back_is_proof() {
        let (known, why) = (keys(&[("a", 2), ("b", 4)]), WatchRestart::LostEvent);
        let against = |next: &[(&str, i64)], seen| contradicts((&known, 5), (&keys(next), seen), why);
        assert!(!against(&[("a", 2), ("b", 5), ("c", 3)], 8));
        assert!(against(&[("a", 2), ("b", 3)], 8));
        assert!(against(&[("a", 2), ("b", 4)], 4));
    }
}
