//! The leader's ADS server: state of the world, one snapshot for every Envoy.
//!
//! - [`Stream`]: what one stream is owed, as a pure state machine.
//! - [`XdsServer`]: the gRPC edge that drives one such machine a stream.
//! - [`Streams`]: which Envoys are connected and how far each has acknowledged, for the drain.

mod events;
mod server;
mod stream;
mod streams;
mod subscription;

use std::sync::Arc;

pub use events::{AckKind, XdsEvents};
pub use server::{Admitted, XdsServer};
pub use stream::{ConfigRejection, Reception, Refusal, Stream};
pub use streams::{StreamStatus, Streams};

use super::resources::EdgeSettings;
use super::snapshot::{ResourceType, Snapshot};
use crate::fleet::Roster;

/// What the leader serves, and from which moment of the registry it comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    pub snapshot: Arc<Snapshot>,
    /// Mod revision of the last event applied to the roster this was made of.
    pub applied: i64,
    /// Which history `applied` counts in: revisions of two epochs do not compare.
    pub epoch: u64,
}

impl Published {
    /// Made only of a complete roster: an empty one would tell Envoy that no node serves.
    pub fn of(roster: &Roster, settings: &EdgeSettings) -> Self {
        let snapshot = Arc::new(Snapshot::of(roster, settings));
        Self { snapshot, applied: roster.applied, epoch: roster.epoch }
    }
}
