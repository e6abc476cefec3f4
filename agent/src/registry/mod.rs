//! Everything that knows etcd: the client and its retries, the lease, this node's own keys, the watch that feeds the
//! roster, and what only the leader does.

pub mod address;
pub mod auth;
pub mod client;
pub mod drained;
pub mod envoys;
pub mod keys;
pub mod leader;
pub mod lease;
mod lease_liveness;
pub mod operator;
pub mod recent_events;
pub mod registration;
pub mod removal;
pub mod watch;
