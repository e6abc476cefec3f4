//! What guards the rules. A mutant is the protocol without one of these.

/// One mechanism of the protocol, in the words of what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
    CountsFromOpening,
    WaitsForAck,
    NothingOutstanding,
    AckByNonce,
    RejectionIsNoAck,
    EndedStaysExpected,
    InheritsEnvoys,
    RecordOutlivesStream,
    RecordBeforeAnswer,
    ServesWhatItConfirmed,
    SendClock,
    ClockOfTheKey,
    Fence,
    VictimGuard,
    SparesDraining,
    LaterDeletion,
    LostIsGone,
    RegistersAgain,
    CandidateAgain,
    LeaseEnds,
    EnvoyKeepalive,
    KeepsOnFailure,
    OneRowPerAddress,
    YoungLeaderWaits,
    ResignsLast,
}

impl Mechanism {
    pub fn sentence(self) -> &'static str {
        match self {
            Self::CountsFromOpening => "a stream counts with 0 from its opening, subscribed or not",
            Self::WaitsForAck => "`through` moves on an ACK, not on a send",
            Self::NothingOutstanding => "`through` moves only while no push is outstanding",
            Self::AckByNonce => "an ACK is matched by nonce, not by version",
            Self::RejectionIsNoAck => "a NACK acknowledges nothing",
            Self::EndedStaysExpected => "a stream that ended stays expected for 1 s",
            Self::InheritsEnvoys => "a new leader expects its predecessor's Envoys",
            Self::RecordOutlivesStream => "an Envoy's record goes with the expectation, not with the stream",
            Self::RecordBeforeAnswer => "a stream is answered only after the fenced write of its record",
            Self::ServesWhatItConfirmed => "a new leader serves only once it has applied Rc",
            Self::SendClock => "a leader that cannot confirm stops sending by its own clock",
            Self::ClockOfTheKey => {
                "that clock runs from the last proof of the candidate key, not of the lease"
            }
            Self::Fence => "a leader's write compares its candidate key's create revision",
            Self::VictimGuard => "a reap compares the victim's key with the one that was judged",
            Self::SparesDraining => "a node that drains is not reaped",
            Self::LaterDeletion => "only a deletion after the own last write is the new R of a drain",
            Self::LostIsGone => "an own key found `lost` counts as gone",
            Self::RegistersAgain => "a node whose key is gone registers again",
            Self::CandidateAgain => "a node whose candidate key is gone puts a new one",
            Self::LeaseEnds => "the keys of who does not renew end with the lease",
            Self::EnvoyKeepalive => "Envoy leaves an agent that is silent",
            Self::KeepsOnFailure => "a failed list changes nothing",
            Self::OneRowPerAddress => "of two keys with one address the newest makes the row",
            Self::YoungLeaderWaits => "a new leader that knows no Envoy waits 10 s",
            Self::ResignsLast => "a leader resigns after the newest drain of its roster",
        }
    }
}
