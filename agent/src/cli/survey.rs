//! One look at the whole fleet: what the registry says, what each node serves, what each Envoy has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::StreamExt;
use futures::stream::iter;
use hyper::Method;
use hyper::body::Bytes;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::config::FleetFlags;
use crate::fleet::{Candidate, EnvoyValue, KeySpace, NodeState, Roster, node_id};
use crate::http;
use crate::registry::address::{address_by_any, allowed_networks};
use crate::registry::client::{CallError, Etcd};
use crate::registry::envoys::envoys;

/// Longest wait for one node's file.
const FILE_BOUND: Duration = Duration::from_secs(1);
/// Longest file read: 1,000 nodes have 200 KB.
const MAX_FILE_BYTES: usize = 16 << 20;
/// Files asked for at once.
const AT_ONCE: usize = 128;
/// Different files that are remembered, against a fleet in which no two are the same.
const MAX_SEEN: usize = 8;

/// The registry of one fleet, as a command reads and writes it.
pub(super) struct Access {
    pub etcd: Etcd,
    pub space: KeySpace,
}

/// One node, and what it serves.
pub(super) struct Line {
    pub name: String,
    pub instance: String,
    pub ip: Ipv4Addr,
    pub http: u16,
    pub lease: i64,
    pub leader: bool,
    /// As people see it: a marked node drains.
    pub state: NodeState,
    pub reason: String,
    pub since: String,
    pub version: String,
    pub routable: bool,
    pub file: File,
}

impl Line {
    /// `name-instance`.
    pub(super) fn id(&self) -> String {
        node_id(&self.name, &self.instance)
    }
}

/// What one node's `ips.json` says, next to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum File {
    Agrees {
        revision: i64,
    },
    Differs {
        revision: i64,
        how: String,
    },
    /// There is none: no answer, or one that is no list.
    Absent {
        why: String,
    },
    /// No answer in time.
    Unknown {
        why: String,
    },
}

pub(super) struct Survey {
    pub roster: Roster,
    /// The roster's own, which takes a walk over all nodes to find.
    pub digest: String,
    pub skipped: Vec<String>,
    pub lines: Vec<Line>,
    pub envoys: BTreeMap<String, EnvoyValue>,
}

/// Whether the one that leads has an Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnvoyContact {
    Connected,
    /// An earlier leader had it; it may have died with that one.
    Unmet,
    Gone,
}

/// The part of `ips.json` that is compared.
#[derive(Deserialize)]
struct Served {
    revision: i64,
    digest: String,
    registry: Option<String>,
    stale_since: Option<String>,
    nodes: Vec<ServedNode>,
}

#[derive(Deserialize)]
struct ServedNode {
    id: String,
    ip: Ipv4Addr,
    state: String,
    leader: bool,
}

impl Access {
    /// # Errors
    /// What is wrong with the certificates.
    pub(super) async fn open(flags: &FleetFlags) -> Result<Self> {
        let etcd = super::registry(&flags.registry)?;
        let own = address_by_any(&flags.registry.etcd).await;
        let allow = allowed_networks(&flags.allow, own);
        let space = KeySpace::new(&*flags.registry.prefix, allow);
        Ok(Self { etcd, space })
    }

    /// What the registry says, and the keys that say nothing valid.
    pub(super) async fn roster(&self) -> Result<(Roster, Vec<String>), CallError> {
        let (start, end) = self.space.range();
        let listing = self.etcd.list(&start, &end, 0).await?;
        let (roster, rejections) =
            Roster::from_list(&self.space, 1, &listing.entries, listing.revision, None);
        Ok((roster, rejections.iter().map(ToString::to_string).collect()))
    }

    pub(super) async fn survey(&self) -> Result<Survey, CallError> {
        self.survey_beside(async |_| ()).await.map(|(survey, ())| survey)
    }

    /// The same, and whatever else is to be asked about these nodes meanwhile.
    pub(super) async fn survey_beside<T>(
        &self,
        beside: impl AsyncFnOnce(&[Line]) -> T,
    ) -> Result<(Survey, T), CallError> {
        let (roster, skipped) = self.roster().await?;
        let digest = roster.digest();
        let mut lines: Vec<Line> = roster.rows().iter().map(line).collect();
        let registry = roster.life().map(|life| life.id.as_str());
        let mut comparison = Comparison::new(registry, &digest, &lines);
        let addresses: Vec<_> = lines.iter().map(|line| (line.ip, line.http)).collect();
        let served = iter(addresses).map(|address| ask(address, "/ips.json")).buffered(AT_ONCE);
        let files = served.map(|served| comparison.of(served)).collect::<Vec<File>>();
        let (files, envoys, beside) = tokio::join!(files, envoys(&self.etcd, &self.space), beside(&lines));
        for (line, file) in lines.iter_mut().zip(files) {
            line.file = file;
        }
        Ok((Survey { roster, digest, skipped, lines, envoys: envoys? }, beside))
    }
}

impl Survey {
    pub(super) fn agreeing(&self) -> usize {
        self.lines.iter().filter(|line| matches!(line.file, File::Agrees { .. })).count()
    }

    pub(super) fn connected(&self) -> impl Iterator<Item = (&String, &EnvoyValue)> {
        self.envoys.iter().filter(|(_, envoy)| contact(envoy, &self.roster) == EnvoyContact::Connected)
    }

    /// Envoys on record that the leader does not have, and why they count as absent. While nobody leads only those that
    /// were gone before: nothing is known of the others.
    pub(super) fn absent(&self) -> impl Iterator<Item = (&String, &'static str)> {
        let leads = self.leader().is_some();
        self.envoys.iter().filter_map(move |(id, envoy)| match contact(envoy, &self.roster) {
            EnvoyContact::Connected => None,
            EnvoyContact::Unmet => leads.then_some((id, "is not connected to the one that leads")),
            EnvoyContact::Gone => Some((id, "is not connected")),
        })
    }

    /// Whether an Envoy has acknowledged what the registry says now.
    pub(super) fn is_in_sync(&self, envoy: &EnvoyValue) -> bool {
        envoy.digest.as_deref() == Some(&*self.digest)
    }

    pub(super) fn in_sync(&self) -> usize {
        self.connected().filter(|(_, envoy)| self.is_in_sync(envoy)).count()
    }

    pub(super) fn leader(&self) -> Option<&Candidate> {
        self.roster.leader()
    }
}

pub(super) fn contact(envoy: &EnvoyValue, roster: &Roster) -> EnvoyContact {
    match envoy.connected {
        false => EnvoyContact::Gone,
        true if roster.leader().map(|leader| leader.create_revision) == Some(envoy.writer) => {
            EnvoyContact::Connected
        }
        true => EnvoyContact::Unmet,
    }
}

fn line(row: &crate::fleet::Row<'_>) -> Line {
    let node = row.node;
    Line {
        name: node.name.clone(),
        instance: node.instance.clone(),
        ip: node.ip,
        http: node.ports.http,
        lease: node.lease,
        leader: row.leader,
        state: row.state,
        reason: node.reason.clone(),
        since: node.since.clone(),
        version: node.version.clone(),
        routable: row.routable,
        file: File::Unknown { why: "not asked".into() },
    }
}

/// What the registry says, as the files of all nodes are compared with it.
struct Comparison<'a> {
    registry: Option<&'a str>,
    digest: &'a str,
    /// Id, address, state, whether it leads; in the order of the file.
    known: Vec<(String, Ipv4Addr, &'static str, bool)>,
    /// What was read before. Nodes that agree serve the same bytes, so that of a thousand files few are parsed.
    seen: Vec<(Bytes, File)>,
}

impl<'a> Comparison<'a> {
    fn new(registry: Option<&'a str>, digest: &'a str, lines: &[Line]) -> Self {
        let known = lines.iter().map(|line| (line.id(), line.ip, line.state.as_str(), line.leader));
        Self { registry, digest, known: known.collect(), seen: Vec::new() }
    }

    fn of(&mut self, served: Result<Bytes>) -> File {
        let body = match served {
            Ok(body) => body,
            Err(error) if error.is::<Elapsed>() => return File::Unknown { why: "no answer".into() },
            Err(error) => return File::Absent { why: error.to_string() },
        };
        if let Some((_, file)) = self.seen.iter().find(|(seen, _)| *seen == body) {
            return file.clone();
        }
        let file = match serde_json::from_slice(&body) {
            Ok(served) => self.compared(served),
            Err(error) => File::Absent { why: error.to_string() },
        };
        if self.seen.len() < MAX_SEEN {
            self.seen.push((body, file.clone()));
        }
        file
    }

    /// By content and not by revision: a node that joined later knows the same content under a younger one.
    fn compared(&self, served: Served) -> File {
        let revision = served.revision;
        let differs = |how: &str| File::Differs { revision, how: how.to_owned() };
        if served.registry.as_deref() != self.registry {
            return differs("another registry");
        }
        if let Some(since) = served.stale_since {
            return differs(&format!("stale since {since}"));
        }
        let told: BTreeSet<&str> = served.nodes.iter().map(|node| node.id.as_str()).collect();
        let known: BTreeSet<&str> = self.known.iter().map(|node| node.0.as_str()).collect();
        if told != known {
            let lacks = known.difference(&told).map(|id| format!("lacks {id}"));
            let more = told.difference(&known).map(|id| format!("still has {id}"));
            return differs(&lacks.chain(more).collect::<Vec<_>>().join(", "));
        }
        let told =
            served.nodes.iter().map(|node| (node.id.as_str(), node.ip, node.state.as_str(), node.leader));
        let known = self.known.iter().map(|(id, ip, state, leader)| (id.as_str(), *ip, *state, *leader));
        if !told.eq(known) || served.digest != self.digest {
            return differs("other states");
        }
        File::Agrees { revision }
    }
}

/// A generated file of the node at this address.
pub(super) async fn ask(address: (Ipv4Addr, u16), file: &str) -> Result<Bytes> {
    timeout(FILE_BOUND, fetch(address, file)).await?
}

async fn fetch(address: (Ipv4Addr, u16), file: &str) -> Result<Bytes> {
    let stream = TcpStream::connect(address).await?;
    let answer =
        http::request(stream, Method::GET, &address.0.to_string(), file, &[], MAX_FILE_BYTES).await?;
    if !answer.status.is_success() {
        return Err(anyhow!("{file} answers {}", answer.status));
    }
    answer.body.map_err(|error| anyhow!("{error}"))
}
