//! What one stream wants of one kind of resources, and how far it has got.

use std::collections::BTreeSet;

use super::stream::Refusal;
use crate::envoy::snapshot::{Resource, ResourceType};

/// Names remembered of one subscription. There is one name of each kind; the rest is room for other Envoys' mistakes.
const MAX_NAMES: usize = 1_000;
/// All names of one subscription together.
const MAX_NAME_BYTES: usize = 64 * 1024;

/// Which resources of one kind a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Interest {
    /// Never asked on this stream.
    #[default]
    Unasked,
    /// All, because the first request named none; a later request without names still means all.
    ImplicitAll,
    /// All, by `*`; a later request without names means none.
    All,
    Names(BTreeSet<String>),
}

/// One kind on one stream. At most one push is outstanding; what changes meanwhile waits for its answer and coalesces.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) interest: Interest,
    pub(super) last: Option<Push>,
    pub(super) outstanding: bool,
    /// Version of the last acknowledged push.
    pub(super) acked: Option<String>,
    /// A push is owed although the version may be the one sent last.
    pub(super) due: bool,
}

/// The last push: its nonce is what an answer is matched by.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) nonce: String,
    pub(super) version: String,
}

impl Interest {
    /// The interest after a request with these names.
    ///
    /// # Errors
    /// More names than anybody needs.
    pub(super) fn then(&self, kind: ResourceType, names: Vec<String>) -> Result<Self, Refusal> {
        if names.len() > MAX_NAMES || names.iter().map(String::len).sum::<usize>() > MAX_NAME_BYTES {
            return Err(Refusal::TooManyNames(names.len()));
        }
        let untouched = matches!(self, Self::Unasked | Self::ImplicitAll);
        Ok(match () {
            () if names.is_empty() && untouched && kind.empty_means_all() => Self::ImplicitAll,
            () if names.iter().any(|name| name == "*") => Self::All,
            () => Self::Names(names.into_iter().collect()),
        })
    }

    pub(super) fn includes(&self, name: &str) -> bool {
        match self {
            Self::Unasked => false,
            Self::ImplicitAll | Self::All => true,
            Self::Names(names) => names.contains(name),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        match self {
            Self::Unasked => true,
            Self::ImplicitAll | Self::All => false,
            Self::Names(names) => names.is_empty(),
        }
    }

    /// Whether this asks for something `before` did not.
    fn exceeds(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Unasked, _) | (_, Self::ImplicitAll | Self::All) => false,
            (Self::ImplicitAll | Self::All, _) => true,
            (Self::Names(_), Self::Unasked) => !self.is_none(),
            (Self::Names(names), Self::Names(known)) => !names.is_subset(known),
        }
    }
}

impl Subscription {
    /// Takes over a new interest; what it newly asks for is owed.
    pub(super) fn follow(&mut self, interest: Interest) {
        self.due |= interest.exceeds(&self.interest);
        if interest.is_none() {
            self.due = false;
            self.acked = None;
        }
        self.interest = interest;
    }

    pub(super) fn is_last_nonce(&self, nonce: &str) -> bool {
        self.last.as_ref().is_some_and(|push| push.nonce == nonce)
    }

    /// Whether something is owed, be it possible to send it now or not.
    pub(super) fn is_owed(&self, version: &str) -> bool {
        let sent = self.last.as_ref().is_some_and(|push| push.version == version);
        !self.interest.is_none() && (self.due || !sent)
    }

    /// Whether the client has acknowledged exactly this version of these resources and nothing is on its way.
    pub(super) fn has_settled(&self, version: &str, resources: &[Resource]) -> bool {
        let all = resources.iter().all(|resource| self.interest.includes(&resource.name));
        all && !self.outstanding && !self.is_owed(version) && self.acked.as_deref() == Some(version)
    }
}
