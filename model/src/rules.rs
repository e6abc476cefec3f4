//! What must hold always, and what when nothing happens any more.
//!
//! stateright's own `eventually` forgets what it owes where two paths meet, so that it can miss a counterexample. The
//! eventual rules are therefore judged in states of rest, which needs no memory, and [`crate::rest`] shows that a
//! fleet left alone always comes to rest.

use crate::etcd::{KeyState, NODES};
use crate::protocol::Protocol;
use crate::state::{Envoy, Flight, Phase, State};

pub struct Rule {
    pub name: &'static str,
    /// True where the rule is kept.
    pub holds: fn(&Protocol, &State) -> bool,
}

pub const DRAINED: &str = "who stopped after an acknowledged drain is in no Envoy's endpoints";
pub const FENCED: &str = "only the holder of the lowest candidate key changes what is fenced";
pub const NEVER_EMPTIED: &str = "no list is emptied by missing information";
pub const ONE_ROW: &str = "an address never belongs to two rows";
pub const RIGHT_VICTIM: &str = "a reap removes nothing but what was judged";
pub const LISTED: &str = "at rest: every live node is listed everywhere, every dead one nowhere";
pub const ROUTED: &str = "at rest: every Envoy has the leader's stream and the current endpoints";
pub const LEFT: &str = "at rest: nobody waits for a drain";

pub const RULES: [Rule; 8] = [
    Rule { name: DRAINED, holds: drained },
    Rule { name: FENCED, holds: |_, s| !s.broken.fence },
    Rule { name: NEVER_EMPTIED, holds: never_emptied },
    Rule { name: ONE_ROW, holds: one_row },
    Rule { name: RIGHT_VICTIM, holds: |_, s| !s.broken.stranger },
    Rule { name: LISTED, holds: |p, s| listed(p, s) || !p.is_at_rest(s) },
    Rule { name: ROUTED, holds: |p, s| routed(p, s) || !p.is_at_rest(s) },
    Rule { name: LEFT, holds: |p, s| left(s) || !p.is_at_rest(s) },
];

/// What must be seen somewhere, or the rules would hold for want of anything happening.
pub const SIGHTS: [Rule; 4] = [
    Rule { name: "a drain is acknowledged", holds: |_, s| stopped(s, true) },
    Rule {
        name: "two believe to lead at once",
        holds: |_, s| s.nodes.iter().filter(|n| n.lead.is_some()).count() > 1,
    },
    Rule { name: "somebody live is not listed by somebody", holds: |p, s| !listed(p, s) },
    Rule { name: "an Envoy is told something by a leader that is none any more", holds: told_by_zombie },
];

fn stopped(s: &State, acked: bool) -> bool {
    s.nodes.iter().any(|node| node.phase == Phase::Stopped { acked })
}

fn told_by_zombie(_: &Protocol, s: &State) -> bool {
    let told = s.envoys.iter().filter_map(|envoy| envoy.stream).filter(|it| it.flight != Flight::Nothing);
    told.map(|stream| stream.node as usize).any(|n| s.nodes[n].runs() && !s.is_claim_valid(n))
}

/// An Envoy counts as connected until it has been away for longer than the protocol waits for anybody.
fn drained(p: &Protocol, s: &State) -> bool {
    let held = |address: u8| (0..NODES).any(|n| p.scene.addresses[n] == address && !s.nodes[n].is_gone());
    let mut stopped = (0..NODES).filter(|&n| s.nodes[n].phase == Phase::Stopped { acked: true });
    let mut envoys = s.envoys[..p.scene.envoys].iter().filter(|envoy| !envoy.absent);
    stopped.all(|n| {
        let address = p.scene.addresses[n];
        held(address) || envoys.all(|envoy| envoy.endpoints & 1 << address == 0)
    })
}

fn never_emptied(p: &Protocol, s: &State) -> bool {
    let mut files = (0..NODES).filter(|&n| s.nodes[n].listed == 0);
    let honest = |n| s.view(n).is_none_or(|view| view.rows(&p.scene.addresses, true) == 0);
    files.all(honest) && (s.was_empty || s.envoys[..p.scene.envoys].iter().all(|envoy| envoy.endpoints != 0))
}

fn one_row(p: &Protocol, s: &State) -> bool {
    s.nodes.iter().all(|node| {
        let rows = (0..NODES).filter(|n| node.listed & 1 << n != 0);
        let addresses = rows.clone().fold(0_u8, |set, n| set | 1 << p.scene.addresses[n]);
        rows.count() as u32 == addresses.count_ones()
    })
}

fn live(s: &State) -> u8 {
    (0..NODES).filter(|&n| s.nodes[n].is_live()).fold(0, |set, n| set | 1 << n)
}

fn listed(_: &Protocol, s: &State) -> bool {
    let serving = |n: usize| !s.nodes[n].is_live() || s.store().state(n) == Some(KeyState::Serving);
    (0..NODES).all(serving) && s.nodes.iter().filter(|node| node.is_live()).all(|node| node.listed == live(s))
}

fn routed(p: &Protocol, s: &State) -> bool {
    let live = live(s);
    let addresses =
        (0..NODES).filter(|n| live & 1 << n != 0).fold(0_u8, |set, n| set | 1 << p.scene.addresses[n]);
    let current = |envoy: &Envoy| {
        envoy.stream.is_some_and(|stream| {
            let leads = s.store().leader() == Some(stream.node as usize);
            leads && (envoy.endpoints == addresses || stream.rejected.is_some())
        })
    };
    live == 0 || s.envoys[..p.scene.envoys].iter().all(current)
}

fn left(s: &State) -> bool {
    s.nodes.iter().all(|node| node.frozen || !matches!(node.phase, Phase::Draining(_)))
}
