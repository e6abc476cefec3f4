//! From a key and its value to what they mean, strictly: what cannot be read is named and left alone.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Deserialize;
use thiserror::Error;

use super::node::{Candidate, Life, Mark, Node, NodeState, Ports, Put};
use super::space::KeySpace;

/// Values longer than this are refused unread: a node's own is under 400 bytes. Whoever reads the registry may drop
/// what follows the first byte too many.
pub const MAX_VALUE_BYTES: usize = 4096;
/// More of a key than this is not shown.
const MAX_SHOWN_BYTES: usize = 256;
/// Texts that people read (reason, version, why) are cut off by refusal, not by truncation.
const MAX_TEXT_BYTES: usize = 200;

/// What a readable key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Node(Box<Node>),
    Candidate(Candidate),
    Life(Life),
    Mark(String, Mark),
    /// A neighbour in key order that is none of ours.
    Elsewhere,
}

/// A key that says nothing: skipped, counted and logged once.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: {reason}", self.shown())]
pub struct Rejection {
    pub key: Vec<u8>,
    pub revision: i64,
    pub reason: RejectionReason,
}

impl Rejection {
    /// The key, escaped to printable ASCII and cut to a length that people read.
    pub fn shown(&self) -> String {
        let (shown, rest) = self.key.split_at(self.key.len().min(MAX_SHOWN_BYTES));
        let more = if rest.is_empty() { String::new() } else { format!("... ({} bytes)", self.key.len()) };
        format!("{}{more}", shown.escape_ascii())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RejectionReason {
    #[error("it hangs on no lease, so nothing would ever remove it")]
    NoLease,
    #[error("the key does not name what its value or lease says")]
    Misnamed,
    #[error("the value has more than {MAX_VALUE_BYTES} bytes")]
    TooLong,
    #[error("the value cannot be read: {0}")]
    Unreadable(String),
    #[error("address {0} is outside the allowed networks")]
    NotAllowed(Ipv4Addr),
}

/// Reads one key of the watched range.
///
/// # Errors
/// A [`Rejection`] that names the key and what is wrong with it.
pub fn parse(space: &KeySpace, key: &[u8], put: &Put, revision: i64) -> Result<Entry, Rejection> {
    let read = match space.strip(key).map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
        Some(("nodes", name)) => node(space, name, put, revision).map(|node| Entry::Node(Box::new(node))),
        Some(("leader", name)) => candidate(name, put, revision).map(Entry::Candidate),
        Some(("marks", name)) => mark(name, put).map(|mark| Entry::Mark(name.to_owned(), mark)),
        Some(("life", "")) if space.is_life(key) => value::<LifeValue>(put).and_then(|value| {
            plain(&value.id)?;
            Ok(Entry::Life(Life { id: value.id, mod_revision: revision }))
        }),
        None => Err(RejectionReason::Misnamed),
        Some(_) => Ok(Entry::Elsewhere),
    };
    read.map_err(|reason| Rejection { key: key.to_owned(), revision, reason })
}

/// The node's own value, as written under `nodes/`.
pub fn node_value(node: &Node) -> Vec<u8> {
    let ports = node.ports;
    let mut value = serde_json::json!({
        "v": 1, "ip": node.ip, "ports": ports, "name": node.name, "instance": node.instance, "state": node.state,
        "reason": node.reason, "since": node.since, "version": node.version,
    });
    if let Some(took_ms) = node.took_ms {
        value["took_ms"] = took_ms.into();
    }
    value.to_string().into_bytes()
}

/// A candidate's value, as written under `leader/`.
pub fn candidate_value(instance: &str, control: SocketAddrV4) -> Vec<u8> {
    serde_json::json!({ "v": 1, "instance": instance, "control": control }).to_string().into_bytes()
}

/// The value of `life`.
pub fn life_value(id: &str) -> Vec<u8> {
    serde_json::json!({ "v": 1, "id": id }).to_string().into_bytes()
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

#[derive(Deserialize)]
struct NodeValue {
    ip: Ipv4Addr,
    ports: Ports,
    name: String,
    instance: String,
    state: NodeState,
    #[serde(default)]
    reason: String,
    since: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    took_ms: Option<u64>,
}

#[derive(Deserialize)]
struct CandidateValue {
    instance: String,
    control: SocketAddrV4,
}

#[derive(Deserialize)]
struct MarkValue {
    #[serde(default)]
    since: String,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
struct LifeValue {
    id: String,
}

fn node(space: &KeySpace, name: &str, put: &Put, revision: i64) -> Result<Node, RejectionReason> {
    leased(put)?;
    let read: NodeValue = value(put)?;
    if name != format!("{}-{}", read.name, read.instance)
        || !is_name(&read.name)
        || !is_instance(&read.instance)
    {
        return Err(RejectionReason::Misnamed);
    }
    if !space.allows(read.ip) {
        return Err(RejectionReason::NotAllowed(read.ip));
    }
    if [read.ports.http, read.ports.control, read.ports.metrics].contains(&0) {
        return Err(RejectionReason::Unreadable("a port is 0".into()));
    }
    if read.since.parse::<jiff::Timestamp>().is_err() {
        return Err(RejectionReason::Unreadable("`since` is no RFC 3339 time".into()));
    }
    plain(&read.since)?;
    plain(&read.reason)?;
    plain(&read.version)?;
    Ok(Node {
        name: read.name,
        instance: read.instance,
        ip: read.ip,
        ports: read.ports,
        state: read.state,
        reason: read.reason,
        since: read.since,
        version: read.version,
        took_ms: read.took_ms,
        lease: put.lease,
        create_revision: put.create_revision,
        mod_revision: revision,
    })
}

fn candidate(name: &str, put: &Put, revision: i64) -> Result<Candidate, RejectionReason> {
    leased(put)?;
    if name != format!("{:x}", put.lease) {
        return Err(RejectionReason::Misnamed);
    }
    // Judged by the key alone: an unreadable value must not change who leads, or two agents of different versions
    // could disagree about it.
    let read = value::<CandidateValue>(put).ok().filter(|read| is_instance(&read.instance));
    let (instance, control) = match read {
        Some(read) => (read.instance, read.control),
        None => (String::new(), SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
    };
    let Put { lease, create_revision, .. } = *put;
    Ok(Candidate { instance, control, lease, create_revision, mod_revision: revision })
}

fn mark(name: &str, put: &Put) -> Result<Mark, RejectionReason> {
    if !is_name(name) {
        return Err(RejectionReason::Misnamed);
    }
    let read: MarkValue = value(put)?;
    plain(&read.since)?;
    plain(&read.why)?;
    Ok(Mark { since: read.since, why: read.why })
}

fn leased(put: &Put) -> Result<(), RejectionReason> {
    if put.lease == 0 { Err(RejectionReason::NoLease) } else { Ok(()) }
}

/// JSON of version 1. The version is read first, so that a later one is named and not called malformed.
fn value<'a, T: Deserialize<'a>>(put: &'a Put) -> Result<T, RejectionReason> {
    if put.value.len() > MAX_VALUE_BYTES {
        return Err(RejectionReason::TooLong);
    }
    let unreadable = |error: serde_json::Error| RejectionReason::Unreadable(shown(&error.to_string()));
    let version: Version = serde_json::from_slice(&put.value).map_err(unreadable)?;
    if version.v != 1 {
        return Err(RejectionReason::Unreadable(format!("version {} is not 1", version.v)));
    }
    serde_json::from_slice(&put.value).map_err(unreadable)
}

/// What a parser says may quote the value, which may be anybody's and is shown on terminals.
fn shown(text: &str) -> String {
    let printable = |letter| if matches!(letter, ' '..='~') { letter } else { '?' };
    text.chars().take(MAX_TEXT_BYTES).map(printable).collect()
}

/// Text that may be shown to people: printable ASCII, short.
pub(super) fn plain(text: &str) -> Result<(), RejectionReason> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if printable && text.len() <= MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(RejectionReason::Unreadable(format!(
        "a text is longer than {MAX_TEXT_BYTES} bytes or not printable ASCII"
    )))
}

/// `[A-Za-z0-9._-]{1,64}`
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// 16 hex digits, lower case.
pub fn is_instance(instance: &str) -> bool {
    instance.len() == 16 && instance.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
