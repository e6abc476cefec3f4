//! The watched range of etcd: per node one node key and one candidate key.
//!
//! A candidate key's name is its lease, so that a new lease is a new key; a node key keeps its name. Both are judged
//! by create revision, as in the product.

/// How many nodes there are; a scene may leave some out.
pub const NODES: usize = 3;

/// A revision of the watched range. 0 is before everything.
pub type Revision = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    Serving,
    Draining,
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeKey {
    pub state: KeyState,
    pub created: Revision,
    pub modified: Revision,
}

/// One node's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keys {
    pub node: Option<NodeKey>,
    /// The candidate key's create revision.
    pub candidate: Option<Revision>,
}

/// The range at one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roster {
    pub keys: [Keys; NODES],
}

impl Roster {
    /// The candidate with the lowest create revision. A draw does not happen here: one transaction creates at most
    /// one candidate key.
    pub fn leader(&self) -> Option<usize> {
        (0..NODES).filter(|&n| self.keys[n].candidate.is_some()).min_by_key(|&n| self.keys[n].candidate)
    }

    pub fn state(&self, node: usize) -> Option<KeyState> {
        self.keys[node].node.map(|key| key.state)
    }

    /// Published rows as a set of nodes: of two keys with one address the newest, unless `dedupe` is off.
    pub fn rows(&self, addresses: &[u8; NODES], dedupe: bool) -> u8 {
        let created = |n: usize| self.keys[n].node.map(|key| key.created);
        let hidden = |n: usize| {
            dedupe && (0..NODES).any(|other| addresses[other] == addresses[n] && created(other) > created(n))
        };
        (0..NODES).filter(|&n| created(n).is_some() && !hidden(n)).fold(0, |rows, n| rows | 1 << n)
    }

    /// Addresses Envoy is told to route to, as a set.
    pub fn routable(&self, addresses: &[u8; NODES]) -> u8 {
        let rows = self.rows(addresses, true);
        let serving = |n: &usize| rows & 1 << n != 0 && self.state(*n) == Some(KeyState::Serving);
        (0..NODES).filter(serving).fold(0, |set, n| set | 1 << addresses[n])
    }

    /// Whether any node is leaving.
    pub fn drains(&self) -> bool {
        (0..NODES).any(|n| self.state(n) == Some(KeyState::Draining))
    }

    /// Revision of the newest `draining`.
    pub fn newest_drain(&self) -> Option<Revision> {
        let draining = self.keys.iter().filter_map(|keys| keys.node);
        draining.filter(|key| key.state == KeyState::Draining).map(|key| key.modified).max()
    }
}
