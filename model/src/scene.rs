//! What is there at the beginning, and how much may go wrong. Each scene is searched whole: each bounds its faults so
//! that this takes seconds.

use crate::etcd::NODES;
use crate::state::Budget;

#[derive(Clone, Debug)]
pub struct Scene {
    pub name: &'static str,
    /// Per node; two nodes with one address are a re-used one.
    pub addresses: [u8; NODES],
    /// Registered at the beginning; the first leads.
    pub serving: &'static [usize],
    /// Starting at the beginning.
    pub joining: &'static [usize],
    pub envoys: usize,
    /// Who may crash, freeze or be cut from etcd.
    pub frail: &'static [usize],
    /// Who may be told to leave.
    pub leaving: &'static [usize],
    pub budget: Budget,
}

const OWN: [u8; NODES] = [0, 1, 2];
const NOTHING: Budget = Budget {
    leaves: 0,
    crashes: 0,
    freezes: 0,
    cuts: 0,
    verdicts: 0,
    losses: 0,
    absences: 0,
    rejections: 0,
    repeats: 0,
    late_puts: 0,
    failed_lists: 0,
};

/// The scenes of every run, each searched whole.
pub fn scenes() -> Vec<Scene> {
    let leader = |scene: Scene| Scene { frail: &[0], leaving: &[1, 2], ..scene };
    let pair = |scene: Scene| Scene { frail: &[0], leaving: &[2], ..scene };
    vec![
        three("drain", 1, Budget { leaves: 3, losses: 1, absences: 1, ..NOTHING }),
        three("drain, two Envoys", 2, Budget { leaves: 1, crashes: 1, absences: 1, losses: 1, ..NOTHING }),
        three("suspicion", 1, Budget { verdicts: 1, leaves: 1, losses: 1, ..NOTHING }),
        pair(three("suspicion, two Envoys", 2, Budget { verdicts: 1, leaves: 1, losses: 1, ..NOTHING })),
        leader(three("reaped, then leaving", 1, Budget { verdicts: 1, leaves: 2, ..NOTHING })),
        three("crash", 1, Budget { crashes: 2, leaves: 1, verdicts: 1, ..NOTHING }),
        pair(three("freeze", 1, Budget { freezes: 1, leaves: 1, verdicts: 1, ..NOTHING })),
        pair(three("cut", 1, Budget { cuts: 1, leaves: 1, losses: 1, ..NOTHING })),
        Scene {
            serving: &[0, 1],
            joining: &[2],
            ..three(
                "join and leave",
                1,
                Budget { leaves: 2, rejections: 1, repeats: 1, failed_lists: 1, ..NOTHING },
            )
        },
        Scene {
            addresses: [0, 1, 1],
            serving: &[0],
            joining: &[1, 2],
            ..three("address used again", 1, Budget { late_puts: 1, verdicts: 1, crashes: 1, ..NOTHING })
        },
    ]
}

/// More at once: minutes and gigabytes, for a change of the protocol.
pub fn deep_scenes() -> Vec<Scene> {
    let leader = |scene: Scene| Scene { frail: &[0], leaving: &[1, 2], ..scene };
    vec![
        leader(three("two verdicts", 1, Budget { verdicts: 2, leaves: 1, losses: 1, ..NOTHING })),
        leader(three("two leave, one suspected", 1, Budget { verdicts: 1, leaves: 2, losses: 1, ..NOTHING })),
        leader(three(
            "cut and suspected",
            1,
            Budget { cuts: 1, verdicts: 1, leaves: 1, losses: 1, ..NOTHING },
        )),
        leader(three("frozen, stream lost", 1, Budget { freezes: 1, leaves: 1, losses: 1, ..NOTHING })),
        three(
            "drain, two Envoys, twice",
            2,
            Budget { leaves: 2, crashes: 1, absences: 1, losses: 1, ..NOTHING },
        ),
    ]
}

fn three(name: &'static str, envoys: usize, budget: Budget) -> Scene {
    let all: &'static [usize] = &[0, 1, 2];
    Scene { name, addresses: OWN, serving: all, joining: &[], envoys, frail: all, leaving: all, budget }
}
