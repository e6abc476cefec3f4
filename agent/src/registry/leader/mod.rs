//! What only the leader does. Each duty runs once in each [`term`], and writes through it alone.

pub mod acknowledgements;
mod drain_times;
pub mod election;
pub mod event_log;
pub mod mark_expiry;
pub mod term;
