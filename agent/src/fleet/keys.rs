//! [`KeySpace`]: which key means what, and which addresses may be listed.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::names::{is_name, node_id};

/// What muster keeps below a prefix, by the first part of the rest: nothing else may lie there.
pub const FIRST_PARTS: [&str; 7] = ["drained", "envoys", "history", "leader", "life", "marks", "nodes"];

/// What a key of the watched range is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A node's id.
    Node(&'a str),
    /// A lease in hex.
    Candidate(&'a str),
    /// A node's name.
    Mark(&'a str),
    RegistryLife,
    Other,
}

/// Where the fleet's keys live and which addresses it may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpace {
    prefix: String,
    allow: Vec<Ipv4Net>,
}

impl KeySpace {
    /// `prefix` without a trailing slash; an empty `allow` lets in any unicast address but loopback and link-local.
    pub fn new(prefix: impl Into<String>, allow: Vec<Ipv4Net>) -> Self {
        Self { prefix: prefix.into(), allow }
    }

    pub fn set_allow(&mut self, allow: Vec<Ipv4Net>) {
        self.allow = allow;
    }

    /// `[start, end)` of the watched range: leader, life, marks and nodes are neighbours in key order.
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        (self.sub("leader/"), self.sub("nodes0"))
    }

    /// What a key is about; `None` when it is not below the prefix.
    pub fn key<'a>(&self, key: &'a [u8]) -> Option<Key<'a>> {
        let rest = self.strip(key)?;
        // A directory's own name is a key with an empty name in it.
        Some(match rest.split_once('/').unwrap_or((rest, "")) {
            ("nodes", id) => Key::Node(id),
            ("leader", lease) => Key::Candidate(lease),
            ("marks", name) => Key::Mark(name),
            ("life", "") if rest == "life" => Key::RegistryLife,
            _ => Key::Other,
        })
    }

    pub fn node_key(&self, name: &str, instance: &str) -> Vec<u8> {
        self.sub(&format!("nodes/{}", node_id(name, instance)))
    }

    /// `[start, end)` of the keys of all nodes of a name; nodes of longer names that begin with it and a dash are in it too.
    pub fn nodes_named(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        // What follows the dash in order.
        (self.sub(&format!("nodes/{name}-")), self.sub(&format!("nodes/{name}.")))
    }

    /// The node's name that a key carries, whatever its value says.
    pub fn node_name<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        self.strip(key)?.strip_prefix("nodes/")?.rsplit_once('-').map(|(name, _)| name)
    }

    pub fn candidate_key(&self, lease: i64) -> Vec<u8> {
        self.sub(&format!("leader/{lease:x}"))
    }

    /// `[start, end)` of all candidate keys.
    pub fn candidates(&self) -> (Vec<u8>, Vec<u8>) {
        (self.sub("leader/"), self.sub("leader0"))
    }

    /// What a leaving node waits for.
    pub fn drained_key(&self) -> Vec<u8> {
        self.sub("drained")
    }

    pub fn envoy_key(&self, id: &str) -> Vec<u8> {
        self.sub(&format!("envoys/{id}"))
    }

    /// `[start, end)` of the keys of all Envoys.
    pub fn envoys(&self) -> (Vec<u8>, Vec<u8>) {
        (self.sub("envoys/"), self.sub("envoys0"))
    }

    /// The Envoy's id that a key carries.
    pub fn envoy_id<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        self.strip(key)?.strip_prefix("envoys/").filter(|id| is_name(id))
    }

    /// The key of the `n`th event of one revision. Twenty digits, so that keys sort as revisions do.
    pub fn event_key(&self, revision: i64, n: usize) -> Vec<u8> {
        self.sub(&format!("history/{revision:020}-{n:02}"))
    }

    /// `[start, end)` of the keys of all events.
    pub fn history(&self) -> (Vec<u8>, Vec<u8>) {
        (self.sub("history/"), self.sub("history0"))
    }

    /// Up to which revision events are written.
    pub fn history_cursor_key(&self) -> Vec<u8> {
        self.sub("history-cursor")
    }

    pub fn life_key(&self) -> Vec<u8> {
        self.sub("life")
    }

    pub fn is_life(&self, key: &[u8]) -> bool {
        self.strip(key) == Some("life")
    }

    /// The key of the mark on a node's name.
    pub fn mark_key(&self, name: &str) -> Vec<u8> {
        self.sub(&format!("marks/{name}"))
    }

    /// The node name a mark's key carries.
    pub fn mark_name<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        self.strip(key)?.strip_prefix("marks/").filter(|name| !name.is_empty())
    }

    /// Whether an address may be published.
    pub fn allows(&self, ip: Ipv4Addr) -> bool {
        let never = ip.is_unspecified()
            || ip.is_multicast()
            || ip.is_broadcast()
            || ip.is_link_local()
            || ip.octets()[0] >= 240
            || ip.octets()[0] == 0;
        let listed = self.allow.iter().any(|net| net.contains(&ip));
        !never && (listed || self.allow.is_empty() && !ip.is_loopback())
    }

    /// What follows the prefix.
    fn strip<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key.strip_prefix(self.prefix.as_bytes())?).ok()?.strip_prefix('/')
    }

    fn sub(&self, rest: &str) -> Vec<u8> {
        format!("{}/{rest}", self.prefix).into_bytes()
    }
}
