//! Everything that may differ between two moments.

use crate::etcd::{NODES, Revision, Roster};

/// How many Envoys there may be; a scene may leave one out.
pub const ENVOYS: usize = 2;

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The range at `base` and after every later transaction: what the slowest node has yet to hear. The last one is
    /// what etcd holds.
    pub log: Vec<Roster>,
    pub base: Revision,
    /// `/muster/drained.through`.
    pub drained: Revision,
    /// `/muster/envoys/<id>`: known to be connected.
    pub recorded: [bool; ENVOYS],
    pub nodes: [Node; NODES],
    pub envoys: [Envoy; ENVOYS],
    /// What may still go wrong.
    pub left: Budget,
    /// Whether nobody was routable at some revision of the past.
    pub was_empty: bool,
    /// What a rule about steps, not states, has seen.
    pub broken: Broken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broken {
    /// Something fenced was changed by somebody who did not hold the lowest candidate key.
    pub fence: bool,
    /// A removal hit another registration than the one that was judged.
    pub stranger: bool,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub leaves: u8,
    pub crashes: u8,
    pub freezes: u8,
    /// A node cut from etcd.
    pub cuts: u8,
    /// Verdicts against nodes, true or false: reaped or deposed.
    pub verdicts: u8,
    /// Lost ADS streams.
    pub losses: u8,
    /// Envoys that stay without a stream for longer than anybody waits.
    pub absences: u8,
    pub rejections: u8,
    /// Requests of Envoy that answer no push.
    pub repeats: u8,
    /// Nodes that die with a registration on its way to etcd.
    pub late_puts: u8,
    pub failed_lists: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not in this scene.
    #[default]
    Absent,
    /// nginx answers, nothing is registered yet.
    Starting,
    Serving,
    /// Waits for `drained.through` to reach the revision; `None` when nothing could be withdrawn.
    Draining(Option<Revision>),
    /// nginx has stopped.
    Stopped {
        acked: bool,
    },
    /// `late`: its registration may still reach etcd.
    Crashed {
        late: bool,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    pub phase: Phase,
    pub frozen: bool,
    pub cut: bool,
    /// Whether its lease is alive in etcd.
    pub lease: bool,
    /// Up to which revision it has applied the watch; `None` before its first list.
    pub applied: Option<Revision>,
    /// Revision of its last own write, until it has seen it: before that an absent key proves nothing.
    pub wrote: Revision,
    /// Rows of its published files, as a set of nodes.
    pub listed: u8,
    /// A failed list was taken for an empty one.
    pub blank: bool,
    pub lead: Option<Lead>,
}

/// What a node that leads, or believes so, keeps in mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lead {
    /// Create revision of its candidate key: the fence.
    pub claim: Revision,
    /// Serves once this is applied; 0 when it is.
    pub confirmed: Revision,
    /// The first ten seconds are not over.
    pub young: bool,
    pub expects: [Expected; ENVOYS],
    /// `lost` has been put at a node with this guard, the deletion is to come.
    pub reaping: Option<(u8, Revision)>,
}

/// An Envoy without a stream here that is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expected {
    #[default]
    No,
    /// Its stream ended less than a second ago, with this `through`.
    Ended(Revision),
    /// The predecessor knew it, less than ten seconds ago.
    Inherited,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Envoy {
    /// Addresses it routes to, as a set.
    pub endpoints: u8,
    pub stream: Option<Stream>,
    /// Was without a stream for longer than anybody waits, and has not applied a push since.
    pub absent: bool,
}

/// One ADS stream, both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    pub node: u8,
    /// The agent has taken it on: its Envoy is recorded.
    pub answered: bool,
    /// Envoy has asked for endpoints.
    pub subscribed: bool,
    pub acked: Option<u8>,
    pub rejected: Option<u8>,
    pub flight: Flight,
    /// A request that answers no push, on its way, with the version Envoy has.
    pub repeat: Option<u8>,
    pub through: Revision,
}

/// The outstanding push. Both directions keep their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flight {
    #[default]
    Nothing,
    Push(u8),
    Ack(u8),
    Nack(u8),
}

impl State {
    pub fn revision(&self) -> Revision {
        self.base + (self.log.len() - 1) as Revision
    }

    /// What etcd holds now.
    pub fn store(&self) -> &Roster {
        &self.log[self.log.len() - 1]
    }

    /// What a node that has listed has heard of.
    pub fn view(&self, node: usize) -> Option<&Roster> {
        let applied = self.nodes[node].applied?;
        Some(&self.log[(applied - self.base) as usize])
    }

    /// One transaction: `change` gets the range and the new revision.
    pub fn commit(&mut self, change: impl FnOnce(&mut Roster, Revision)) -> Revision {
        let revision = self.revision() + 1;
        let mut next = *self.store();
        change(&mut next, revision);
        self.log.push(next);
        revision
    }

    pub fn stream_at(&self, envoy: usize, node: usize) -> Option<&Stream> {
        self.envoys[envoy].stream.as_ref().filter(|stream| stream.node as usize == node)
    }

    /// Stops believing to lead: ends the own streams.
    pub fn demote(&mut self, node: usize) {
        self.nodes[node].lead = None;
        for envoy in 0..ENVOYS {
            if self.stream_at(envoy, node).is_some() {
                self.envoys[envoy].stream = None;
            }
        }
    }

    /// Whether a claim is that of the lowest candidate in etcd.
    pub fn is_claim_valid(&self, node: usize) -> bool {
        let claim = self.nodes[node].lead.map(|lead| lead.claim);
        claim.is_some() && self.store().keys[node].candidate == claim && self.store().leader() == Some(node)
    }
}

impl Node {
    /// Its processes run.
    pub fn runs(&self) -> bool {
        !self.frozen && matches!(self.phase, Phase::Starting | Phase::Serving | Phase::Draining(_))
    }

    /// Runs and reaches etcd.
    pub fn reaches_etcd(&self) -> bool {
        self.runs() && !self.cut
    }

    /// nginx answers and is meant to.
    pub fn is_live(&self) -> bool {
        let started = self.phase == Phase::Serving || self.phase == Phase::Starting && self.applied.is_some();
        started && !self.frozen
    }

    /// Nothing is left that could act.
    pub fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Absent | Phase::Stopped { .. } | Phase::Crashed { .. })
    }

    /// Believes to lead and has applied what it confirmed.
    pub fn serves_ads(&self) -> bool {
        self.lead.is_some_and(|lead| lead.confirmed == 0)
    }
}
