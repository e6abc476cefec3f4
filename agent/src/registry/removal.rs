//! Guarded removal: what the registry keeps of a node or leader that was found dead.
//!
//! `lost` is put first and the key deleted then, so that a watcher can tell a reaped node from one that left. Both are
//! guarded by the victim's create revision, and by the actor's own candidate key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::lease_liveness::{LeaseLiveness, Liveness};
use etcd_client::{Compare, TxnOp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::client::{CallError, Etcd, txn};
use super::keys;
use super::lease::Lease;
use crate::clock::wall;
use crate::fleet::verdict::{Finding, Subject, Verdict};
use crate::fleet::{Candidate, KeySpace, Node, NodeState, Roster, node_value};
use crate::metrics::Op;

/// Between questions to etcd about the lease of a silent node.
const ASK_LEASE: Duration = Duration::from_millis(100);
/// Nodes that fall silent within this time fall silent at once.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Carries verdicts out.
pub struct Reaper {
    pub etcd: Etcd,
    pub space: KeySpace,
    pub instance: String,
    /// Time to live of the fleet's leases.
    pub ttl: Duration,
    pub roster: watch::Receiver<Arc<Roster>>,
    pub lease: watch::Receiver<Option<Lease>>,
    pub verdicts: mpsc::Receiver<Verdict>,
}

/// A verdict with the keys it is about, as they were when it came.
struct Case {
    verdict: Verdict,
    node: Option<Node>,
    candidate: Option<Candidate>,
    /// The actor's own candidate key, which guards every write.
    own: Candidate,
    came: Instant,
}

impl Case {
    /// From the end of the stream to now.
    fn detected_ms(&self) -> u64 {
        (self.verdict.took + self.came.elapsed()).as_millis() as u64
    }
}

impl Reaper {
    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        let mut open = JoinSet::new();
        let mut silent: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            tokio::select! {
                Some(verdict) = self.verdicts.recv() => {
                    let Some(case) = self.case(verdict) else { continue };
                    if self.is_itself_cut_off(&case, &mut silent) {
                        open.abort_all();
                        self.resign(&case.own).await;
                        continue;
                    }
                    let reap = Reap { etcd: self.etcd.clone(), space: self.space.clone(), ttl: self.ttl };
                    open.spawn(async move { reap.carry_out(case).await });
                }
                Some(_) = open.join_next() => {}
                else => std::future::pending::<()>().await,
            }
        }
    }

    fn case(&self, verdict: Verdict) -> Option<Case> {
        let roster = self.roster.borrow();
        let lease = self.lease.borrow().as_ref().filter(|lease| lease.holds()).map(|lease| lease.id)?;
        let own = roster.candidates().find(|candidate| candidate.lease == lease)?.clone();
        let node = roster.nodes().find(|node| node.instance == verdict.instance).cloned();
        let candidate = roster.candidates().find(|candidate| candidate.instance == verdict.instance).cloned();
        let acts = match verdict.role {
            // A node that drains is about to go, and waits for its acknowledgement.
            Subject::Node => {
                roster.leader() == Some(&own)
                    && node.as_ref().is_some_and(|node| node.state == NodeState::Serving)
            }
            Subject::Leader => candidate.is_some() && roster.leader() == candidate.as_ref(),
        };
        (acts && (node.is_some() || candidate.is_some())).then(|| Case {
            verdict,
            node,
            candidate,
            own,
            came: Instant::now(),
        })
    }

    /// Whether more than half of the other nodes fell silent at once: then the leader is the one that is cut off.
    fn is_itself_cut_off(&self, case: &Case, silent: &mut BTreeMap<String, Instant>) -> bool {
        silent.retain(|_, since| since.elapsed() < AT_ONCE);
        if case.verdict.finding != Finding::Silent || case.verdict.role != Subject::Node {
            return false;
        }
        silent.insert(case.verdict.instance.clone(), case.came);
        let others = self.roster.borrow().nodes().filter(|node| node.instance != self.instance).count();
        silent.len() > 1 && silent.len() * 2 > others
    }

    async fn resign(&self, own: &Candidate) {
        warn!(
            name: "most-nodes-fell-silent-at-once",
            "most nodes fell silent at once: this node is the one cut off, and resigns"
        );
        if let Err(error) = keys::resign(&self.etcd, &self.space, own.lease).await {
            warn!(
                name: "resignation-not-written",
                %error,
                "resignation not written: the end of the lease says it"
            );
        }
    }
}

struct Reap {
    etcd: Etcd,
    space: KeySpace,
    ttl: Duration,
}

impl Reap {
    async fn carry_out(&self, case: Case) {
        let Verdict { instance, finding, .. } = &case.verdict;
        if *finding == Finding::Silent && !self.is_unrenewed(&case).await {
            info!(
                name: "silent-although-its-lease-is-renewed",
                instance,
                "silent although its lease is renewed: left alone"
            );
            return;
        }
        let detected_ms = case.detected_ms();
        let outcome = match case.verdict.role {
            Subject::Node => self.remove(&case, true).await,
            // Its nginx may serve on beside a dead agent: then only the leadership is taken.
            Subject::Leader => self.remove(&case, !case.verdict.nginx_answers).await,
        };
        let why = &case.verdict.why;
        match outcome {
            Ok(true) => warn!(
                name: "reaped",
                instance,
                role = ?case.verdict.role,
                why,
                detected_ms,
                "reaped"
            ),
            Ok(false) => debug!(
                name: "not-reaped",
                instance,
                why,
                "not reaped: its keys or the own have changed"
            ),
            Err(error) => warn!(name: "not-reaped", instance, %error, "not reaped: its lease ends by itself"),
        }
    }

    /// Asks etcd how long the lease has left until it is clear whether it is still renewed.
    async fn is_unrenewed(&self, case: &Case) -> bool {
        let lease = case.candidate.as_ref().map(|candidate| candidate.lease);
        let Some(lease) = lease.or(case.node.as_ref().map(|node| node.lease)) else { return false };
        let mut renewals = LeaseLiveness::default();
        // Its holder may have been given another time to live than this agent.
        let mut deadline = case.came + self.ttl;
        while Instant::now() < deadline {
            let asked = Instant::now();
            let answer = self.etcd.call(Op::TimeToLive, 1, |client| async move {
                client.lease_client().time_to_live(lease, None).await
            });
            if let Ok(answer) = answer.await {
                // Below zero: it has ended.
                let Ok(left) = u64::try_from(answer.ttl()) else { return true };
                let granted = Duration::from_secs(u64::try_from(answer.granted_ttl()).unwrap_or(0));
                deadline = deadline.max(case.came + granted);
                match renewals.read(asked, Instant::now(), Duration::from_secs(left), granted) {
                    Liveness::Renewed => return false,
                    Liveness::Unrenewed => return true,
                    Liveness::Open => {}
                }
            }
            sleep(ASK_LEASE).await;
        }
        false
    }

    /// `lost` and the end of the candidacy, then the end of the key. Whether it was done.
    async fn remove(&self, case: &Case, with_node: bool) -> Result<bool, CallError> {
        let own = self.space.candidate_key(case.own.lease);
        let mut guards = vec![txn::created_at(&own, case.own.create_revision)];
        let mut writes = Vec::new();
        if let Some(candidate) = &case.candidate {
            let key = self.space.candidate_key(candidate.lease);
            if case.verdict.role == Subject::Leader {
                guards.push(txn::created_at(&key, candidate.create_revision));
            }
            writes.push(txn::delete(&key));
        }
        let Some(node) = case.node.as_ref().filter(|_| with_node) else {
            return Ok(self.etcd.commit(1, &guards, &writes, &[]).await?.succeeded);
        };
        let key = self.space.node_key(&node.name, &node.instance);
        let reason = case.verdict.why.clone();
        let took_ms = Some(case.detected_ms());
        let lost =
            node_value(&Node { state: NodeState::Lost, reason, since: wall(), took_ms, ..node.clone() });
        guards.push(txn::modified_at(&key, node.mod_revision));
        writes.push(txn::put_leased(&key, lost.clone(), node.lease));
        let Some(revision) = self.mark_lost(&guards, &writes, &key, &lost).await? else {
            return Ok(false);
        };
        self.etcd.commit(1, &[txn::modified_at(&key, revision)], &[txn::delete(&key)], &[]).await?;
        Ok(true)
    }

    /// The revision at which `writes` were made, if the guards held. An attempt whose answer was lost may have made them:
    /// then the guards fail on that, and the key says so by holding the value.
    async fn mark_lost(
        &self,
        guards: &[Compare],
        writes: &[TxnOp],
        key: &[u8],
        lost: &[u8],
    ) -> Result<Option<i64>, CallError> {
        let outcome = self.etcd.commit(1, guards, writes, &[txn::get(key)]).await?;
        if outcome.succeeded {
            return Ok(Some(outcome.revision));
        }
        Ok(outcome.found.filter(|found| found.value == lost).map(|found| found.mod_revision))
    }
}
