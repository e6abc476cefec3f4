//! What the keys of the watched range mean, one type each, and a change of one.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::names::node_id;

/// What a node says of itself: `serving` is routable, the others are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Serving,
    /// Leaving, or held back by an operator's mark.
    Draining,
    /// Found dead; its key is about to be deleted.
    Lost,
}

impl NodeState {
    pub const ALL: [Self; 3] = [Self::Serving, Self::Draining, Self::Lost];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Lost => "lost",
        }
    }
}

/// Ports of one node, all on its one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ports {
    pub http: u16,
    pub control: u16,
    pub metrics: u16,
}

/// One registered nginx container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Host name, which in a container is the container's short id.
    pub name: String,
    /// One life of one agent: 16 hex digits.
    pub instance: String,
    pub ip: Ipv4Addr,
    pub ports: Ports,
    pub state: NodeState,
    /// Why it is in this state; empty while serving.
    pub reason: String,
    /// When it entered this state: RFC 3339 in UTC, by the node's own clock.
    pub since: String,
    /// Version of the agent that wrote the entry.
    pub version: String,
    /// Only where others found it dead: how long that took, in milliseconds.
    pub took_ms: Option<u64>,
    pub lease: i64,
    pub create_revision: i64,
    pub mod_revision: i64,
}

/// One agent that would lead. Its rank is (`create_revision`, key): the lowest leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub instance: String,
    /// Where the agent serves ADS.
    pub control: SocketAddrV4,
    pub lease: i64,
    pub create_revision: i64,
    pub mod_revision: i64,
}

impl Node {
    /// `name-instance`.
    pub fn id(&self) -> String {
        node_id(&self.name, &self.instance)
    }
}

impl Candidate {
    /// Whether it is the same candidacy, also when its key was written again meanwhile.
    pub fn is(&self, other: &Candidate) -> bool {
        *self == Candidate { mod_revision: self.mod_revision, ..other.clone() }
    }
}

/// An operator's mark on a node's name: it stays registered and is not routed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    #[serde(default)]
    pub since: String,
    #[serde(default)]
    pub why: String,
}

/// The id of this registry's life: replaced when the data were wiped or restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLife {
    pub id: String,
    pub mod_revision: i64,
}

/// One change of one key, as etcd reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Vec<u8>,
    /// The revision of this change.
    pub revision: i64,
    /// `None` when the key was deleted.
    pub put: Option<Put>,
}

/// The key's new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    pub value: Vec<u8>,
    pub create_revision: i64,
    /// 0 when the key hangs on no lease.
    pub lease: i64,
}
