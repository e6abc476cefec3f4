//! Everything that may happen.

use crate::etcd::{KeyState, NODES, Roster};
use crate::mechanism::Mechanism;
use crate::protocol::Protocol;
use crate::state::{Expected, Flight, Phase, State};

/// One step. `usize` fields are nodes, `envoy` fields are Envoys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    // What a node does for itself.
    List(usize),
    Register(usize),
    Apply(usize),
    Stop(usize),
    Bound(usize),
    // What time, etcd and the network do by themselves.
    LeaseEnds(usize),
    Heal(usize),
    // What a leader does, or who wants to be one.
    Confirm(usize),
    ClockEnds(usize),
    WriteDrained(usize),
    Delete(usize),
    OneSecond { leader: usize, envoy: usize },
    TenSeconds(usize),
    // An Envoy and its stream.
    Connect { envoy: usize, node: usize },
    Answer { envoy: usize },
    Subscribe { envoy: usize },
    Push { envoy: usize },
    Deliver { envoy: usize },
    Acked { envoy: usize },
    RepeatArrives { envoy: usize },
    GiveUp { envoy: usize },
    // What is asked for and what goes wrong: each as often as the scene allows.
    Leave(usize),
    PutLost { leader: usize, victim: usize },
    Depose { by: usize, leader: usize },
    Crash(usize),
    CrashWhilePutting(usize),
    LatePut(usize),
    Freeze(usize),
    Wake(usize),
    Cut(usize),
    ListFails(usize),
    LoseStream { envoy: usize },
    Absent { envoy: usize },
    Reject { envoy: usize },
    Repeat { envoy: usize },
}

impl Protocol {
    /// What happens by itself sooner or later. When none of it can, the fleet is at rest.
    pub fn own_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for n in (0..NODES).filter(|&n| state.nodes[n].phase != Phase::Absent) {
            let node = &state.nodes[n];
            if !node.is_gone() {
                self.node_steps(state, n, steps);
            }
            if node.lease && (!node.runs() || node.cut) {
                steps.push(Step::LeaseEnds(n));
            }
            if node.phase == (Phase::Crashed { late: true }) {
                steps.push(Step::LatePut(n));
            }
        }
        for envoy in 0..self.scene.envoys {
            self.envoy_steps(state, envoy, steps);
        }
    }

    fn node_steps(&self, state: &State, n: usize, steps: &mut Vec<Step>) {
        let node = &state.nodes[n];
        let Some(applied) = node.applied else {
            return steps.push(Step::List(n));
        };
        if node.frozen {
            return;
        }
        if node.cut {
            steps.push(Step::Heal(n));
        } else {
            steps.extend((applied < state.revision()).then_some(Step::Apply(n)));
            let mine = &state.view(n).unwrap_or(state.store()).keys[n];
            let whole = mine.candidate.is_some() && mine.node.is_some_and(|key| key.state != KeyState::Lost);
            steps.extend(
                (node.phase == Phase::Starting || !node.lease || !whole).then_some(Step::Register(n)),
            );
        }
        if matches!(node.phase, Phase::Draining(_)) {
            steps.extend([Step::Stop(n), Step::Bound(n)]);
        }
        match node.lead {
            None => steps.extend((state.store().leader() == Some(n)).then_some(Step::Confirm(n))),
            Some(lead) => {
                if node.cut || !state.is_claim_valid(n) {
                    steps.push(Step::ClockEnds(n));
                }
                if state.log.iter().any(Roster::drains) {
                    steps.push(Step::WriteDrained(n));
                }
                steps.extend(lead.reaping.map(|_| Step::Delete(n)));
                let ended = |envoy: &usize| matches!(lead.expects[*envoy], Expected::Ended(_));
                let ended = (0..self.scene.envoys).filter(ended);
                steps.extend(ended.map(|envoy| Step::OneSecond { leader: n, envoy }));
                steps.extend(lead.young.then_some(Step::TenSeconds(n)));
            }
        }
    }

    fn envoy_steps(&self, state: &State, envoy: usize, steps: &mut Vec<Step>) {
        let Some(stream) = &state.envoys[envoy].stream else {
            let serving = (0..NODES).filter(|&n| state.nodes[n].runs() && state.nodes[n].serves_ads());
            return steps.extend(serving.map(|node| Step::Connect { envoy, node }));
        };
        match stream.flight {
            Flight::Nothing => steps.extend(stream.subscribed.then_some(Step::Push { envoy })),
            Flight::Push(_) => steps.push(Step::Deliver { envoy }),
            Flight::Ack(_) | Flight::Nack(_) => steps.push(Step::Acked { envoy }),
        }
        if !stream.answered || !state.recorded[envoy] {
            steps.push(Step::Answer { envoy });
        }
        if !stream.subscribed && stream.answered {
            steps.push(Step::Subscribe { envoy });
        }
        if stream.repeat.is_some() {
            steps.push(Step::RepeatArrives { envoy });
        }
        if !state.nodes[stream.node as usize].runs() && self.has(Mechanism::EnvoyKeepalive) {
            steps.push(Step::GiveUp { envoy });
        }
    }

    /// What happens only if somebody wants it or something breaks.
    pub fn other_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let left = &state.left;
        for n in (0..NODES).filter(|&n| !state.nodes[n].is_gone()) {
            let node = &state.nodes[n];
            if node.frozen {
                steps.push(Step::Wake(n));
                continue;
            }
            let mut offer = |allowed: u8, step: Step| steps.extend((allowed > 0).then_some(step));
            if self.scene.leaving.contains(&n) {
                offer(left.leaves, Step::Leave(n));
            }
            if self.scene.frail.contains(&n) {
                offer(left.crashes, Step::Crash(n));
                offer(left.freezes, Step::Freeze(n));
                offer(left.cuts, Step::Cut(n));
            }
            offer(left.late_puts, Step::CrashWhilePutting(n));
            offer(left.failed_lists, Step::ListFails(n));
            if left.verdicts > 0 {
                let others = (0..NODES).filter(|&other| other != n);
                match node.lead {
                    Some(_) => steps.extend(others.map(|victim| Step::PutLost { leader: n, victim })),
                    None => steps.extend(others.map(|leader| Step::Depose { by: n, leader })),
                }
            }
        }
        for envoy in 0..self.scene.envoys {
            let mut offer = |allowed: u8, step: Step| steps.extend((allowed > 0).then_some(step));
            offer(left.losses, Step::LoseStream { envoy });
            offer(left.absences, Step::Absent { envoy });
            offer(left.rejections, Step::Reject { envoy });
            offer(left.repeats, Step::Repeat { envoy });
        }
    }

    /// What a step makes of a state; `None` when it cannot happen.
    pub fn take(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        let s = &mut state;
        match step {
            Step::List(n) => self.list(s, n),
            Step::Register(n) => self.register(s, n),
            Step::Apply(n) => self.apply(s, n),
            Step::Stop(n) => self.stop(s, n),
            Step::Bound(n) => self.bound(s, n),
            Step::LeaseEnds(n) => self.lease_ends(s, n),
            Step::Heal(n) => self.heal(s, n),
            Step::Confirm(n) => self.confirm(s, n),
            Step::ClockEnds(n) => self.clock_ends(s, n),
            Step::WriteDrained(n) => self.write_drained(s, n),
            Step::Delete(n) => self.delete(s, n),
            Step::OneSecond { leader, envoy } => self.one_second(s, leader, envoy),
            Step::TenSeconds(n) => self.ten_seconds(s, n),
            Step::Connect { envoy, node } => self.connect(s, envoy, node),
            Step::Answer { envoy } => self.answer(s, envoy),
            Step::Subscribe { envoy } => self.subscribe(s, envoy),
            Step::Push { envoy } => self.push(s, envoy),
            Step::Deliver { envoy } => self.deliver(s, envoy),
            Step::Acked { envoy } => self.acked(s, envoy),
            Step::RepeatArrives { envoy } => self.repeat_arrives(s, envoy),
            Step::GiveUp { envoy } => self.give_up(s, envoy),
            Step::Leave(n) => self.leave(s, n),
            Step::PutLost { leader, victim } => self.put_lost(s, leader, victim),
            Step::Depose { by, leader } => self.depose(s, by, leader),
            Step::Crash(n) => self.crash(s, n),
            Step::CrashWhilePutting(n) => self.crash_while_putting(s, n),
            Step::LatePut(n) => self.late_put(s, n),
            Step::Freeze(n) => self.freeze(s, n),
            Step::Wake(n) => self.wake(s, n),
            Step::Cut(n) => self.cut(s, n),
            Step::ListFails(n) => self.list_fails(s, n),
            Step::LoseStream { envoy } => self.lose_stream(s, envoy),
            Step::Absent { envoy } => self.stay_absent(s, envoy),
            Step::Reject { envoy } => self.reject(s, envoy),
            Step::Repeat { envoy } => self.repeat(s, envoy),
        }?;
        self.canonical(&mut state);
        Some(state)
    }
}

/// A step's precondition, for `?`.
pub fn only_if(condition: bool) -> Option<()> {
    condition.then_some(())
}
