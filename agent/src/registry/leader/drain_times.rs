//! Which nodes drain, since when, and how long it took until no request was routed to each.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::fleet::{KeySpace, NodeState, Roster};

/// How many drains' times are written down at once: readers take no value longer than a few KiB.
const MAX_TOLD: usize = 40;

/// The drains of one term, by instance.
#[derive(Default)]
pub(super) struct DrainTimes {
    under_way: BTreeMap<String, Drain>,
    /// Names that an operator has marked: `muster drain --wait` waits for their acknowledgement.
    marked: BTreeSet<String>,
    looked: bool,
}

struct Drain {
    /// Mod revision of `draining`.
    revision: i64,
    /// `None` when it began before the term did.
    began: Option<Instant>,
    took_ms: Option<u64>,
}

impl DrainTimes {
    /// The newest revision whose acknowledgement is waited for: of a `draining` or a mark, or of the end of either.
    pub(super) fn wanted(&mut self, roster: &Roster, space: &KeySpace) -> i64 {
        let draining = || roster.nodes().filter(|node| node.state == NodeState::Draining);
        let before = self.under_way.len();
        self.under_way.retain(|instance, _| draining().any(|node| node.instance == *instance));
        let marked: BTreeSet<String> = roster.marks().keys().cloned().collect();
        let gone = self.under_way.len() < before || !self.marked.is_subset(&marked);
        self.marked = marked;
        let marks = self.marked.iter().filter_map(|name| roster.keys().get(&space.mark_key(name))).copied();
        let began = self.looked.then(Instant::now);
        self.looked = true;
        for node in draining() {
            let drain = self.under_way.entry(node.instance.clone());
            drain.and_modify(|drain| drain.revision = node.mod_revision).or_insert_with(|| Drain {
                revision: node.mod_revision,
                began,
                took_ms: None,
            });
        }
        let newest = self.under_way.values().map(|drain| drain.revision).chain(marks).max().unwrap_or(0);
        if gone { roster.applied } else { newest }
    }

    /// Every Envoy has acknowledged everything up to `through`.
    pub(super) fn reached(&mut self, through: i64) {
        for drain in self.under_way.values_mut().filter(|drain| drain.revision <= through) {
            let elapsed = drain.began.map(|began| began.elapsed().as_millis() as u64);
            drain.took_ms = drain.took_ms.or(elapsed);
        }
    }

    /// Milliseconds by instance, the youngest drains first when there are too many.
    pub(super) fn took_ms(&self) -> BTreeMap<String, u64> {
        let mut done: Vec<_> = self
            .under_way
            .iter()
            .filter_map(|(instance, drain)| Some((drain.revision, instance.as_str(), drain.took_ms?)))
            .collect();
        done.sort_unstable_by(|a, b| b.cmp(a));
        done.into_iter().take(MAX_TOLD).map(|(_, instance, took_ms)| (instance.to_owned(), took_ms)).collect()
    }
}
