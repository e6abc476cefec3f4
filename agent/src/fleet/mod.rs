//! The fleet as a value: who is in it, who leads it, and how one change of the registry becomes the next value.
//!
//! Everything here is pure: no I/O, no clock, nothing that can fail.

pub mod history;
mod node;
mod parse;
mod roster;
mod space;
mod state;
pub mod through;
pub mod verdict;

pub use node::{Candidate, Change, Life, Mark, Node, NodeState, Ports, Put};
pub use parse::{
    Entry, MAX_VALUE_BYTES, Rejection, RejectionReason, candidate_value, is_instance, is_name, life_value,
    node_value, parse,
};
pub use roster::{Roster, Row};
pub use space::KeySpace;
pub use state::{Contact, Leadership};
