//! The fleet as a value: its nodes, its leader, and how one change of the registry becomes the next value.
//!
//! Everything here is pure: no I/O, no clock, nothing that can fail.

pub mod acknowledgements;
mod digest;
mod entry;
pub mod events;
mod keys;
mod leadership;
mod names;
mod node;
mod roster;
mod values;
pub mod verdict;

pub use digest::digest;
pub use entry::{Entry, Rejection, RejectionReason, parse};
pub use keys::{FIRST_PARTS, KeySpace};
pub use leadership::{Contact, Leadership};
pub use names::{is_instance, is_name, node_id};
pub use node::{Candidate, Change, Mark, Node, NodeState, Ports, Put, RegistryLife};
pub use roster::{Roster, Row};
pub use values::{
    CursorValue, DrainedValue, EnvoyValue, MAX_VALUE_BYTES, Value, candidate_value, life_value, node_value,
};
