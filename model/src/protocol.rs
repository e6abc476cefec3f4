//! The protocol as a stateright model.

use stateright::{Model, Property};

use crate::etcd::{NODES, Roster};
use crate::mechanism::Mechanism;
use crate::rules;
use crate::scene::Scene;
use crate::state::{Broken, Envoy, Node, Phase, State};
use crate::step::Step;

/// One scene, played with all mechanisms or without some.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub scene: Scene,
    pub without: &'static [Mechanism],
    /// Two states that differ in which Envoy is which are one. Halves the search; in a path the two may swap names.
    pub nameless_envoys: bool,
}

impl Protocol {
    pub fn new(scene: Scene) -> Self {
        Self { scene, without: &[], nameless_envoys: false }
    }

    /// For a search that is expected to find nothing.
    pub fn nameless(scene: Scene) -> Self {
        Self { nameless_envoys: true, ..Self::new(scene) }
    }

    pub fn without(scene: Scene, without: &'static [Mechanism]) -> Self {
        Self { scene, without, nameless_envoys: false }
    }

    pub(crate) fn has(&self, mechanism: Mechanism) -> bool {
        !self.without.contains(&mechanism)
    }

    /// Whether nothing happens by itself any more.
    pub fn is_at_rest(&self, state: &State) -> bool {
        // Asked at every state; mostly somebody has something to hear, which needs no try.
        let hears = |node: &Node| node.reaches_etcd() && node.applied.is_some_and(|it| it < state.revision());
        if state.nodes.iter().any(hears) {
            return false;
        }
        let mut steps = Vec::with_capacity(24);
        self.own_steps(state, &mut steps);
        steps.into_iter().all(|step| self.take(state, step).is_none())
    }

    /// A fleet that has come to rest, before anything goes wrong. Whoever joins later has not listed yet.
    fn beginning(&self) -> State {
        let mut state = State {
            log: vec![Roster::default()],
            base: 0,
            drained: 0,
            recorded: Default::default(),
            nodes: [Node::default(); NODES],
            envoys: [Envoy::default(); 2],
            left: self.scene.budget,
            was_empty: false,
            broken: Broken::default(),
        };
        for &n in self.scene.serving {
            state.nodes[n].phase = Phase::Starting;
        }
        let whole = Self::new(self.scene.clone());
        let mut steps = Vec::new();
        while let Some(next) = {
            steps.clear();
            whole.own_steps(&state, &mut steps);
            steps.iter().find_map(|step| whole.take(&state, *step))
        } {
            state = next;
        }
        for &n in self.scene.joining {
            state.nodes[n].phase = Phase::Starting;
        }
        state.was_empty = self.scene.serving.is_empty();
        state
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.beginning()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.own_steps(state, steps);
        self.other_steps(state, steps);
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        self.take(before, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let rules = rules::RULES.iter().map(|rule| Property::always(rule.name, rule.holds));
        let sights = rules::SIGHTS.iter().map(|sight| Property::sometimes(sight.name, sight.holds));
        rules.chain(sights).collect()
    }
}
