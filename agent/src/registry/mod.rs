//! Everything that knows etcd: the client and its retries, the lease, this node's own keys, who leads, and the watch
//! that feeds the roster.

pub mod address;
pub mod auth;
mod channel;
pub mod drained;
pub mod election;
pub mod etcd;
pub mod history;
pub mod keys;
pub mod lease;
pub mod marks;
pub mod operator;
pub mod reap;
pub mod registration;
pub mod watch;
