//! Watching over the own keys: what may happen to them, and how it is noticed.

use std::time::Duration;

use tokio::time::{Instant, interval};
use tracing::warn;

use super::Registration;
use crate::fleet::{KeySpace, Node, NodeState, Roster};
use crate::registry::keys;
use crate::registry::lease::Lease;

/// How often it is looked whether this node still hears the registry.
const LOOK: Duration = Duration::from_secs(1);

/// What ends one stretch of being registered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// nginx, the address or one of the keys changed: write them anew on the same lease.
    Rewrite,
    /// The lease is gone.
    LeaseLost,
    /// The own key was deleted by another agent: perhaps for another instance with this address, perhaps because this node
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

    /// What is wrong with the own keys by the roster as it is now.
    fn wrong(&self, lease: &Lease, mine: &WrittenKeys) -> Option<Interruption> {
        let own = OwnLease { id: lease.id, holds: lease.holds(), is_blind: self.is_blind() };
        wrong(&self.roster.borrow(), &self.space, own, mine)
    }

    fn is_blind(&self) -> bool {
        self.contact.borrow().stale_since.is_some()
    }

    /// A node whose lease is renewed but whose watch is dead must not be a candidate: once it is the first, no agent would
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

/// The own lease, as far as it decides what is wrong with the keys on it.
#[derive(Clone, Copy, Debug)]
struct OwnLease {
    id: i64,
    /// By this machine's own clock.
    holds: bool,
    /// The registry is not heard: then this node must be no candidate.
    is_blind: bool,
}

/// What is wrong with the own keys by a roster that is new enough to tell. Pure.
fn wrong(roster: &Roster, space: &KeySpace, lease: OwnLease, mine: &WrittenKeys) -> Option<Interruption> {
    if roster.epoch != mine.epoch || !roster.includes(mine.revision) {
        return None;
    }
    let Node { name, instance, ip, .. } = &mine.node;
    let key = space.node_key(name, instance);
    let own = roster.node(&key);
    let found_dead = roster.was_reaped(instance);
    let lost = own.is_some_and(|own| own.state == NodeState::Lost);
    if mine.ready && (lost || !roster.contains(&key)) {
        // Others saw the lease end, this agent only now: it stood still for longer than that.
        if !found_dead && !lease.holds {
            return Some(Interruption::LeaseLost);
        }
        let rival = |node: &&Node| {
            node.ip == *ip && node.instance != *instance && node.create_revision >= mine.revision
        };
        let contested = roster.nodes().find(rival).cloned();
        return Some(Interruption::Vanished { contested, found_dead });
    }
    let as_written = own.is_some_and(|own| own.lease == lease.id && said_by(own, &mine.node));
    let overwritten = mine.ready && !as_written;
    let no_candidate = !roster.contains(&space.candidate_key(lease.id)) && !lease.is_blind;
    let no_life = roster.life().is_none();
    (overwritten || no_candidate || no_life).then_some(Interruption::Rewrite)
}

/// Whether a key says what this node wrote, whichever agent wrote it last.
fn said_by(own: &Node, written: &Node) -> bool {
    let Node { lease, create_revision, mod_revision, .. } = *own;
    *own == Node { lease, create_revision, mod_revision, ..written.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Change, Ports, Put, candidate_value, life_value, node_value};

    const LEASE: i64 = 7;
    const OWN: OwnLease = OwnLease { id: LEASE, holds: true, is_blind: false };

    fn space() -> KeySpace {
        KeySpace::new("/muster", Vec::new())
    }

    fn node(instance: &str, state: NodeState) -> Node {
        Node {
            name: "web".into(),
            instance: instance.into(),
            ip: [10, 0, 0, 1].into(),
            ports: Ports { http: 8080, control: 18000, metrics: 9464 },
            state,
            reason: String::new(),
            since: "2026-11-21T10:00:00.000Z".into(),
            version: "1".into(),
            took_ms: None,
            lease: 0,
            create_revision: 0,
            mod_revision: 0,
        }
    }

    fn own(state: NodeState) -> Node {
        node("00000000000000aa", state)
    }

    fn put(key: Vec<u8>, value: Vec<u8>, lease: i64, revision: i64) -> Change {
        Change { key, revision, put: Some(Put { value, create_revision: revision, lease }) }
    }

    fn put_node(node: &Node, lease: i64, revision: i64) -> Change {
        put(space().node_key(&node.name, &node.instance), node_value(node), lease, revision)
    }

    fn candidate(lease: i64, revision: i64) -> Change {
        let control = "10.0.0.1:18000".parse().unwrap();
        put(space().candidate_key(lease), candidate_value("00000000000000aa", control), lease, revision)
    }

    fn life() -> Change {
        put(space().life_key(), life_value("1"), 0, 2)
    }

    /// Everything as this node wrote it at revision 3.
    fn registered() -> Roster {
        let entries = [life(), put_node(&own(NodeState::Serving), LEASE, 3), candidate(LEASE, 3)];
        Roster::from_list(&space(), 1, &entries, 3, None).0
    }

    fn mine() -> WrittenKeys {
        WrittenKeys { revision: 3, node: own(NodeState::Serving), epoch: 1, ready: true }
    }

    fn after(changes: &[Change]) -> Roster {
        registered().apply(&space(), changes).0
    }

    fn gone(change: Change, revision: i64) -> Change {
        Change { revision, put: None, ..change }
    }

    #[test]
    fn keys_that_are_as_written_are_left_alone() {
        assert_eq!(wrong(&registered(), &space(), OWN, &mine()), None);
    }

    #[test]
    fn an_older_roster_or_one_of_another_history_tells_nothing() {
        let older = Roster::from_list(&space(), 1, &[life()], 2, None).0;
        assert_eq!(wrong(&older, &space(), OWN, &mine()), None);
        let other = Roster::from_list(&space(), 2, &[], 9, None).0;
        assert_eq!(wrong(&other, &space(), OWN, &mine()), None);
    }

    #[test]
    fn what_others_overwrote_or_removed_is_written_again() {
        let changed = Node { reason: "?".into(), ..own(NodeState::Draining) };
        for changes in [
            vec![put_node(&changed, LEASE, 4)],
            vec![put_node(&own(NodeState::Serving), 8, 4)],
            vec![gone(candidate(LEASE, 3), 4)],
            vec![gone(life(), 4)],
        ] {
            assert_eq!(
                wrong(&after(&changes), &space(), OWN, &mine()),
                Some(Interruption::Rewrite),
                "{changes:?}"
            );
        }
    }

    #[test]
    fn a_node_that_hears_nothing_is_no_candidate() {
        let roster = after(&[gone(candidate(LEASE, 3), 4)]);
        assert_eq!(wrong(&roster, &space(), OwnLease { is_blind: true, ..OWN }, &mine()), None);
    }

    #[test]
    fn an_own_key_that_is_gone_is_told_by_the_lease() {
        let roster = after(&[gone(put_node(&own(NodeState::Serving), LEASE, 3), 4)]);
        let vanished = Interruption::Vanished { contested: None, found_dead: false };
        assert_eq!(wrong(&roster, &space(), OWN, &mine()), Some(vanished));
        let ended = OwnLease { holds: false, ..OWN };
        assert_eq!(wrong(&roster, &space(), ended, &mine()), Some(Interruption::LeaseLost));
    }

    #[test]
    fn found_dead_is_known_by_lost_also_when_the_key_is_gone() {
        let lost = put_node(&own(NodeState::Lost), LEASE, 4);
        let dead = Some(Interruption::Vanished { contested: None, found_dead: true });
        assert_eq!(wrong(&after(std::slice::from_ref(&lost)), &space(), OWN, &mine()), dead);
        let removed = after(std::slice::from_ref(&lost)).apply(&space(), &[gone(lost, 5)]).0;
        assert_eq!(wrong(&removed, &space(), OwnLease { holds: false, ..OWN }, &mine()), dead);
    }

    #[test]
    fn another_instance_with_this_address_is_named() {
        let rival = node("00000000000000bb", NodeState::Serving);
        let own_key = gone(put_node(&own(NodeState::Serving), LEASE, 3), 4);
        let roster = after(&[own_key, put_node(&rival, 9, 4)]);
        let Some(Interruption::Vanished { contested: Some(found), found_dead: false }) =
            wrong(&roster, &space(), OWN, &mine())
        else {
            panic!("{roster:?}")
        };
        assert_eq!(found.instance, rival.instance);
    }

    #[test]
    fn a_node_that_does_not_serve_needs_its_candidate_key_alone() {
        let withdrawn = WrittenKeys { ready: false, ..mine() };
        let roster = after(&[gone(put_node(&own(NodeState::Serving), LEASE, 3), 4)]);
        assert_eq!(wrong(&roster, &space(), OWN, &withdrawn), None);
    }
}
