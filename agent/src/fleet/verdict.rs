//! What is said of a node or leader whose presence stream ended: from suspicion to removal.

use std::time::Duration;

/// How a presence stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The other side's kernel closed it: its process has ended, or let go of it.
    Closed,
    /// Nothing was heard for too long: frozen, cut off, or slow.
    Silent,
    /// It never came about. By itself that proves nothing, but a leader that died together with its predecessor has no
    /// stream whose end anybody could see: its lease is asked.
    Absent,
}

/// Whose end is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A node, judged by the leader.
    Node,
    /// The leader, judged by the candidates behind it.
    Leader,
}

/// What probing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Closed, and no answer comes from this instance: dead beyond doubt.
    Dead,
    /// Only silence: the lease has to say whether it lives.
    Silent,
}

/// A suspicion that probing has confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub instance: String,
    pub role: Subject,
    pub finding: Finding,
    /// Whether the node's nginx answered as this instance: a dead leader's node may serve on.
    pub nginx_answers: bool,
    /// From the end of the stream to this verdict.
    pub took: Duration,
    /// In words, for the log and the registry.
    pub why: String,
}
