//! What a leader does, and who takes its place.

use crate::etcd::{KeyState, Keys, Revision};
use crate::mechanism::Mechanism;
use crate::node::put;
use crate::protocol::Protocol;
use crate::state::{ENVOYS, Expected, Lead, Phase, State};
use crate::step::only_if;

impl Protocol {
    /// Confirms in etcd what the roster says: the own candidate key is there and the lowest.
    pub(crate) fn confirm(&self, s: &mut State, n: usize) -> Option<()> {
        let node = s.nodes[n];
        only_if(node.reaches_etcd() && node.lead.is_none())?;
        only_if(matches!(node.phase, Phase::Serving | Phase::Draining(_)))?;
        let view = s.view(n)?;
        only_if(view.leader() == Some(n) && s.store().leader() == Some(n))?;
        let claim = view.keys[n].candidate?;
        only_if(s.store().keys[n].candidate == Some(claim))?;
        let mut expects = [Expected::No; ENVOYS];
        for (expected, recorded) in expects.iter_mut().zip(s.recorded) {
            if recorded && self.has(Mechanism::InheritsEnvoys) {
                *expected = Expected::Inherited;
            }
        }
        let confirmed = if self.has(Mechanism::ServesWhatItConfirmed) { s.revision() } else { 0 };
        s.nodes[n].lead = Some(Lead { claim, confirmed, young: true, expects, reaping: None });
        Some(())
    }

    /// The own clock says that the right may have ended.
    pub(crate) fn clock_ends(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].runs() && s.nodes[n].lead.is_some() && self.has(Mechanism::SendClock))?;
        let key_gone = self.has(Mechanism::ClockOfTheKey) && !s.is_claim_valid(n);
        only_if(s.nodes[n].cut || !s.nodes[n].lease || key_gone)?;
        s.demote(n);
        Some(())
    }

    /// The end of a leader's right, seen at a fenced write. `None`: may not even try.
    fn fenced(&self, s: &mut State, n: usize) -> Option<bool> {
        only_if(s.nodes[n].reaches_etcd() && s.nodes[n].serves_ads())?;
        let valid = s.is_claim_valid(n);
        if valid {
            return Some(true);
        }
        if self.has(Mechanism::Fence) {
            s.demote(n);
            return Some(false);
        }
        s.broken.fence = true;
        Some(true)
    }

    /// The lowest `through` over open streams and expected Envoys.
    fn through(&self, s: &State, n: usize) -> Option<Revision> {
        let lead = s.nodes[n].lead?;
        let mut lowest: Option<Revision> = None;
        for envoy in 0..self.scene.envoys {
            let counted = match (s.stream_at(envoy, n), lead.expects[envoy]) {
                (Some(stream), _) if stream.subscribed || self.has(Mechanism::CountsFromOpening) => {
                    Some(stream.through)
                }
                (None, Expected::Ended(through)) => Some(through),
                (None, Expected::Inherited) => Some(0),
                _ => None,
            };
            lowest = match (lowest, counted) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let waits = lead.young && self.has(Mechanism::YoungLeaderWaits);
        lowest.or(if waits { None } else { s.nodes[n].applied })
    }

    /// Writes what the leaving nodes wait for.
    pub(crate) fn write_drained(&self, s: &mut State, n: usize) -> Option<()> {
        only_if(s.nodes[n].reaches_etcd() && s.nodes[n].serves_ads())?;
        let through = self.through(s, n)?;
        let view = s.view(n)?;
        let draining =
            view.keys.iter().filter_map(|keys| keys.node).filter(|k| k.state == KeyState::Draining);
        let mut waiting = draining.map(|key| key.modified);
        only_if(through > s.drained && waiting.any(|since| since > s.drained && since <= through))?;
        if self.fenced(s, n)? {
            s.drained = through;
        }
        Some(())
    }

    /// A verdict against a node, first half: `lost`. Whether it is true does not matter here.
    pub(crate) fn put_lost(&self, s: &mut State, n: usize, victim: usize) -> Option<()> {
        only_if(s.nodes[n].serves_ads() && s.nodes[n].lead?.reaping.is_none())?;
        let judged = s.view(n)?.keys[victim].node?;
        let drains = judged.state == KeyState::Draining && !self.has(Mechanism::SparesDraining);
        only_if(judged.state == KeyState::Serving || drains)?;
        if self.fenced(s, n)? {
            let same = self.is_judged(s, victim, judged.created, judged.modified);
            only_if(same.is_some())?;
            s.broken.stranger |= same == Some(false);
            let revision = s.commit(|range, revision| put(&mut range.keys[victim], KeyState::Lost, revision));
            let guard = if self.has(Mechanism::SparesDraining) { revision } else { judged.created };
            s.nodes[n].lead.as_mut()?.reaping = Some((victim as u8, guard));
        }
        s.left.verdicts -= 1;
        Some(())
    }

    /// Second half: the deletion.
    pub(crate) fn delete(&self, s: &mut State, n: usize) -> Option<()> {
        let (victim, guard) = s.nodes[n].lead?.reaping?;
        let victim = victim as usize;
        if self.fenced(s, n)? {
            s.nodes[n].lead.as_mut()?.reaping = None;
            if let Some(same) = self.is_judged(s, victim, guard, guard) {
                s.broken.stranger |= !same;
                s.commit(|range, _| range.keys[victim].node = None);
            }
        }
        Some(())
    }

    /// Whether a removal may go on, and whether it hits what was judged. The guard is the key's mod revision when
    /// draining nodes are to be spared, else its create revision.
    fn is_judged(&self, s: &State, victim: usize, created: Revision, modified: Revision) -> Option<bool> {
        let there = s.store().keys[victim].node?;
        let spares = self.has(Mechanism::SparesDraining);
        let same = if spares { there.modified == modified } else { there.created == created };
        (same || !self.has(Mechanism::VictimGuard)).then_some(same)
    }

    /// Another candidate found the leader's control port silent, rightly or not: deletes its candidate key, the node
    /// key only if its nginx is silent too.
    pub(crate) fn depose(&self, s: &mut State, by: usize, leader: usize) -> Option<()> {
        only_if(s.nodes[by].reaches_etcd() && s.nodes[by].lead.is_none())?;
        let view = s.view(by)?;
        only_if(view.leader() == Some(leader))?;
        let mine = view.keys[by].candidate;
        let judged = view.keys[leader].candidate;
        only_if(mine.is_some() && s.store().keys[by].candidate == mine)?;
        only_if(s.store().keys[leader].candidate == judged)?;
        let silent = !s.nodes[leader].runs() && s.store().state(leader) == Some(KeyState::Serving);
        s.left.verdicts -= 1;
        s.commit(|range, _| {
            range.keys[leader].candidate = None;
            if silent {
                range.keys[leader].node = None;
            }
        });
        Some(())
    }

    /// A stream that ended a second ago is waited for no longer. Envoy is back elsewhere, or stays away.
    pub(crate) fn one_second(&self, s: &mut State, n: usize, envoy: usize) -> Option<()> {
        let lead = s.nodes[n].lead?;
        only_if(s.nodes[n].runs() && matches!(lead.expects[envoy], Expected::Ended(_)))?;
        let elsewhere = s.envoys[envoy].stream.is_some_and(|stream| stream.answered);
        only_if(s.envoys[envoy].absent || elsewhere)?;
        self.expect_no_more(s, n, envoy);
        Some(())
    }

    /// The predecessor's Envoys are waited for no longer. Who is still at another agent is there because that one
    /// has not stopped by its own clock.
    pub(crate) fn ten_seconds(&self, s: &mut State, n: usize) -> Option<()> {
        let lead = s.nodes[n].lead?;
        only_if(s.nodes[n].runs() && lead.young)?;
        for (envoy, there) in s.envoys[..self.scene.envoys].iter().enumerate() {
            let settled = match &there.stream {
                Some(stream) if stream.node as usize == n => true,
                Some(stream) if stream.answered => !self.ends_in_time(s, stream.node as usize),
                _ => there.absent,
            };
            only_if(settled)?;
            debug_assert!(envoy < ENVOYS);
        }
        s.nodes[n].lead.as_mut()?.young = false;
        for envoy in 0..self.scene.envoys {
            if lead.expects[envoy] == Expected::Inherited && s.stream_at(envoy, n).is_none() {
                self.expect_no_more(s, n, envoy);
            }
        }
        Some(())
    }

    /// Whether a former leader's streams end within ten seconds: a silent one's by Envoy's keepalive, another's by
    /// its own clock.
    fn ends_in_time(&self, s: &State, zombie: usize) -> bool {
        let node = &s.nodes[zombie];
        if !node.runs() {
            return true;
        }
        let renews = node.lease && !node.cut;
        self.has(Mechanism::SendClock) && (self.has(Mechanism::ClockOfTheKey) || !renews)
    }

    fn expect_no_more(&self, s: &mut State, n: usize, envoy: usize) {
        if let Some(lead) = &mut s.nodes[n].lead {
            lead.expects[envoy] = Expected::No;
        }
        if !s.nodes[n].cut && s.is_claim_valid(n) {
            s.recorded[envoy] = false;
        }
    }

    /// A lease that nobody renews. A leader that cannot renew has stopped by its own clock before.
    pub(crate) fn lease_ends(&self, s: &mut State, n: usize) -> Option<()> {
        let node = s.nodes[n];
        let there = s.store().keys[n] != Keys::default();
        only_if(self.has(Mechanism::LeaseEnds) && node.lease && (there || !node.is_gone()))?;
        only_if(!(node.runs() && node.lead.is_some() && self.has(Mechanism::SendClock)))?;
        s.nodes[n].lease = false;
        if there {
            s.commit(|range, _| range.keys[n] = Keys::default());
        }
        Some(())
    }
}
