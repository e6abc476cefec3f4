//! What happened to whom, read off a roster before and after one revision.
//!
//! A deletion alone does not tell how a node went, so what it said last decides: a node that leaves puts `draining` first, one that
//! is found dead is put `lost`, and what vanishes while serving has expired.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::names::{is_instance, is_name, plain};
use super::node::{Node, NodeState};
use super::roster::Roster;
use super::values::Value;

/// Events that nodes serve as `history.json`.
pub const RECENT_EVENTS: usize = 200;

/// What can happen; a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Listed from now on.
    Joined,
    /// Leaving: registered, and not routed to any more.
    Draining,
    /// Gone after `draining`.
    Left,
    /// Found dead; `reaped` follows.
    Lost,
    /// Removed by others, because it was found dead.
    Reaped,
    /// Gone without a word: its lease has ended.
    Expired,
    /// Its agent lives and took it off the list, because its nginx does not answer.
    Withdrawn,
    /// A younger instance has its address.
    Superseded,
    /// An operator marked its name: registered, and not routed to.
    Marked,
    Unmarked,
    /// Another node leads, or none: then no node is named.
    LeaderChanged,
    /// What happened before this is not known: the registry had forgotten it before anybody could write it down.
    Gap,
}

impl EventKind {
    pub const ALL: &[Self] = &[
        Self::Joined,
        Self::Draining,
        Self::Left,
        Self::Lost,
        Self::Reaped,
        Self::Expired,
        Self::Withdrawn,
        Self::Superseded,
        Self::Marked,
        Self::Unmarked,
        Self::LeaderChanged,
        Self::Gap,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Draining => "draining",
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Reaped => "reaped",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
            Self::Marked => "marked",
            Self::Unmarked => "unmarked",
            Self::LeaderChanged => "leader-changed",
            Self::Gap => "gap",
        }
    }
}

/// One thing that happened, as it stands in the registry and in `history.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Registry revision at which it happened; several events may share one.
    pub revision: i64,
    /// RFC 3339 in UTC. What the node wrote of itself where it wrote something, else the leader's clock.
    pub at: String,
    pub event: EventKind,
    /// Empty where none is meant or known.
    pub node: String,
    /// Empty likewise; else 16 hex digits.
    pub instance: String,
    pub ip: Option<Ipv4Addr>,
    /// In words; empty where the event says all.
    pub reason: String,
    /// Milliseconds. `left`: until the last Envoy had acknowledged that it is not routed to. `lost`, `reaped`: from the
    /// end of its stream to the verdict.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub took_ms: Option<u64>,
}

impl Event {
    /// As it stands in the registry; `None` where something else was written there.
    pub fn read(value: &[u8]) -> Option<Self> {
        <Self as Value>::read(value).ok().filter(Self::is_presentable)
    }

    /// Whether each text may be shown to people: what is in the registry may be anybody's.
    pub fn is_presentable(&self) -> bool {
        let named = self.node.is_empty() || is_name(&self.node);
        let lived = self.instance.is_empty() || is_instance(&self.instance);
        named && lived && plain(&self.reason).is_ok() && self.at.parse::<jiff::Timestamp>().is_ok()
    }
}

/// What happened between `before` and `after`, which is one revision younger. `now` is the time by the writer's clock.
pub fn events(before: &Roster, after: &Roster, now: &str) -> Vec<Event> {
    let about = |event, node: &Node, at: &str, reason: &str| Event {
        revision: after.applied,
        at: at.to_owned(),
        event,
        node: node.name.clone(),
        instance: node.instance.clone(),
        ip: Some(node.ip),
        reason: reason.to_owned(),
        took_ms: node.took_ms.filter(|_| node.state == NodeState::Lost),
    };
    let (was, is) = (by_instance(before), by_instance(after));
    let mut events = Vec::new();
    for (_, node) in was.iter().filter(|(instance, _)| !is.contains_key(*instance)) {
        let kind = gone(node, &is, after);
        let reason = if node.state == NodeState::Lost { &node.reason } else { "" };
        events.push(about(kind, node, now, reason));
    }
    for (instance, node) in &is {
        let known = was.get(instance).filter(|known| known.ip == node.ip).map(|known| known.state);
        if known != Some(node.state) {
            let kind = match node.state {
                NodeState::Serving => EventKind::Joined,
                NodeState::Draining => EventKind::Draining,
                NodeState::Lost => EventKind::Lost,
            };
            events.push(about(kind, node, &node.since, &node.reason));
        }
    }
    events.extend(marks(before, after, now));
    events.extend(leader(before, after, now));
    events
}

fn by_instance(roster: &Roster) -> BTreeMap<&str, &Node> {
    roster.nodes().map(|node| (node.instance.as_str(), node)).collect()
}

fn gone(node: &Node, is: &BTreeMap<&str, &Node>, after: &Roster) -> EventKind {
    match node.state {
        NodeState::Draining => EventKind::Left,
        NodeState::Lost => EventKind::Reaped,
        NodeState::Serving if is.values().any(|other| other.ip == node.ip) => EventKind::Superseded,
        NodeState::Serving if after.candidates().any(|own| own.instance == node.instance) => {
            EventKind::Withdrawn
        }
        NodeState::Serving => EventKind::Expired,
    }
}

fn marks(before: &Roster, after: &Roster, now: &str) -> Vec<Event> {
    let about = |event, name: &str, reason: &str| Event {
        revision: after.applied,
        at: now.to_owned(),
        event,
        node: name.to_owned(),
        instance: String::new(),
        ip: after.nodes().find(|node| node.name == name).map(|node| node.ip),
        reason: reason.to_owned(),
        took_ms: None,
    };
    let set = after.marks().iter().filter(|(name, _)| !before.marks().contains_key(*name));
    let taken = before.marks().keys().filter(|name| !after.marks().contains_key(*name));
    set.map(|(name, mark)| about(EventKind::Marked, name, &mark.why))
        .chain(taken.map(|name| about(EventKind::Unmarked, name, "")))
        .collect()
}

fn leader(before: &Roster, after: &Roster, now: &str) -> Option<Event> {
    let leads = |roster: &Roster| roster.leader().map(|candidate| candidate.instance.clone());
    let instance = leads(after);
    if instance == leads(before) {
        return None;
    }
    let instance = instance.unwrap_or_default();
    // Its nginx may be down, or its node key yet to come: then only the candidate's own words tell where it is.
    let node = after.nodes().find(|node| node.instance == instance);
    let control = after.leader().map(|candidate| *candidate.control.ip()).filter(|ip| !ip.is_unspecified());
    Some(Event {
        revision: after.applied,
        at: now.to_owned(),
        event: EventKind::LeaderChanged,
        node: node.map_or_else(String::new, |node| node.name.clone()),
        reason: if after.leader().is_none() { "nobody leads".to_owned() } else { String::new() },
        instance,
        ip: node.map(|node| node.ip).or(control),
        took_ms: None,
    })
}

#[cfg(test)]
mod tests;
