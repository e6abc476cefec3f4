//! The protocol without a mechanism, and the rule that breaks then: a rule that nothing can break guards nothing.

use stateright::{Checker, HasDiscoveries, Model};

use crate::mechanism::Mechanism::{self, *};
use crate::protocol::Protocol;
use crate::rules::*;
use crate::scene::{Scene, scenes};
use crate::step::Step;
use crate::words;

/// One thing to leave out, and where that shows.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub without: &'static [Mechanism],
    pub scene: &'static str,
    /// `None`: nothing breaks in this scene.
    pub breaks: Option<&'static str>,
}

/// A shortest way to a broken rule.
#[derive(Clone, Debug)]
pub struct Counterexample {
    pub steps: Vec<Step>,
    /// The last state, in words.
    pub end: String,
}

const fn broken(without: &'static [Mechanism], scene: &'static str, rule: &'static str) -> Mutant {
    Mutant { without, scene, breaks: Some(rule) }
}

const fn sound(without: &'static [Mechanism], scene: &'static str) -> Mutant {
    Mutant { without, scene, breaks: None }
}

/// In the order of [`Mechanism`].
pub const MUTANTS: [Mutant; 28] = [
    broken(&[CountsFromOpening], "drain", DRAINED),
    broken(&[WaitsForAck], "suspicion", DRAINED),
    broken(&[NothingOutstanding], "join and leave", DRAINED),
    broken(&[AckByNonce], "join and leave", DRAINED),
    broken(&[RejectionIsNoAck], "join and leave", DRAINED),
    broken(&[EndedStaysExpected], "suspicion", DRAINED),
    broken(&[InheritsEnvoys], "drain, two Envoys", DRAINED),
    broken(&[RecordOutlivesStream], "drain, two Envoys", DRAINED),
    broken(&[RecordBeforeAnswer], "drain, two Envoys", DRAINED),
    broken(&[RecordBeforeAnswer], "suspicion", DRAINED),
    broken(&[SendClock], "cut", DRAINED),
    broken(&[ClockOfTheKey], "suspicion", DRAINED),
    broken(&[Fence], "freeze", FENCED),
    broken(&[VictimGuard], "suspicion", RIGHT_VICTIM),
    broken(&[SparesDraining], "suspicion", LEFT),
    broken(&[LaterDeletion], "reaped, then leaving", DRAINED),
    broken(&[LostIsGone], "crash", LISTED),
    broken(&[RegistersAgain], "suspicion", LISTED),
    broken(&[CandidateAgain], "crash", ROUTED),
    broken(&[LeaseEnds], "crash", LISTED),
    broken(&[EnvoyKeepalive], "freeze", ROUTED),
    broken(&[KeepsOnFailure], "join and leave", NEVER_EMPTIED),
    broken(&[OneRowPerAddress], "address used again", ONE_ROW),
    sound(&[ServesWhatItConfirmed], "drain, two Envoys"),
    sound(&[ServesWhatItConfirmed], "suspicion"),
    sound(&[YoungLeaderWaits], "drain, two Envoys"),
    sound(&[YoungLeaderWaits], "suspicion"),
    sound(&[ResignsLast], "drain"),
];

impl Mutant {
    /// Searches for a shortest counterexample to the rule that should break, or to any.
    pub fn search(&self) -> Option<Counterexample> {
        let protocol = Protocol::without(scene(self.scene), self.without);
        let mut path = self.search_above(&protocol, None)?;
        // The checker keeps the last of the ways it met at about the same depth, not the shortest.
        while let Some(shorter) = self.search_above(&protocol, Some(path.len())) {
            path = shorter;
        }
        let mut state = protocol.init_states().into_iter().next()?;
        for step in &path {
            state = protocol.take(&state, *step)?;
        }
        Some(Counterexample { steps: path, end: words::state(&protocol, &state) })
    }

    /// A counterexample of fewer than `length` steps.
    fn search_above(&self, protocol: &Protocol, length: Option<usize>) -> Option<Vec<Step>> {
        let until = match self.breaks {
            Some(rule) => HasDiscoveries::AllOf([rule].into()),
            None => HasDiscoveries::AnyFailures,
        };
        let checker = protocol.clone().checker().threads(1).finish_when(until);
        let checker = match length {
            Some(length) => checker.target_max_depth(length),
            None => checker,
        };
        let checker = checker.spawn_bfs().join();
        let mut broken = RULES.iter().filter(|rule| self.breaks.is_none_or(|name| name == rule.name));
        broken.find_map(|rule| checker.discovery(rule.name)).map(|path| path.into_actions())
    }
}

/// A scene of [`scenes`] by name.
///
/// # Panics
/// When there is none.
fn scene(name: &str) -> Scene {
    scenes().into_iter().find(|scene| scene.name == name).expect("mutants name scenes that exist")
}
