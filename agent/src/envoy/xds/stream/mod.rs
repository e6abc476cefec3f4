//! [`Stream`]: one ADS stream as a pure state machine. Requests and snapshots go in, pushes come out when asked for,
//! so that the network's pace decides how much is made and nothing ever queues here.
//!
//! The rules are those of "xDS REST and gRPC protocol", section "The Streaming gRPC subscriptions", in Envoy's
//! documentation, variant "state of the world, aggregated".

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use thiserror::Error;

use super::Published;
use super::subscription::{Push, Subscription};
use crate::envoy::snapshot::ResourceType;
use crate::fleet::is_name;

/// What Envoy says about a rejected push is kept and logged up to this length.
const MAX_DETAIL_BYTES: usize = 400;

/// One stream's memory. It starts with nothing asked, nothing sent and `through` 0.
#[derive(Debug)]
pub struct Stream {
    current: Arc<Published>,
    subscriptions: [Subscription; 4],
    envoy: Option<String>,
    pushes: u64,
    through: i64,
    rejection: Option<ConfigRejection>,
}

/// What a request turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reception {
    /// A first or changed subscription.
    Subscribed(ResourceType),
    Acked(ResourceType),
    Rejected(ConfigRejection),
    /// Answers no push of this stream, or one that has been answered: nothing follows from it.
    Stale(ResourceType),
    /// A kind that does not exist here: not answered, and no reason to end a stream that carries others.
    Unknown(String),
}

/// A NACK: Envoy keeps what it had. The same version is not sent again, or the two would spin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRejection {
    pub kind: ResourceType,
    pub version: String,
    /// Envoy's words, as printable ASCII.
    pub detail: String,
}

/// A request that ends its stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the first request carries no node id")]
    NoNode,
    #[error("a node id is 1 to 64 of A-Z a-z 0-9 . _ -, for example `envoy-1`")]
    BadNode,
    #[error("a request on an aggregated stream needs a type_url")]
    NoType,
    #[error("{0} resource names are more than this server remembers")]
    TooManyNames(usize),
}

impl Stream {
    pub fn new(current: Arc<Published>) -> Self {
        Self {
            current,
            subscriptions: Default::default(),
            envoy: None,
            pushes: 0,
            through: 0,
            rejection: None,
        }
    }

    /// The id of the Envoy at the other end, once it has said it.
    pub fn envoy(&self) -> Option<&str> {
        self.envoy.as_deref()
    }

    /// Up to which revision of the current epoch the endpoints are known to be in force; 0 from the opening on.
    pub fn through(&self) -> i64 {
        self.through
    }

    pub fn epoch(&self) -> u64 {
        self.current.epoch
    }

    /// Digest of the endpoints last acknowledged.
    pub fn acked_digest(&self) -> Option<&str> {
        self.subscriptions[ResourceType::Endpoints as usize].acked.as_deref()
    }

    pub fn last_rejection(&self) -> Option<&ConfigRejection> {
        self.rejection.as_ref()
    }

    /// Takes over what is to be told from now on. What was not sent of the one before never will be.
    pub fn publish(&mut self, next: Arc<Published>) {
        if next.epoch != self.current.epoch || next.applied < self.current.applied {
            self.through = 0;
        }
        self.current = next;
        self.settle();
    }

    /// Takes in one request.
    ///
    /// # Errors
    /// A [`Refusal`] ends the stream.
    pub fn receive(&mut self, request: DiscoveryRequest) -> Result<Reception, Refusal> {
        if self.envoy.is_none() {
            self.envoy = Some(identify(&request)?);
        }
        if request.type_url.is_empty() {
            return Err(Refusal::NoType);
        }
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(Reception::Unknown(printable(&request.type_url)));
        };
        let reception = self.apply(kind, request)?;
        self.settle();
        Ok(reception)
    }

    /// The next push that may go out now, which from then on is outstanding.
    pub fn next_push(&mut self) -> Option<(ResourceType, DiscoveryResponse)> {
        let kind = self.next_kind()?;
        self.pushes += 1;
        let nonce = self.pushes.to_string();
        let snapshot = &self.current.snapshot;
        let version = snapshot.version(kind).to_owned();
        let subscription = &mut self.subscriptions[kind as usize];
        let wanted = snapshot.resources(kind).iter().filter(|one| subscription.interest.includes(&one.name));
        let response = DiscoveryResponse {
            version_info: version.clone(),
            resources: wanted.map(|resource| resource.body.clone()).collect(),
            type_url: kind.type_url().to_owned(),
            nonce: nonce.clone(),
            ..Default::default()
        };
        subscription.last = Some(Push { nonce, version });
        subscription.outstanding = true;
        subscription.due = false;
        if kind == ResourceType::Clusters {
            // A cluster that was updated warms until it hears of its endpoints again, changed or not.
            let endpoints = &mut self.subscriptions[ResourceType::Endpoints as usize];
            endpoints.due = !endpoints.interest.is_none();
        }
        Some((kind, response))
    }

    fn apply(&mut self, kind: ResourceType, request: DiscoveryRequest) -> Result<Reception, Refusal> {
        let subscription = &mut self.subscriptions[kind as usize];
        let interest = subscription.interest.then(kind, request.resource_names)?;
        let nonce = request.response_nonce;
        // The first request of a kind subscribes whatever it carries: after a reconnect that is the version, and from
        // some clients the nonce, of another leader. It is always answered, in full.
        if subscription.last.is_none() {
            subscription.follow(interest);
            return Ok(Reception::Subscribed(kind));
        }
        if nonce.is_empty() && request.error_detail.is_none() {
            // Asked anew on the same stream. While a push is outstanding the two have crossed, and its answer will
            // carry the names.
            let again = !subscription.outstanding && !interest.is_none();
            subscription.follow(interest);
            subscription.due |= again;
            return Ok(Reception::Subscribed(kind));
        }
        if !subscription.is_last_nonce(&nonce) {
            return Ok(Reception::Stale(kind));
        }
        let answers = std::mem::take(&mut subscription.outstanding);
        let version = subscription.last.as_ref().map(|push| push.version.clone()).unwrap_or_default();
        let reception = match request.error_detail {
            _ if !answers => Reception::Subscribed(kind),
            Some(error) => {
                let rejection = ConfigRejection { kind, version, detail: printable(&error.message) };
                self.rejection = Some(rejection.clone());
                Reception::Rejected(rejection)
            }
            None => {
                subscription.acked = Some(version);
                Reception::Acked(kind)
            }
        };
        subscription.follow(interest);
        Ok(reception)
    }

    /// Listeners and routes wait until what they refer to has been sent. Endpoints do not wait for clusters: the ACK
    /// of a warming cluster may itself wait for endpoints. What a client asked for waits for nothing.
    fn next_kind(&self) -> Option<ResourceType> {
        let mut referred_sent = true;
        for kind in ResourceType::ALL {
            let subscription = &self.subscriptions[kind as usize];
            if !subscription.is_owed(self.current.snapshot.version(kind)) {
                continue;
            }
            let in_turn = referred_sent || subscription.due || kind <= ResourceType::Endpoints;
            if in_turn && !subscription.outstanding {
                return Some(kind);
            }
            referred_sent = false;
        }
        None
    }

    /// `through` follows the roster whenever the endpoints in force are the current ones, pushed for it or not.
    fn settle(&mut self) {
        let kind = ResourceType::Endpoints;
        let snapshot = &self.current.snapshot;
        if self.subscriptions[kind as usize].has_settled(snapshot.digest(), snapshot.resources(kind)) {
            self.through = self.current.applied;
        }
    }
}

fn identify(request: &DiscoveryRequest) -> Result<String, Refusal> {
    let id = request.node.as_ref().map(|node| node.id.as_str()).unwrap_or_default();
    match id {
        "" => Err(Refusal::NoNode),
        id if is_name(id) => Ok(id.to_owned()),
        _ => Err(Refusal::BadNode),
    }
}

/// A foreign text for logs and status: printable ASCII, bounded.
fn printable(text: &str) -> String {
    let mut shown: String = text.escape_default().take(MAX_DETAIL_BYTES).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
