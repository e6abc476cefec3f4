//! From a key and its value to what they mean, strictly: what cannot be read is named and left alone.

use std::net::{Ipv4Addr, SocketAddrV4};

use thiserror::Error;

use super::keys::{Key, KeySpace};
use super::names::{is_instance, is_name, node_id, plain};
use super::node::{Candidate, Mark, Node, Put, RegistryLife};
use super::values::{CandidateValue, LifeValue, MAX_VALUE_BYTES, NodeValue, Value};

/// More of a key than this is not shown.
const MAX_SHOWN_BYTES: usize = 256;
/// What a readable key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Node(Box<Node>),
    Candidate(Candidate),
    RegistryLife(RegistryLife),
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
    let read = match space.key(key) {
        Some(Key::Node(id)) => node(space, id, put, revision).map(|node| Entry::Node(Box::new(node))),
        Some(Key::Candidate(lease)) => candidate(lease, put, revision).map(Entry::Candidate),
        Some(Key::Mark(name)) => mark(name, put).map(|mark| Entry::Mark(name.to_owned(), mark)),
        Some(Key::RegistryLife) => life(put, revision).map(Entry::RegistryLife),
        Some(Key::Other) => Ok(Entry::Elsewhere),
        None => Err(RejectionReason::Misnamed),
    };
    read.map_err(|reason| Rejection { key: key.to_owned(), revision, reason })
}

fn node(space: &KeySpace, id: &str, put: &Put, revision: i64) -> Result<Node, RejectionReason> {
    leased(put)?;
    let read = NodeValue::read(&put.value)?;
    if id != node_id(&read.name, &read.instance) || !is_name(&read.name) || !is_instance(&read.instance) {
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

fn candidate(lease: &str, put: &Put, revision: i64) -> Result<Candidate, RejectionReason> {
    leased(put)?;
    if lease != format!("{:x}", put.lease) {
        return Err(RejectionReason::Misnamed);
    }
    // Judged by the key alone: an unreadable value must not change who leads, or two agents of different versions
    // could disagree about it.
    let read = CandidateValue::read(&put.value).ok().filter(|read| is_instance(&read.instance));
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
    let mark = Mark::read(&put.value)?;
    plain(&mark.since)?;
    plain(&mark.why)?;
    Ok(mark)
}

fn life(put: &Put, revision: i64) -> Result<RegistryLife, RejectionReason> {
    let LifeValue { id } = LifeValue::read(&put.value)?;
    plain(&id)?;
    Ok(RegistryLife { id, mod_revision: revision })
}

fn leased(put: &Put) -> Result<(), RejectionReason> {
    if put.lease == 0 { Err(RejectionReason::NoLease) } else { Ok(()) }
}
