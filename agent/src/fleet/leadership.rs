//! This agent's own state, as the stages tell it to each other.

/// How this agent stands with the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// RFC 3339 in UTC, set while out of touch: the last moment at which the registry was heard.
    pub stale_since: Option<String>,
}

/// The right to speak for the fleet, held by the agent whose candidate key is the lowest.
///
/// It ends by the agent's own clock before its lease can end: the control port asks the lease before each push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The candidate key that gives the right; a fenced write compares its create revision.
    pub key: Vec<u8>,
    pub create_revision: i64,
}
