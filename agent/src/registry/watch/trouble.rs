//! What ends a watch.

use crate::metrics::WatchRestart;

/// Why a watch is opened again, for the metric and for people.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) reason: WatchRestart,
    pub(super) why: String,
}

impl Trouble {
    pub(super) fn new(reason: WatchRestart, why: impl ToString) -> Self {
        Self { reason, why: why.to_string() }
    }

    /// What is answered by a list afresh is counted there, once.
    pub(super) fn is_counted_by_the_list(&self) -> bool {
        matches!(self.reason, WatchRestart::Compacted | WatchRestart::LostEvent | WatchRestart::Oversized)
    }
}
