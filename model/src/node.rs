//! What a node does for itself: list, register, follow the watch, leave.

use crate::etcd::{KeyState, Keys, NodeKey, Revision};
use crate::mechanism::Mechanism;
use crate::protocol::Protocol;
use crate::state::{Flight, Lead, Node, Phase, State};
use crate::step::only_if;

impl Protocol {
    /// The first list, before nginx is announced. An engine gives an address away once its container is gone.
    pub(crate) fn list(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].reaches_etcd() && s.nodes[n].applied.is_none())?;
        let addresses = self.scene.addresses;
        only_if((0..n).all(|other| addresses[other] != addresses[n] || s.nodes[other].is_gone()))?;
        s.nodes[n].applied = Some(s.revision());
        self.publish(s, n);
        Some(())
    }

    /// Puts both keys in one transaction, for the first time or again.
    pub(crate) fn register(&self, s: &mut State, n: usize) -> Option<()> {
        let node = s.nodes[n];
        only_if(node.reaches_etcd())?;
        let view = *s.view(n)?;
        let anew = match node.phase {
            Phase::Starting => true,
            Phase::Serving => self.needs_new_lease(&node, &view.keys[n])?,
            _ => return None,
        };
        if anew && node.lead.is_some() {
            // The old candidate key is the old right.
            s.demote(n);
        }
        let addresses = self.scene.addresses;
        let revision = s.commit(|range, revision| {
            put(&mut range.keys[n], KeyState::Serving, revision);
            if anew || range.keys[n].candidate.is_none() {
                range.keys[n].candidate = Some(revision);
            }
            for other in (0..addresses.len()).filter(|&other| other != n) {
                if addresses[other] == addresses[n] && view.keys[other].node.is_some() {
                    range.keys[other] = Keys::default();
                }
            }
        });
        let node = &mut s.nodes[n];
        (node.phase, node.lease, node.wrote) = (Phase::Serving, true, revision);
        Some(())
    }

    /// What repair the node's own keys need by all it knows: a new lease (`true`), a new candidate key on the same
    /// one (`false`), or none.
    fn needs_new_lease(&self, node: &Node, mine: &Keys) -> Option<bool> {
        let lost = mine.node.is_none_or(|key| key.state == KeyState::Lost && self.has(Mechanism::LostIsGone));
        if !node.lease || (node.wrote == 0 && lost) {
            return self.has(Mechanism::RegistersAgain).then_some(true);
        }
        (node.wrote == 0 && mine.candidate.is_none() && self.has(Mechanism::CandidateAgain)).then_some(false)
    }

    /// The next revision of the watch.
    pub(crate) fn apply(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].reaches_etcd())?;
        let applied = s.nodes[n].applied.filter(|applied| *applied < s.revision())?;
        let had = s.view(n)?.keys[n].node.is_some();
        s.nodes[n].applied = Some(applied + 1);
        s.nodes[n].blank = false;
        self.publish(s, n);
        let view = *s.view(n)?;
        if let Phase::Draining(since) = s.nodes[n].phase
            && had
            && view.keys[n].node.is_none()
            && (applied + 1 > since.unwrap_or(0).max(s.nodes[n].wrote) || !self.has(Mechanism::LaterDeletion))
        {
            // Its deletion is what everybody has to hear of now.
            s.nodes[n].phase = Phase::Draining(Some(applied + 1));
        }
        let claim = s.nodes[n].lead.map(|lead| lead.claim);
        if claim.is_some() && (view.leader() != Some(n) || view.keys[n].candidate != claim) {
            s.demote(n);
        }
        Some(())
    }

    /// Writes the node's files.
    pub(crate) fn publish(&self, s: &mut State, n: usize) {
        let blank = s.nodes[n].blank;
        let dedupe = self.has(Mechanism::OneRowPerAddress);
        let rows = s.view(n).map_or(0, |view| view.rows(&self.scene.addresses, dedupe));
        s.nodes[n].listed = if blank { 0 } else { rows };
    }

    /// What a leader tells Envoy.
    pub(crate) fn told(&self, s: &State, n: usize) -> u8 {
        let view = s.view(n).filter(|_| !s.nodes[n].blank);
        view.map_or(0, |view| view.routable(&self.scene.addresses))
    }

    /// Asked to leave: `draining` and, unless it leads by all it knows, the own candidate key, in one transaction.
    pub(crate) fn leave(&self, s: &mut State, n: usize) -> Option<()> {
        let node = s.nodes[n];
        only_if(node.reaches_etcd() && node.phase == Phase::Serving)?;
        s.left.leaves -= 1;
        let leads = node.lead.is_some();
        let since = node.lease.then(|| {
            s.commit(|range, revision| {
                put(&mut range.keys[n], KeyState::Draining, revision);
                if !leads {
                    range.keys[n].candidate = None;
                }
            })
        });
        s.nodes[n].phase = Phase::Draining(since);
        Some(())
    }

    /// The acknowledgement is there: stops nginx. The linger is left out: it only makes this later.
    pub(crate) fn stop(&self, s: &mut State, n: usize) -> Option<()> {
        let node = s.nodes[n];
        let Phase::Draining(Some(since)) = node.phase else { return None };
        only_if(node.reaches_etcd() && s.drained >= since)?;
        if let Some(lead) = node.lead {
            let newest = s.view(n)?.newest_drain().unwrap_or(0);
            only_if(s.drained >= newest || !self.has(Mechanism::ResignsLast))?;
            self.resign(s, n, &lead);
        }
        self.end(s, n, Phase::Stopped { acked: true });
        Some(())
    }

    fn resign(&self, s: &mut State, n: usize, lead: &Lead) {
        if s.store().keys[n].candidate == Some(lead.claim) {
            s.commit(|range, _| range.keys[n].candidate = None);
        }
        if !self.has(Mechanism::RecordOutlivesStream) {
            for envoy in 0..self.scene.envoys {
                s.recorded[envoy] &= s.stream_at(envoy, n).is_none();
            }
        }
    }

    /// The bound of a drain, used only where an acknowledgement cannot be hoped for: the lease is gone, an Envoy
    /// rejects what it is told, or no candidate is left that could write it.
    pub(crate) fn bound(&self, s: &mut State, n: usize) -> Option<()> {
        let refused =
            |s: &State| s.envoys.iter().filter_map(|e| e.stream).any(|stream| stream.rejected.is_some());
        only_if(s.nodes[n].runs() && matches!(s.nodes[n].phase, Phase::Draining(_)))?;
        only_if(!s.nodes[n].lease || refused(s) || s.store().leader().is_none())?;
        if let Some(lead) = s.nodes[n].lead.filter(|_| !s.nodes[n].cut) {
            self.resign(s, n, &lead);
        }
        self.end(s, n, Phase::Stopped { acked: false });
        Some(())
    }

    /// The agent's process is gone, and with it its streams.
    pub(crate) fn end(&self, s: &mut State, n: usize, phase: Phase) {
        s.demote(n);
        s.nodes[n] = Node { phase, lease: s.nodes[n].lease, ..Node::default() };
    }

    /// Applies to streams of leaders: `through` follows what has been acknowledged.
    pub(crate) fn settle(&self, s: &mut State) {
        for envoy in 0..self.scene.envoys {
            let Some(stream) = s.envoys[envoy].stream else { continue };
            let node = stream.node as usize;
            if !s.nodes[node].runs() || stream.acked != Some(self.told(s, node)) {
                continue;
            }
            if stream.flight == Flight::Nothing || !self.has(Mechanism::NothingOutstanding) {
                let applied = s.nodes[node].applied.unwrap_or(0);
                if let Some(stream) = &mut s.envoys[envoy].stream {
                    stream.through = applied;
                }
            }
        }
    }
}

/// Puts a node key: the create revision stays while the key does.
pub(crate) fn put(keys: &mut Keys, state: KeyState, revision: Revision) {
    let created = keys.node.map_or(revision, |key| key.created);
    keys.node = Some(NodeKey { state, created, modified: revision });
}
