//! This node's own keys: put when nginx answers, put again when they vanish or change, withdrawn when nginx does not
//! answer, `draining` before leaving.

mod drain;
mod monitor;

use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::client::{CallError, Etcd};
use super::keys;
use super::lease::{Lease, Leases};
use crate::backoff::jittered;
use crate::clock::wall;
use crate::fleet::{Contact, KeySpace, Node, NodeState, Ports, Roster};
use crate::latest;
use crate::metrics::Metrics;
use monitor::{Interruption, WrittenKeys};

/// Pause after the first, second, ... time this node was found dead or its address was taken; the last repeats.
const BACKOFF_SECONDS: [u64; 7] = [0, 1, 2, 4, 8, 16, 30];
/// A registration that lived this long starts the back-off anew.
const STEADY: Duration = Duration::from_secs(60);
/// Pause between attempts while etcd refuses or does not answer, half of it random.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// Longest random pause before registering again when no other instance contests the address.
const JITTER_MS: u64 = 50;
/// How often another live instance may take this address before it is called what it is.
const CONTESTS: u32 = 3;
/// How long revoking the lease may take.
const REVOKE_BOUND: Duration = Duration::from_millis(1500);

/// This node's identity; it does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub instance: String,
    pub ports: Ports,
    pub version: String,
}

/// Where this node stands in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not registered, and why.
    Absent(&'static str),
    Registered,
    /// Withdrawn for good: nginx may stop.
    Drained(Drain),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Every Envoy has acknowledged that nothing is routed here.
    Acknowledged,
    /// Nothing was routed here to begin with.
    NotNeeded,
    /// The registry took no notice of it.
    Unannounced,
}

/// What the registration is told and what it tells.
pub struct Registration {
    pub etcd: Etcd,
    pub leases: Leases,
    pub space: KeySpace,
    pub identity: Identity,
    pub ttl: Duration,
    pub linger: Duration,
    /// The newest, also where it is held back: a node that waited for the list would never come back in time.
    pub roster: Receiver<Arc<Roster>>,
    pub contact: Receiver<Contact>,
    pub address: Receiver<Option<Ipv4Addr>>,
    pub epoch: Receiver<u64>,
    /// Whether the served process answers.
    pub ready: Receiver<bool>,
    pub lease: Sender<Option<Lease>>,
    pub standing: Sender<Standing>,
    /// Cancelled when the node is to leave.
    pub drain: CancellationToken,
    /// Cancelled when nginx has stopped and the lease may end.
    pub close: CancellationToken,
    pub metrics: Metrics,
}

/// What is remembered from one lease to the next.
struct Memory {
    /// Since when this node serves, as the list says.
    since: String,
    was_ready: bool,
    /// The own earlier lease, whose candidate key is still to be removed.
    previous: Option<i64>,
    /// How often in a row this node was found dead or its address was taken.
    taken: usize,
    contests: u32,
}

impl Registration {
    /// Registers and stays registered until told to leave; returns when the lease is revoked.
    pub async fn run(mut self) {
        let (drain, close) = (self.drain.clone(), self.close.clone());
        let first = tokio::select! {
            () = self.first_ready() => true,
            () = drain.cancelled() => false,
        };
        let drained = tokio::select! {
            drained = self.stay(), if first => drained,
            () = close.cancelled(), if first => Drain::Unannounced,
            else => Drain::NotNeeded,
        };
        self.standing.send_replace(Standing::Drained(drained));
        close.cancelled().await;
        if let Some(lease) = self.lease.send_replace(None) {
            self.revoke(&lease).await;
        }
    }

    /// List and watch first, then nginx's first answer: a node that joins knows the fleet already.
    async fn first_ready(&mut self) {
        latest::wait_for(&mut self.epoch, |epoch| *epoch > 0).await;
        latest::wait_for(&mut self.address, Option::is_some).await;
        latest::wait_for(&mut self.ready, |ready| *ready).await;
    }

    /// One lease after the other, until told to leave.
    async fn stay(&mut self) -> Drain {
        let mut memory = Memory { since: wall(), was_ready: true, previous: None, taken: 0, contests: 0 };
        loop {
            let Some(lease) = self.grant().await else { return Drain::NotNeeded };
            self.lease.send_replace(Some(lease.clone()));
            let turn = match self.hold(&lease, &mut memory).await {
                ControlFlow::Break(drained) => return drained,
                ControlFlow::Continue(turn) => turn,
            };
            match turn {
                Interruption::Forgotten => lease.release(),
                Interruption::LeaseLost => {
                    warn!(name: "lease-lost", "lease lost: registering again");
                    self.metrics.lease_losses.inc();
                    self.absent("its lease was lost");
                    memory.since = wall();
                }
                Interruption::Vanished { contested, found_dead } => {
                    let pause = self.vanished(&mut memory, contested, found_dead);
                    // Ended before the pause: its candidate key must not lead a fleet that nobody leads meanwhile.
                    self.lease.send_replace(None);
                    self.revoke(&lease).await;
                    if !self.pause(pause).await {
                        return Drain::NotNeeded;
                    }
                }
                Interruption::Rewrite | Interruption::Leave => {}
            }
            memory.previous = Some(lease.id);
        }
    }

    /// Keeps the keys as they should be for as long as this lease lasts. Breaks when the node was told to leave, and has.
    async fn hold(&mut self, lease: &Lease, memory: &mut Memory) -> ControlFlow<Drain, Interruption> {
        let registered = Instant::now();
        loop {
            let Some(mine) = self.write(lease, memory).await else {
                return if self.drain.is_cancelled() {
                    ControlFlow::Break(self.leave_unwritten().await)
                } else {
                    ControlFlow::Continue(Interruption::LeaseLost)
                };
            };
            memory.previous = None;
            let turn = self.watch_over(lease, &mine).await;
            if registered.elapsed() > STEADY {
                memory.taken = 0;
            }
            match turn {
                Interruption::Rewrite => {}
                Interruption::Leave => return ControlFlow::Break(self.leave(lease, &mine).await),
                turn => return ControlFlow::Continue(turn),
            }
        }
    }

    /// A lease, however long it takes; `None` when told to leave first.
    async fn grant(&mut self) -> Option<Lease> {
        let mut told = false;
        loop {
            let granted = tokio::select! {
                granted = self.leases.grant(self.ttl) => granted,
                () = self.drain.cancelled() => return None,
            };
            match granted {
                Ok(lease) => return Some(lease),
                Err(error) => self.tell_trouble(&error, &mut told),
            }
            if !self.pause(retry_pause()).await {
                return None;
            }
        }
    }

    /// Writes what should be there. `None`: told to leave, or the lease is gone.
    async fn write(&mut self, lease: &Lease, memory: &mut Memory) -> Option<WrittenKeys> {
        let mut told = false;
        loop {
            let epoch = *self.epoch.borrow_and_update();
            let ip = self.address.borrow_and_update().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let ready = *self.ready.borrow_and_update();
            if ready && !std::mem::replace(&mut memory.was_ready, ready) {
                memory.since = wall();
            }
            memory.was_ready = ready;
            let node = self.node(ip, NodeState::Serving, "", &memory.since);
            let roster = self.roster.borrow_and_update().clone();
            // What another history said about lives and rivals is no evidence in this one.
            let roster = if roster.epoch == epoch { roster } else { Arc::default() };
            let written = async {
                match ready {
                    true => {
                        keys::put(&self.etcd, &self.space, &node, lease.id, memory.previous, &roster).await
                    }
                    false => keys::withdraw(&self.etcd, &self.space, &node, lease.id).await,
                }
            };
            let outcome = tokio::select! {
                outcome = written => outcome,
                () = lease.lost() => return None,
                () = self.drain.cancelled() => return None,
            };
            match outcome {
                Ok(revision) => {
                    self.tell_written(revision, ip, ready);
                    return Some(WrittenKeys { revision, node, epoch, ready });
                }
                Err(CallError::Refused { code: tonic::Code::NotFound, .. }) => return None,
                Err(error) => self.tell_trouble(&error, &mut told),
            }
            if !self.pause(retry_pause()).await {
                return None;
            }
        }
    }

    /// How long to wait before registering again, told with the reason.
    fn vanished(&self, memory: &mut Memory, contested: Option<Node>, found_dead: bool) -> Duration {
        memory.since = wall();
        memory.contests = if contested.is_some() { memory.contests + 1 } else { 0 };
        self.absent("its key was deleted");
        let pause = if contested.is_some() || found_dead {
            memory.taken += 1;
            Duration::from_secs(BACKOFF_SECONDS[(memory.taken - 1).min(BACKOFF_SECONDS.len() - 1)])
        } else {
            Duration::from_millis(fastrand::u64(..JITTER_MS))
        };
        let pause_ms = pause.as_millis() as u64;
        match contested {
            Some(Node { ip, name, instance, .. }) if memory.contests >= CONTESTS => {
                error!(
                    name: "address-in-use-by-another-instance",
                    %ip,
                    name,
                    instance,
                    pause_ms,
                    "address in use by another instance"
                );
            }
            _ => warn!(
                name: "own-key-was-deleted",
                found_dead,
                pause_ms,
                "own key was deleted: registering again"
            ),
        }
        pause
    }

    async fn revoke(&self, lease: &Lease) {
        match timeout(REVOKE_BOUND, self.leases.revoke(lease)).await {
            Ok(Ok(())) => info!(name: "lease-revoked", "lease revoked"),
            Ok(Err(error)) => warn!(
                name: "lease-not-revoked",
                %error,
                "lease not revoked: it ends by itself"
            ),
            Err(_) => warn!(
                name: "lease-not-revoked",
                error = "no answer in time",
                "lease not revoked: it ends by itself"
            ),
        }
    }

    fn node(&self, ip: Ipv4Addr, state: NodeState, reason: &str, since: &str) -> Node {
        let Identity { name, instance, ports, version } = self.identity.clone();
        let (reason, since) = (reason.to_owned(), since.to_owned());
        Node {
            name,
            instance,
            ip,
            ports,
            state,
            reason,
            since,
            version,
            took_ms: None,
            lease: 0,
            create_revision: 0,
            mod_revision: 0,
        }
    }

    fn absent(&self, why: &'static str) {
        self.standing.send_replace(Standing::Absent(why));
    }

    fn tell_written(&self, revision: i64, ip: Ipv4Addr, ready: bool) {
        let standing =
            if ready { Standing::Registered } else { Standing::Absent("the served process does not answer") };
        if self.standing.send_replace(standing) == standing {
            return;
        }
        match ready {
            true => info!(name: "registered", %ip, revision, "registered"),
            false => warn!(name: "withdrawn", %ip, revision, "withdrawn: the served process does not answer"),
        }
    }

    fn tell_trouble(&self, error: &CallError, told: &mut bool) {
        self.absent("the registry cannot be written");
        if !std::mem::replace(told, true) {
            let hint = if error.is_no_space() {
                "etcd is out of space: compact, defragment, disarm its alarm"
            } else {
                ""
            };
            warn!(name: "cannot-register-for-now", %error, hint, "cannot register for now");
        }
    }

    /// Waits; `false` when told to leave meanwhile.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = sleep(pause) => !self.drain.is_cancelled(),
            () = self.drain.cancelled() => false,
        }
    }
}

fn retry_pause() -> Duration {
    jittered(RETRY_PAUSE)
}
