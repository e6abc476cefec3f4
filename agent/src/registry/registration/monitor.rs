//! Watching over the own keys: what may happen to them, and how it is noticed.

use std::time::Duration;

use tokio::time::{Instant, interval};
use tracing::warn;

use super::Registration;
use crate::fleet::{Node, NodeState};
use crate::registry::keys;
use crate::registry::lease::Lease;

/// How often it is looked whether this node still hears the registry.
const LOOK: Duration = Duration::from_secs(1);

/// What ends one stretch of being registered.
pub(super) enum Interruption {
    /// nginx, the address or one of the keys changed: write them anew on the same lease.
    Rewrite,
    /// The lease is gone.
    LeaseLost,
    /// The own key was deleted by somebody: perhaps for another instance with this address, perhaps because this node
    /// was found dead.
    Vanished { contested: Option<Node>, found_dead: bool },
    /// The registry forgot everything.
    Forgotten,
    /// Told to leave.
    Leave,
}

/// What is written now.
pub(super) struct WrittenKeys {
    /// Revision by which it was so.
    pub(super) revision: i64,
    pub(super) node: Node,
    pub(super) epoch: u64,
    pub(super) ready: bool,
}

impl Registration {
    /// Waits for whatever makes the keys wrong.
    pub(super) async fn watch_over(&mut self, lease: &Lease, mine: &WrittenKeys) -> Interruption {
        let mut look = interval(LOOK);
        let mut blind_since = None;
        loop {
            if *self.ready.borrow() != mine.ready || *self.address.borrow() != Some(mine.node.ip) {
                return Interruption::Rewrite;
            }
            if *self.epoch.borrow() != mine.epoch {
                return Interruption::Forgotten;
            }
            if let Some(turn) = self.wrong(lease, mine) {
                return turn;
            }
            tokio::select! {
                () = lease.lost() => return Interruption::LeaseLost,
                () = self.drain.cancelled() => return Interruption::Leave,
                _ = look.tick() => self.give_way_when_blind(lease, &mut blind_since).await,
                _ = self.ready.changed() => {}
                _ = self.address.changed() => {}
                _ = self.epoch.changed() => {}
                _ = self.roster.changed() => {}
            }
        }
    }

    /// What is wrong with the own keys by a roster that is new enough to tell.
    fn wrong(&self, lease: &Lease, mine: &WrittenKeys) -> Option<Interruption> {
        let roster = self.roster.borrow();
        if roster.epoch != mine.epoch || !roster.includes(mine.revision) {
            return None;
        }
        let key = self.space.node_key(&self.identity.name, &self.identity.instance);
        let own = roster.node(&key);
        let found_dead = roster.was_reaped(&self.identity.instance);
        let lost = own.is_some_and(|own| own.state == NodeState::Lost);
        if mine.ready && (lost || !roster.contains(&key)) {
            // Others saw the lease end, this agent only now: it stood still for longer than that.
            if !found_dead && !lease.holds() {
                return Some(Interruption::LeaseLost);
            }
            let contested = roster.nodes().find(|node| {
                node.ip == mine.node.ip
                    && node.instance != self.identity.instance
                    && node.create_revision >= mine.revision
            });
            return Some(Interruption::Vanished { contested: contested.cloned(), found_dead });
        }
        let as_written = own.is_some_and(|own| own.lease == lease.id && said_by(own, &mine.node));
        let overwritten = mine.ready && !as_written;
        let no_candidate = !roster.contains(&self.space.candidate_key(lease.id)) && !self.is_blind();
        let no_life = roster.life().is_none();
        (overwritten || no_candidate || no_life).then_some(Interruption::Rewrite)
    }

    fn is_blind(&self) -> bool {
        self.contact.borrow().stale_since.is_some()
    }

    /// A node whose lease is renewed but whose watch is dead must not stand in line: should it come first, nobody would
    /// lead. Its candidate key comes back with its sight.
    async fn give_way_when_blind(&self, lease: &Lease, blind_since: &mut Option<Instant>) {
        if !self.is_blind() || !lease.holds() {
            *blind_since = None;
            return;
        }
        let since = *blind_since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.ttl {
            return;
        }
        match keys::resign(&self.etcd, &self.space, lease.id).await {
            Ok(()) => warn!(
                name: "registry-not-heard-although-the-lease-lives",
                "registry not heard although the lease lives: candidacy given up"
            ),
            Err(error) => warn!(
                name: "candidacy-not-given-up",
                %error,
                "candidacy not given up: the registry is not heard"
            ),
        }
        *blind_since = Some(Instant::now() + Duration::from_secs(3600));
    }
}

/// Whether a key says what this node wrote, whoever wrote it last.
fn said_by(own: &Node, written: &Node) -> bool {
    let Node { lease, create_revision, mod_revision, .. } = *own;
    *own == Node { lease, create_revision, mod_revision, ..written.clone() }
}
