//! [`Roster`]: everything the watched range of etcd says, at one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::digest::digest;
use super::entry::{Entry, Rejection, parse};
use super::keys::KeySpace;
use super::node::{Candidate, Change, Mark, Node, NodeState, Ports, RegistryLife};

/// Reaped instances remembered.
const MAX_REAPED: usize = 256;

/// One line of the published list. Two keys with one address make one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub node: &'a Node,
    /// The state people see: a marked node that serves is shown as draining.
    pub state: NodeState,
    pub leader: bool,
    /// Whether Envoy is told to route to it.
    pub routable: bool,
}

/// The watched range of the registry as a value.
///
/// `applied` and `revision` differ on purpose: the first counts every event of the range, the second only those
/// that changed what the files say, so that a node that rewrote its key with the same words changes no file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Which history this is, counted by this agent. Evidence about a key holds only within one epoch.
    pub epoch: u64,
    /// Mod revision of the last event applied; never a header's or a progress notification's revision.
    pub applied: i64,
    /// Revision of the store at which the list was read that this roster began from: deletions up to it are in.
    pub read_at: i64,
    /// Revision of the last event that changed the content of the files.
    pub revision: i64,
    life: Option<RegistryLife>,
    nodes: BTreeMap<Vec<u8>, Node>,
    candidates: BTreeMap<Vec<u8>, Candidate>,
    marks: BTreeMap<String, Mark>,
    /// Instances whose key was last seen as `lost`, and at which revision: found dead by others. Forgotten when they
    /// register again.
    reaped: BTreeMap<String, i64>,
    /// Every key of the range, readable or not, with its mod revision: what one history is known by.
    keys: BTreeMap<Vec<u8>, i64>,
    content: Arc<Content>,
}

/// What the files say, but for the revision.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    life: Option<String>,
    /// Also when no row carries it: the page tells a leader whose nginx is down from no leader at all.
    leader: Option<String>,
    rows: Vec<ContentRow>,
}

#[derive(Debug, PartialEq, Eq)]
struct ContentRow {
    name: String,
    instance: String,
    ip: Ipv4Addr,
    ports: Ports,
    state: NodeState,
    reason: String,
    since: String,
    version: String,
    leader: bool,
}

impl Roster {
    /// A roster read as a whole. `entries` carry each key's own mod revision as `revision`.
    ///
    /// A list that says what `before` said keeps its revision. Any other gets the list's own: the content may be
    /// younger than its youngest key (a deletion leaves none), and under that key's revision other nodes may have
    /// shown other bytes. The next change makes all revisions equal again.
    pub fn from_list(
        space: &KeySpace,
        epoch: u64,
        entries: &[Change],
        header_revision: i64,
        before: Option<&Roster>,
    ) -> (Self, Vec<Rejection>) {
        let mut roster = Self { epoch, read_at: header_revision, ..Self::default() };
        let rejections = entries.iter().filter_map(|entry| roster.apply_one(space, entry)).collect();
        let youngest = entries.iter().map(|entry| entry.revision).max().unwrap_or(0);
        roster.applied = youngest;
        roster.content = roster.content().into();
        roster.revision = header_revision.max(youngest);
        if let Some(before) = before.filter(|before| before.epoch == epoch) {
            roster.applied = roster.applied.max(before.applied);
            let dead = before.reaped.iter().filter(|(instance, _)| !roster.lives(instance));
            let dead: Vec<_> = dead.map(|(instance, revision)| (instance.clone(), *revision)).collect();
            roster.reaped.extend(dead);
            if roster.content == before.content {
                roster.revision = before.revision;
            }
        }
        (roster, rejections)
    }

    /// Applies what one or more watch responses said, revision by revision, so that `revision` is the same on every
    /// node however the changes were batched. All changes of one revision must come in one call, as etcd sends them
    /// unless fragments are asked for. Changes at or below `applied` have been seen and are dropped.
    pub fn apply(&self, space: &KeySpace, changes: &[Change]) -> (Self, Vec<Rejection>) {
        let mut next = self.clone();
        let mut rejections = Vec::new();
        let seen = self.applied;
        let fresh: Vec<&Change> = changes.iter().filter(|change| change.revision > seen).collect();
        for one_revision in fresh.chunk_by(|a, b| a.revision == b.revision) {
            for change in one_revision {
                rejections.extend(next.apply_one(space, change));
            }
            let revision = one_revision[0].revision;
            next.applied = revision;
            let content = next.content();
            if content != *next.content {
                next.content = content.into();
                next.revision = revision;
            }
        }
        (next, rejections)
    }

    /// All published nodes in numeric order of their addresses, one row an address.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let leader = self.leader().map(|candidate| candidate.instance.as_str());
        let mut by_ip: BTreeMap<Ipv4Addr, &Node> = BTreeMap::new();
        for node in self.nodes.values() {
            let newest = by_ip.entry(node.ip).or_insert(node);
            if node.create_revision > newest.create_revision {
                *newest = node;
            }
        }
        by_ip
            .into_values()
            .map(|node| {
                let marked = self.marks.contains_key(&node.name);
                let state = match node.state {
                    NodeState::Serving if marked => NodeState::Draining,
                    state => state,
                };
                Row {
                    node,
                    state,
                    leader: leader == Some(node.instance.as_str()),
                    routable: state == NodeState::Serving,
                }
            })
            .collect()
    }

    /// Addresses Envoy is told to route to, in numeric order.
    pub fn routable(&self) -> Vec<SocketAddrV4> {
        let rows = self.rows();
        rows.iter()
            .filter(|row| row.routable)
            .map(|row| SocketAddrV4::new(row.node.ip, row.node.ports.http))
            .collect()
    }

    /// Hash of the routable endpoints, 16 hex digits: equal digests mean that two agents tell Envoy the same.
    pub fn digest(&self) -> String {
        digest(self.routable().iter().map(|endpoint| {
            let ([a, b, c, d], [high, low]) = (endpoint.ip().octets(), endpoint.port().to_be_bytes());
            [a, b, c, d, high, low]
        }))
    }

    /// The candidates in the order in which they lead: by (create revision, key). The first one does.
    pub fn line(&self) -> Vec<&Candidate> {
        let mut line: Vec<_> = self.candidates.iter().collect();
        line.sort_by_key(rank);
        line.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// The first in line.
    pub fn leader(&self) -> Option<&Candidate> {
        self.candidates.iter().min_by_key(rank).map(|(_, candidate)| candidate)
    }

    /// Id of the registry's life, once known.
    pub fn life(&self) -> Option<&RegistryLife> {
        self.life.as_ref()
    }

    /// Every node key, published or hidden behind a younger one with the same address.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// What a node key says, if it can be read.
    pub fn node(&self, key: &[u8]) -> Option<&Node> {
        self.nodes.get(key)
    }

    /// Whether an instance's key was last seen as `lost`.
    pub fn was_reaped(&self, instance: &str) -> bool {
        self.reaped.contains_key(instance)
    }

    /// Whether everything up to `revision` is in: an absent key is gone and not yet to come.
    pub fn includes(&self, revision: i64) -> bool {
        self.applied.max(self.read_at) >= revision
    }

    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.values()
    }

    /// Operators' marks by node name.
    pub fn marks(&self) -> &BTreeMap<String, Mark> {
        &self.marks
    }

    /// Mod revision of every key of the range, readable or not.
    pub fn keys(&self) -> &BTreeMap<Vec<u8>, i64> {
        &self.keys
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// Whether `next` lost more than half, and more than one, of this roster's published nodes.
    pub fn is_decimated_by(&self, next: &Roster) -> bool {
        let before: BTreeSet<Ipv4Addr> = self.rows().iter().map(|row| row.node.ip).collect();
        let after: BTreeSet<Ipv4Addr> = next.rows().iter().map(|row| row.node.ip).collect();
        let gone = before.difference(&after).count();
        gone > 1 && gone * 2 > before.len()
    }

    fn lives(&self, instance: &str) -> bool {
        self.nodes.values().any(|node| node.instance == instance)
    }

    fn apply_one(&mut self, space: &KeySpace, change: &Change) -> Option<Rejection> {
        let key = &change.key;
        self.forget(space, key);
        let put = change.put.as_ref()?;
        self.keys.insert(key.clone(), change.revision);
        match parse(space, key, put, change.revision) {
            Ok(Entry::Node(node)) => {
                if node.state == NodeState::Lost {
                    self.reaped.insert(node.instance.clone(), change.revision);
                } else {
                    self.reaped.remove(&node.instance);
                }
                self.nodes.insert(key.clone(), *node);
            }
            Ok(Entry::Candidate(candidate)) => drop(self.candidates.insert(key.clone(), candidate)),
            Ok(Entry::RegistryLife(life)) => self.life = Some(life),
            Ok(Entry::Mark(name, mark)) => drop(self.marks.insert(name, mark)),
            Ok(Entry::Elsewhere) => {}
            Err(rejection) => return Some(rejection),
        }
        None
    }

    fn forget(&mut self, space: &KeySpace, key: &[u8]) {
        // Only the youngest are of interest, to themselves.
        if self.reaped.len() > MAX_REAPED {
            let oldest = self.reaped.iter().min_by_key(|(_, revision)| **revision);
            let oldest = oldest.map(|(instance, _)| instance.clone());
            oldest.and_then(|oldest| self.reaped.remove(&oldest));
        }
        self.keys.remove(key);
        self.nodes.remove(key);
        self.candidates.remove(key);
        if let Some(name) = space.mark_name(key) {
            self.marks.remove(name);
        }
        if space.is_life(key) {
            self.life = None;
        }
    }

    fn content(&self) -> Content {
        let row = |row: &Row| {
            let Node { ip, ports, .. } = *row.node;
            let Node { name, instance, reason, since, version, .. } = row.node.clone();
            ContentRow {
                name,
                instance,
                ip,
                ports,
                state: row.state,
                reason,
                since,
                version,
                leader: row.leader,
            }
        };
        Content {
            life: self.life.as_ref().map(|life| life.id.clone()),
            leader: self.leader().map(|candidate| candidate.instance.clone()),
            rows: self.rows().iter().map(row).collect(),
        }
    }
}

/// By what candidates stand in line: an older key before a younger one, and of two of one transaction the lower.
fn rank<'a>((key, candidate): &(&'a Vec<u8>, &Candidate)) -> (i64, &'a [u8]) {
    (candidate.create_revision, key)
}
