//! The value of every key in etcd: one struct a key, by which it is written and read. JSON with `"v": 1`; fields that are
//! not known are ignored.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::entry::RejectionReason;
use super::events::Event;
use super::names::MAX_TEXT_BYTES;
use super::node::{Mark, Node, NodeState, Ports};

/// Values longer than this are refused unread: a node's own is under 400 bytes. A reader of the registry may drop
/// what follows the first byte too many.
pub const MAX_VALUE_BYTES: usize = 4096;
/// The only version there is.
const VERSION: u64 = 1;

/// Both directions of a value.
pub trait Value: Serialize + DeserializeOwned {
    fn to_bytes(&self) -> Vec<u8> {
        let versioned = Versioned { v: VERSION, value: self };
        serde_json::to_vec(&versioned).expect("plain structs always serialize")
    }

    /// The version is read first, so that a later one is named and not called malformed.
    ///
    /// # Errors
    /// It is too long, of another version, or no such value.
    fn read(bytes: &[u8]) -> Result<Self, RejectionReason> {
        if bytes.len() > MAX_VALUE_BYTES {
            return Err(RejectionReason::TooLong);
        }
        let unreadable = |error: serde_json::Error| RejectionReason::Unreadable(shown(&error.to_string()));
        let Version { v } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if v != VERSION {
            return Err(RejectionReason::Unreadable(format!("version {v} is not {VERSION}")));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u64,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

/// `nodes/<name>-<instance>`: a node, as [`Node`] has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeValue {
    pub ip: Ipv4Addr,
    pub ports: Ports,
    pub name: String,
    pub instance: String,
    pub state: NodeState,
    #[serde(default)]
    pub reason: String,
    pub since: String,
    #[serde(default)]
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// `leader/<lease in hex>`: one that would lead.
#[derive(Debug, Serialize, Deserialize)]
pub struct CandidateValue {
    pub instance: String,
    /// Where the agent serves ADS.
    pub control: SocketAddrV4,
}

/// `life`: this registry's life.
#[derive(Debug, Serialize, Deserialize)]
pub struct LifeValue {
    pub id: String,
}

/// `drained`: what a leaving node waits for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DrainedValue {
    /// Instance of the leader that wrote it.
    #[serde(default)]
    pub leader: String,
    /// Every Envoy has acknowledged a roster as new as this revision.
    pub through: i64,
    /// Ids of the Envoys that count, connected or expected.
    #[serde(default)]
    pub envoys: Vec<String>,
    /// Those of them that hold the revision back.
    #[serde(default)]
    pub missing: Vec<String>,
    /// By instance: milliseconds from `draining` to the last Envoy's acknowledgement.
    #[serde(default)]
    pub took_ms: BTreeMap<String, u64>,
}

/// `envoys/<id>`: one Envoy, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvoyValue {
    pub connected: bool,
    /// Revision of the roster that it acknowledged last.
    #[serde(default)]
    pub through: i64,
    /// Of the endpoints it acknowledged last.
    #[serde(default)]
    pub digest: Option<String>,
    /// The last push it rejected, in its own words.
    #[serde(default)]
    pub rejection: Option<String>,
    /// Create revision of the candidate key of the leader that wrote it.
    #[serde(default)]
    pub writer: i64,
}

/// `history-cursor`: up to where events are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorValue {
    pub revision: i64,
    /// Digest of what the range held at that revision: after a compaction it tells whether anything has happened since.
    pub held: String,
}

impl Value for NodeValue {}
impl Value for CandidateValue {}
impl Value for LifeValue {}
/// `marks/<name>`.
impl Value for Mark {}
impl Value for DrainedValue {}
impl Value for EnvoyValue {}
impl Value for CursorValue {}
/// `history/<revision>-<number>`.
impl Value for Event {}

impl From<&Node> for NodeValue {
    fn from(node: &Node) -> Self {
        let Node { ip, ports, state, took_ms, .. } = *node;
        let Node { name, instance, reason, since, version, .. } = node.clone();
        Self { ip, ports, name, instance, state, reason, since, version, took_ms }
    }
}

/// What a node writes of itself under `nodes/`.
pub fn node_value(node: &Node) -> Vec<u8> {
    NodeValue::from(node).to_bytes()
}

/// What an agent that would lead writes under `leader/`.
pub fn candidate_value(instance: &str, control: SocketAddrV4) -> Vec<u8> {
    CandidateValue { instance: instance.to_owned(), control }.to_bytes()
}

/// The value of `life`.
pub fn life_value(id: &str) -> Vec<u8> {
    LifeValue { id: id.to_owned() }.to_bytes()
}

/// What a parser says may quote the value, which may be anybody's and is shown on terminals.
fn shown(text: &str) -> String {
    let printable = |letter| if matches!(letter, ' '..='~') { letter } else { '?' };
    text.chars().take(MAX_TEXT_BYTES).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_is_named() {
        let bytes = br#"{"v":2,"id":7}"#;
        let Err(RejectionReason::Unreadable(why)) = LifeValue::read(bytes) else { panic!() };
        assert_eq!(why, "version 2 is not 1");
    }

    #[test]
    fn every_value_carries_its_version_and_reads_back() {
        let value = EnvoyValue {
            connected: true,
            through: 7,
            digest: Some("0123".into()),
            rejection: None,
            writer: i64::MAX,
        };
        let bytes = value.to_bytes();
        assert!(bytes.starts_with(br#"{"v":1,"#), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(EnvoyValue::read(&bytes).unwrap(), value);
    }

    #[test]
    fn what_is_missing_in_an_older_value_is_empty() {
        let drained = DrainedValue::read(br#"{"v":1,"through":3}"#).unwrap();
        assert_eq!((drained.through, drained.took_ms.len(), drained.missing.len()), (3, 0, 0));
    }
}
