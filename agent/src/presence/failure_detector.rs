//! The failure detector: after the end of a presence stream the leader probes the node, and the next candidates probe the leader.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::client::LeaderStreamEnded;
use super::connect::Dial;
use super::prober::{ProbeOutcome, ask_agent, ask_nginx, inquire};
use super::server::{Attending, NodeStreamEnded};
use crate::fleet::verdict::{Ending, Finding, Subject, Verdict};
use crate::fleet::{Candidate, Leadership, Node, Roster};

/// How long each candidate further back waits for those before it to depose a dead leader.
const PLACE_IN_LINE: Duration = Duration::from_millis(400);
/// First and longest pause before a node is looked into again that answers and does not attend.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// Turns ends of streams into verdicts.
pub struct FailureDetector {
    pub dial: Dial,
    pub instance: String,
    pub roster: watch::Receiver<Arc<Roster>>,
    pub leadership: watch::Receiver<Option<Leadership>>,
    pub attending: Attending,
    pub ended: mpsc::Receiver<NodeStreamEnded>,
    pub lost: mpsc::Receiver<LeaderStreamEnded>,
    pub verdicts: mpsc::Sender<Verdict>,
}

impl FailureDetector {
    /// Never returns; ends when dropped, and all questions with it.
    pub async fn run(mut self) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Some(ended) = self.ended.recv() => {
                    let node = self.roster.borrow().nodes().find(|node| node.instance == ended.instance).cloned();
                    if let Some(node) = node.filter(|_| self.leadership.borrow().is_some()) {
                        let (roster, attending) = (self.roster.clone(), self.attending.clone());
                        open.spawn(look_into_node(node, ended, roster, attending, self.verdicts.clone()));
                    }
                }
                Some(lost) = self.lost.recv() => {
                    if let Some(place) = place_in_line(&self.roster.borrow(), &self.instance) {
                        let roster = self.roster.clone();
                        let (dial, verdicts) = (self.dial.clone(), self.verdicts.clone());
                        open.spawn(look_into_leader(dial, lost, place, roster, verdicts));
                    }
                }
                Some(_) = open.join_next() => {}
                else => std::future::pending::<()>().await,
            }
        }
    }
}

async fn look_into_node(
    node: Node,
    ended: NodeStreamEnded,
    roster: watch::Receiver<Arc<Roster>>,
    attending: Attending,
    verdicts: mpsc::Sender<Verdict>,
) {
    let (name, instance, ip) = (&node.name, &node.instance, node.ip);
    info!(
        name: "presence-ended-without-a-goodbye",
        name,
        instance,
        %ip,
        ending = ?ended.ending,
        "presence ended without a goodbye"
    );
    let Some((finding, found)) = judge(&node, ended.ending, &roster, &attending).await else {
        return debug!(name: "attends-again", name, instance, "attends again, or is listed no more");
    };
    let why = match (ended.ending, found) {
        (Ending::Closed, ProbeOutcome::Gone) => "connection closed, nobody listens",
        (Ending::Closed, _) => "connection closed, nobody answers",
        (Ending::Silent, ProbeOutcome::Gone) => "silent, nobody listens",
        (Ending::Silent | Ending::Absent, _) => "silent",
    };
    let (instance, took, why) = (node.instance, ended.at.elapsed(), why.to_owned());
    let nginx_answers = found == ProbeOutcome::Alive;
    let verdict = Verdict { instance, role: Subject::Node, finding, nginx_answers, took, why };
    _ = verdicts.send(verdict).await;
}

/// Asks nginx until it is clear what the end of the stream meant; `None` for a node that attends again or is not listed
/// any more.
///
/// nginx outlives a killed agent by the time that the kernel, or the guard, takes to kill it too: on a busy machine long
/// enough to answer. An answer after a closed connection is therefore no reason to leave the node to its lease.
async fn judge(
    node: &Node,
    ending: Ending,
    roster: &watch::Receiver<Arc<Roster>>,
    attending: &Attending,
) -> Option<(Finding, ProbeOutcome)> {
    let nginx = SocketAddrV4::new(node.ip, node.ports.http);
    let mut answered = false;
    let mut pause = LOOK_AGAIN;
    loop {
        let found = inquire(|bound| ask_nginx(nginx, &node.instance, bound)).await;
        if attending.has(&node.instance) || !roster.borrow().nodes().any(|now| now.instance == node.instance)
        {
            return None;
        }
        match (ending, found) {
            (_, ProbeOutcome::Gone) => return Some((Finding::Dead, found)),
            // It answered after the agent had let go: what hangs now may have a living agent.
            (Ending::Closed, ProbeOutcome::Mute) if answered => return Some((Finding::Silent, found)),
            (Ending::Closed, ProbeOutcome::Mute) => return Some((Finding::Dead, found)),
            (Ending::Silent | Ending::Absent, _) => return Some((Finding::Silent, found)),
            (Ending::Closed, ProbeOutcome::Alive) => {}
        }
        if !answered {
            info!(
                name: "nginx-answers-without-its-agent",
                name = node.name,
                instance = node.instance,
                "nginx answers without its agent: asked again"
            );
        }
        answered = true;
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_AGAIN_MAX);
    }
}

async fn look_into_leader(
    dial: Dial,
    lost: LeaderStreamEnded,
    place: u32,
    roster: watch::Receiver<Arc<Roster>>,
    verdicts: mpsc::Sender<Verdict>,
) {
    let LeaderStreamEnded { leader, ending, at } = lost;
    let instance = leader.instance.clone();
    sleep(PLACE_IN_LINE * place).await;
    let still_leads = |leader: &Candidate| roster.borrow().leader().is_some_and(|now| now.is(leader));
    if !still_leads(&leader) {
        return;
    }
    info!(
        name: "presence-at-the-leader-ended",
        instance,
        ending = ?ending,
        place,
        "presence at the leader ended"
    );
    let agent = inquire(|bound| ask_agent(&dial, leader.control, &instance, bound)).await;
    let finding = match (ending, agent) {
        (_, ProbeOutcome::Alive) => return debug!(name: "the-leader-answers", instance, "the leader answers"),
        // One candidate that cannot reach a leader it never met would depose each: its lease has to say it, too.
        (Ending::Absent, ProbeOutcome::Gone | ProbeOutcome::Mute) => Finding::Silent,
        (_, ProbeOutcome::Gone) | (Ending::Closed, ProbeOutcome::Mute) => Finding::Dead,
        (Ending::Silent, ProbeOutcome::Mute) => Finding::Silent,
    };
    let node = roster.borrow().nodes().find(|node| node.instance == instance).cloned();
    let nginx_answers = match &node {
        Some(node) => {
            let nginx = SocketAddrV4::new(node.ip, node.ports.http);
            inquire(|bound| ask_nginx(nginx, &instance, bound)).await == ProbeOutcome::Alive
        }
        None => false,
    };
    if still_leads(&leader) {
        let why = if agent == ProbeOutcome::Gone {
            "nobody listens on its control port"
        } else {
            "its control port is mute"
        };
        let took = Instant::now().saturating_duration_since(at);
        let verdict =
            Verdict { instance, role: Subject::Leader, finding, nginx_answers, took, why: why.into() };
        _ = verdicts.send(verdict).await;
    }
}

/// 0 for the candidate next in line after the leader; `None` for the leader itself and for an instance that is no candidate.
fn place_in_line(roster: &Roster, instance: &str) -> Option<u32> {
    let line = roster.line();
    let place = line.iter().position(|candidate| candidate.instance == instance)?;
    u32::try_from(place.checked_sub(1)?).ok()
}
