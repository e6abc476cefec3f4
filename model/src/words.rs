//! Steps and states in sentences.

use std::fmt;

use crate::etcd::NODES;
use crate::protocol::Protocol;
use crate::state::{Phase, State};
use crate::step::Step;

fn node(n: usize) -> char {
    ['A', 'B', 'C'][n]
}

fn envoy(n: usize) -> &'static str {
    ["E1", "E2"][n]
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::List(n) => write!(f, "{} lists the registry", node(n)),
            Self::Register(n) => write!(f, "{} registers", node(n)),
            Self::Apply(n) => write!(f, "{} hears the next revision", node(n)),
            Self::Stop(n) => write!(f, "{} finds its drain acknowledged and stops nginx", node(n)),
            Self::Bound(n) => write!(f, "{} stops at its bound, unacknowledged", node(n)),
            Self::LeaseEnds(n) => write!(f, "the lease of {} ends", node(n)),
            Self::Heal(n) => write!(f, "{} reaches etcd again", node(n)),
            Self::Confirm(n) => write!(f, "{} confirms that it leads", node(n)),
            Self::ClockEnds(n) => write!(f, "{} ends its right by its own clock", node(n)),
            Self::WriteDrained(n) => write!(f, "{} writes /muster/drained", node(n)),
            Self::Delete(n) => write!(f, "{} deletes what it called lost", node(n)),
            Self::OneSecond { leader, envoy: e } => {
                write!(f, "{} waits no longer for the ended stream of {}", node(leader), envoy(e))
            }
            Self::TenSeconds(n) => write!(f, "the first ten seconds of {} are over", node(n)),
            Self::Connect { envoy: e, node: n } => write!(f, "{} opens a stream at {}", envoy(e), node(n)),
            Self::Answer { envoy: e } => write!(f, "{} is recorded, its stream answered", envoy(e)),
            Self::Subscribe { envoy: e } => write!(f, "{} asks for endpoints", envoy(e)),
            Self::Push { envoy: e } => write!(f, "{} is sent endpoints", envoy(e)),
            Self::Deliver { envoy: e } => write!(f, "{} applies them and acknowledges", envoy(e)),
            Self::Acked { envoy: e } => write!(f, "the answer of {} arrives", envoy(e)),
            Self::RepeatArrives { envoy: e } => write!(f, "the repeated request of {} arrives", envoy(e)),
            Self::GiveUp { envoy: e } => write!(f, "{} leaves a silent agent", envoy(e)),
            Self::Leave(n) => write!(f, "{} is told to leave and puts draining", node(n)),
            Self::PutLost { leader, victim } => write!(f, "{} calls {} lost", node(leader), node(victim)),
            Self::Depose { by, leader } => write!(f, "{} deposes {}", node(by), node(leader)),
            Self::Crash(n) => write!(f, "{} crashes", node(n)),
            Self::CrashWhilePutting(n) => write!(f, "{} crashes with its registration on the way", node(n)),
            Self::LatePut(n) => write!(f, "the registration of dead {} reaches etcd", node(n)),
            Self::Freeze(n) => write!(f, "{} freezes", node(n)),
            Self::Wake(n) => write!(f, "{} wakes", node(n)),
            Self::Cut(n) => write!(f, "{} is cut from etcd", node(n)),
            Self::ListFails(n) => write!(f, "a list of {} fails", node(n)),
            Self::LoseStream { envoy: e } => write!(f, "{} loses its stream", envoy(e)),
            Self::Absent { envoy: e } => write!(f, "{} stays away for long", envoy(e)),
            Self::Reject { envoy: e } => write!(f, "{} rejects them", envoy(e)),
            Self::Repeat { envoy: e } => write!(f, "{} repeats its last request", envoy(e)),
        }
    }
}

/// A state in one line: nodes, what they publish, what Envoy routes to.
pub fn state(protocol: &Protocol, s: &State) -> String {
    let nodes = (0..NODES).filter(|&n| s.nodes[n].phase != Phase::Absent).map(|n| {
        let it = &s.nodes[n];
        let phase = match it.phase {
            Phase::Absent => "absent",
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining(_) => "draining",
            Phase::Stopped { acked: true } => "stopped after an ACK",
            Phase::Stopped { acked: false } => "stopped at its bound",
            Phase::Crashed { .. } => "crashed",
        };
        let frozen = if it.frozen { ", frozen" } else { "" };
        let cut = if it.cut { ", cut from etcd" } else { "" };
        let leads = if it.lead.is_some() { ", leads" } else { "" };
        let key =
            s.store().state(n).map_or("no key".to_owned(), |state| format!("key {state:?}").to_lowercase());
        let files = if it.is_gone() { String::new() } else { format!(", lists {}", rows(it.listed)) };
        format!("{} {phase}{frozen}{cut}{leads}, {key}{files}", node(n))
    });
    let envoys = s.envoys[..protocol.scene.envoys].iter().enumerate().map(|(e, it)| {
        let at =
            it.stream.map_or("at nobody".to_owned(), |stream| format!("at {}", node(stream.node as usize)));
        let absent = if it.absent { ", was away for long" } else { "" };
        format!("{} {at}{absent}, routes to {}", envoy(e), addresses(protocol, it.endpoints))
    });
    nodes.chain(envoys).collect::<Vec<_>>().join("; ")
}

fn rows(set: u8) -> String {
    let names: String = (0..NODES).filter(|n| set & 1 << n != 0).map(node).collect();
    if names.is_empty() { "nobody".to_owned() } else { names }
}

/// By the names of the nodes that may have the address.
fn addresses(protocol: &Protocol, set: u8) -> String {
    let of = |address: u8| (0..NODES).filter(move |&n| protocol.scene.addresses[n] == address).map(node);
    let names: Vec<String> =
        (0..NODES as u8).filter(|address| set & 1 << address != 0).map(|a| of(a).collect()).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}
