//! That nothing goes on for ever by itself: own steps never lead back to a state that was there before. Together
//! with the rules at rest this is "eventually".

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use stateright::Model;

use crate::protocol::Protocol;
use crate::state::State;
use crate::step::Step;

/// What a walk through all reachable states found.
#[derive(Clone, Debug)]
pub struct Walk {
    pub states: usize,
    /// The longest run of own steps from any state to rest.
    pub longest: usize,
    /// Own steps that lead from a state back to it.
    pub cycle: Option<Vec<Step>>,
}

enum Seen {
    /// On the path that is being followed.
    Open,
    /// Own steps from here to rest at most.
    Done(u32),
}

struct Frame {
    state: State,
    id: u64,
    came_by: Option<Step>,
    steps: Vec<Step>,
    longest: u32,
}

/// Follows own steps depth first from every reachable state.
pub fn walk(protocol: &Protocol) -> Walk {
    let mut seen: HashMap<u64, Seen> = HashMap::new();
    let names = RandomState::new();
    let mut starts = protocol.init_states();
    let mut walk = Walk { states: 0, longest: 0, cycle: None };
    while let Some(start) = starts.pop() {
        let id = names.hash_one(&start);
        if seen.contains_key(&id) {
            continue;
        }
        let mut path = vec![enter(protocol, start, id, None, &mut seen, &mut starts)];
        while let Some(frame) = path.last_mut() {
            let Some(step) = frame.steps.pop() else {
                let (id, longest) = (frame.id, frame.longest);
                seen.insert(id, Seen::Done(longest));
                walk.longest = walk.longest.max(longest as usize);
                path.pop();
                if let Some(below) = path.last_mut() {
                    below.longest = below.longest.max(longest + 1);
                }
                continue;
            };
            let Some(next) = protocol.take(&frame.state, step) else { continue };
            let id = names.hash_one(&next);
            match seen.get(&id) {
                Some(Seen::Done(longest)) => frame.longest = frame.longest.max(longest + 1),
                Some(Seen::Open) => {
                    let from = path.iter().position(|frame| frame.id == id).unwrap_or(0);
                    let round = path[from + 1..].iter().filter_map(|frame| frame.came_by);
                    walk.cycle = Some(round.chain([step]).collect());
                    walk.states = seen.len();
                    return walk;
                }
                None => path.push(enter(protocol, next, id, Some(step), &mut seen, &mut starts)),
            }
        }
    }
    walk.states = seen.len();
    walk
}

fn enter(
    protocol: &Protocol,
    state: State,
    id: u64,
    came_by: Option<Step>,
    seen: &mut HashMap<u64, Seen>,
    starts: &mut Vec<State>,
) -> Frame {
    seen.insert(id, Seen::Open);
    let mut others = Vec::new();
    protocol.other_steps(&state, &mut others);
    starts.extend(others.into_iter().filter_map(|step| protocol.take(&state, step)));
    let mut steps = Vec::new();
    protocol.own_steps(&state, &mut steps);
    Frame { state, id, came_by, steps, longest: 0 }
}
