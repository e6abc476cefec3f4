//! The events of a stream that are counted, as a trait: this room knows no metrics.

use std::time::Duration;

use crate::envoy::snapshot::ResourceType;

/// What Envoy said about a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckKind {
    Ack,
    Nack,
    /// A response to a push that is no longer the last one, or to none of this stream.
    Stale,
}

/// Called inside the streams: implementations return at once. `()` counts nothing.
pub trait XdsEvents: Send + Sync {
    fn on_push(&self, _kind: ResourceType) {}
    fn on_response(&self, _kind: ResourceType, _verdict: AckKind) {}
    /// From the push to its ACK or NACK.
    fn on_ack_duration(&self, _kind: ResourceType, _took: Duration) {}
    /// A request for a kind of resource that does not exist here.
    fn on_unknown_type(&self) {}
    /// A stream was turned away: by a follower, by a full house, or for what it asked.
    fn on_refused(&self) {}
}

impl XdsEvents for () {}
