//! Two states that differ in names of revisions only are one: revisions are only ever compared, so their ranks say
//! the same. What no later step can ask for is forgotten too.

use crate::etcd::{Revision, Roster};
use crate::protocol::Protocol;
use crate::state::{ENVOYS, Expected, Phase, State};

impl Protocol {
    /// Ends every step.
    pub(crate) fn canonical(&self, s: &mut State) {
        s.was_empty |= s.store().routable(&self.scene.addresses) == 0;
        self.settle(s);
        forget(s);
        if self.nameless_envoys && self.scene.envoys == ENVOYS {
            sort_envoys(s);
        }
        rank(s);
    }
}

fn forget(s: &mut State) {
    let heard = s.nodes.iter().filter_map(|node| node.applied).min().unwrap_or(s.revision());
    s.log.drain(..(heard - s.base) as usize);
    s.base = heard;
    for node in &mut s.nodes {
        let applied = node.applied.unwrap_or(0);
        if node.wrote <= applied {
            node.wrote = 0;
        }
        if let Some(lead) = node.lead.as_mut().filter(|lead| lead.confirmed <= applied) {
            lead.confirmed = 0;
        }
    }
    let waits = s.nodes.iter().any(|node| matches!(node.phase, Phase::Draining(_)));
    if !waits && !s.log.iter().any(Roster::drains) {
        // Whoever leaves from now on waits for a revision above all of these.
        s.drained = 0;
        each_through(s, &mut |through| *through = 0);
    }
}

fn sort_envoys(s: &mut State) {
    let lead = |e: usize| s.nodes.map(|node| node.lead.map(|lead| lead.expects[e]));
    let [first, second] = [0, 1].map(|e| (s.envoys[e], s.recorded[e], lead(e)));
    if second < first {
        s.envoys.reverse();
        s.recorded.reverse();
        for lead in s.nodes.iter_mut().filter_map(|node| node.lead.as_mut()) {
            lead.expects.reverse();
        }
    }
}

fn rank(s: &mut State) {
    let mut used = [false; 256];
    each_revision(s, &mut |revision| used[*revision as usize] = true);
    used[s.base as usize..=s.revision() as usize].fill(true);
    let mut ranks = [0; 256];
    let used = used.iter().enumerate().skip(1).filter(|(_, used)| **used);
    for (rank, (revision, _)) in (1..).zip(used) {
        ranks[revision] = rank;
    }
    s.base = ranks[s.base as usize];
    each_revision(s, &mut |revision| *revision = ranks[*revision as usize]);
}

fn each_revision(s: &mut State, visit: &mut dyn FnMut(&mut Revision)) {
    for keys in s.log.iter_mut().flat_map(|roster| &mut roster.keys) {
        if let Some(key) = &mut keys.node {
            visit(&mut key.created);
            visit(&mut key.modified);
        }
        keys.candidate.iter_mut().for_each(&mut *visit);
    }
    visit(&mut s.drained);
    each_through(s, visit);
    for node in &mut s.nodes {
        node.applied.iter_mut().for_each(&mut *visit);
        visit(&mut node.wrote);
        if let Phase::Draining(Some(since)) = &mut node.phase {
            visit(since);
        }
        if let Some(lead) = &mut node.lead {
            visit(&mut lead.claim);
            visit(&mut lead.confirmed);
            if let Some((_, guard)) = &mut lead.reaping {
                visit(guard);
            }
        }
    }
}

fn each_through(s: &mut State, visit: &mut dyn FnMut(&mut Revision)) {
    for lead in s.nodes.iter_mut().filter_map(|node| node.lead.as_mut()) {
        for expected in &mut lead.expects {
            if let Expected::Ended(through) = expected {
                visit(through);
            }
        }
    }
    for stream in s.envoys.iter_mut().filter_map(|envoy| envoy.stream.as_mut()) {
        visit(&mut stream.through);
    }
}
