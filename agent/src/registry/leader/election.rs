//! The election, read off the roster: etcd's own recipe without its Campaign call, which can answer Ok with no
//! key in etcd when the lease ran out while waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::{Receiver, Sender};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::clock::{BootTime, SharedTime};
use crate::fleet::{Contact, KeySpace, Leadership, Roster};
use crate::latest;
use crate::registry::client::{CallError, Etcd, txn};
use crate::registry::lease::{LEAD_MARGIN, Lease};

/// How often a leader looks at its lease's deadline at least: a timer does not count through a suspend. Every send
/// looks at it too.
const DEADLINE_CHECK: Duration = Duration::from_millis(250);
/// A leader whose last look is older than this has slept, and may have been deposed without having heard of it: it
/// confirms its right anew before it does anything. No leader is deposed for a shorter silence.
pub const ASLEEP: Duration = Duration::from_secs(1);
/// How often the first candidate looks whether an overdue lease has been renewed.
const OVERDUE_CHECK: Duration = Duration::from_millis(200);
/// A leader finds its own candidate key this many times within a time to live.
const PROOFS_PER_TTL: u32 = 3;
/// Pause between confirmations that did not settle it.
const CONFIRM_PAUSE: Duration = Duration::from_millis(50);

/// Confirms with etcd that this agent is the first in line, and holds the leadership while that is so.
pub struct Election {
    pub etcd: Etcd,
    pub space: KeySpace,
    /// The newest: a leader must be there while a list is held back, too.
    pub roster: Receiver<Arc<Roster>>,
    /// The lease this agent's candidate key hangs on.
    pub lease: Receiver<Option<Lease>>,
    /// Whether this agent hears the registry: one that does not must not lead by a roster that stands still.
    pub contact: Receiver<Contact>,
    /// When the leader has last checked its right: the control port reads it before each push, because it may wake first.
    pub awake: SharedTime,
    /// `Some` from the confirmation to the end of the right.
    pub leadership: Sender<Option<Leadership>>,
    /// Until when the own candidate key was last proven to be there, in the sense of a lease: send time plus time to
    /// live. A lease that is renewed proves nothing about the key (docs/protocol.md, 11).
    pub proven_until: SharedTime,
}

impl Election {
    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        loop {
            if let Some(claim) = self.claim() {
                match self.confirm(&claim).await {
                    Ok(true) => self.lead(claim).await,
                    Ok(false) => sleep(CONFIRM_PAUSE).await,
                    Err(error) => {
                        debug!(name: "leadership-not-confirmed", %error, "leadership not confirmed");
                        sleep(CONFIRM_PAUSE).await;
                    }
                }
                continue;
            }
            tokio::select! {
                () = self.change() => {}
                // An overdue lease that is renewed again changes nothing in the roster.
                () = sleep(OVERDUE_CHECK), if self.is_first() => {}
            }
        }
    }

    fn is_first(&self) -> bool {
        let lease = self.lease.borrow().as_ref().map(|lease| lease.id);
        lease.is_some() && self.roster.borrow().leader().map(|leader| leader.lease) == lease
    }

    /// This agent's right as far as the roster and the own clock tell.
    fn claim(&mut self) -> Option<Leadership> {
        let lease = self.lease.borrow_and_update().clone()?;
        if self.contact.borrow_and_update().stale_since.is_some() {
            return None;
        }
        let roster = self.roster.borrow_and_update();
        let leader = roster.leader().filter(|leader| leader.lease == lease.id && lease.holds())?;
        Some(Leadership { key: self.space.candidate_key(lease.id), create_revision: leader.create_revision })
    }

    /// Asks etcd itself: the key is there, it is the lowest, and this agent's roster is as new as the answer.
    async fn confirm(&self, claim: &Leadership) -> Result<bool, CallError> {
        let Some(revision) = prove(&self.etcd, claim, self.ttl(), &self.proven_until).await? else {
            return Ok(false);
        };
        let (start, end) = self.space.range();
        let listing = self.etcd.list(&start, &end, revision).await?;
        let (there, _) = Roster::from_list(&self.space, 0, &listing.entries, listing.revision, None);
        let mine =
            there.leader().map(|leader| self.space.candidate_key(leader.lease)) == Some(claim.key.clone());
        let roster = self.roster.borrow();
        Ok(mine && (roster.includes(revision) || roster.keys() == there.keys()))
    }

    async fn lead(&mut self, claim: Leadership) {
        info!(name: "leading", create_revision = claim.create_revision, "leading");
        self.awake.set(BootTime::now());
        self.leadership.send_replace(Some(claim.clone()));
        let (etcd, ttl, proven_until) = (self.etcd.clone(), self.ttl(), self.proven_until.clone());
        let gone = prove_again(&etcd, &claim, ttl, &proven_until);
        tokio::pin!(gone);
        while self.claim().as_ref() == Some(&claim) {
            let now = BootTime::now();
            let slept = now.saturating_since(self.awake.get());
            if slept > ASLEEP {
                warn!(
                    name: "stood-still",
                    slept_ms = slept.as_millis() as u64,
                    "stood still: leadership is confirmed anew"
                );
                break;
            }
            self.awake.set(now);
            let left = self.lease.borrow().as_ref().map_or(Duration::ZERO, Lease::holds_for);
            let left = left.min(holds_for(&self.proven_until));
            if left.is_zero() {
                break;
            }
            tokio::select! {
                () = self.change() => {}
                () = sleep(left.min(DEADLINE_CHECK)) => {}
                () = &mut gone => break,
            }
        }
        self.leadership.send_replace(None);
        info!(name: "no-longer-leading", "no longer leading");
    }

    fn ttl(&self) -> Duration {
        self.lease.borrow().as_ref().map_or(Duration::ZERO, |lease| lease.ttl)
    }

    async fn change(&mut self) {
        tokio::select! {
            () = latest::changed(&mut self.roster) => {}
            () = latest::changed(&mut self.lease) => {}
            () = latest::changed(&mut self.contact) => {}
        }
    }
}

/// How long a leader may go on without another proof.
pub fn holds_for(proven_until: &SharedTime) -> Duration {
    proven_until.get().saturating_since(BootTime::now() + LEAD_MARGIN)
}

/// Finds the own candidate key in etcd; the store's revision at that, or `None` when the key is another or gone.
async fn prove(
    etcd: &Etcd,
    claim: &Leadership,
    ttl: Duration,
    proven_until: &SharedTime,
) -> Result<Option<i64>, CallError> {
    let outcome = etcd.commit(1, &[txn::created_at(&claim.key, claim.create_revision)], &[], &[]).await?;
    if !outcome.succeeded {
        return Ok(None);
    }
    proven_until.set(outcome.sent + ttl);
    Ok(Some(outcome.revision))
}

/// Proves it again and again, as often as a lease is renewed; returns when the key is gone.
async fn prove_again(etcd: &Etcd, claim: &Leadership, ttl: Duration, proven_until: &SharedTime) {
    let mut pause = ttl / PROOFS_PER_TTL;
    loop {
        sleep(pause).await;
        match prove(etcd, claim, ttl, proven_until).await {
            Ok(Some(_)) => pause = ttl / PROOFS_PER_TTL,
            Ok(None) => return,
            Err(error) => {
                debug!(name: "leadership-not-proven-again", %error, "leadership not proven again");
                pause = CONFIRM_PAUSE;
            }
        }
    }
}
