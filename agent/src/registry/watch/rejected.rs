//! Entries that are skipped: each is counted and told once, and forgotten when it is gone.

use tracing::warn;

use super::Watch;
use crate::fleet::{Rejection, RejectionReason};
use crate::metrics::Refused;

impl Watch {
    pub(super) fn report(&mut self, rejections: Vec<Rejection>) {
        for rejection in rejections {
            let (key, revision, reason) = (rejection.shown(), rejection.revision, &rejection.reason);
            if self.rejected.get(&rejection.key) != Some(&revision) {
                self.metrics.registry_refused.get_or_create(&label(reason)).inc();
                warn!(key, revision, %reason, "entry skipped");
                self.rejected.insert(rejection.key, revision);
            }
        }
        let roster = &self.roster;
        self.rejected.retain(|key, _| roster.contains(key));
    }
}

fn label(reason: &RejectionReason) -> Refused {
    match reason {
        RejectionReason::NoLease => Refused::NoLease,
        RejectionReason::Misnamed => Refused::Misnamed,
        RejectionReason::TooLong => Refused::TooLong,
        RejectionReason::Unreadable(_) => Refused::Unreadable,
        RejectionReason::NotAllowed(_) => Refused::NotAllowed,
    }
}
