//! Leases: granted and renewed on a thread and a runtime of their own, so that a busy agent does not lose its place,
//! and not renewed any more when the agent hangs, so that a hung one does not keep it for ever.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use etcd_client::{Error, LeaseKeepAliveStream, LeaseKeeper};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::client::{CallError, Etcd, classify};
use crate::clock::{BootTime, SharedTime};
use crate::latest;
use crate::metrics::{Op, OpResult};

/// A lease is renewed this many times within its time to live.
const RENEWALS_PER_TTL: u32 = 3;
/// Shortest pause before a broken renewal is tried again; the longest is three times that.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A leader stops this long before its lease can end: what it sent last must have arrived by then.
pub const LEAD_MARGIN: Duration = Duration::from_millis(500);

/// Starts grants and renewals; one per agent.
#[derive(Clone)]
pub struct Leases {
    requests: mpsc::Sender<Request>,
}

/// One lease, renewed until it is lost, released or revoked.
#[derive(Clone, Debug)]
pub struct Lease {
    pub id: i64,
    /// The time to live etcd granted, which may be longer than the one asked for.
    pub ttl: Duration,
    deadline: SharedTime,
    lost: watch::Receiver<bool>,
    release: Arc<watch::Sender<bool>>,
}

enum Request {
    Grant(Duration, oneshot::Sender<Result<Lease, CallError>>),
    Revoke(i64, oneshot::Sender<Result<(), CallError>>),
}

impl Leases {
    /// Starts the thread. It renews only while `heartbeat`, which the agent's main runtime moves, is fresh.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(etcd: &Etcd, heartbeat: SharedTime) -> anyhow::Result<Self> {
        let (requests, inbox) = mpsc::channel(4);
        let etcd = etcd.separate();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot make the lease's runtime")?;
        std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, serve(etcd, heartbeat, inbox));
            })
            .context("cannot start the lease's thread")?;
        Ok(Self { requests })
    }

    /// Asks for a lease of `ttl` and keeps it alive. A grant whose answer was lost leaves a lease that is not renewed
    /// and that ends by itself.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, CallError> {
        self.ask(|reply| Request::Grant(ttl, reply)).await
    }

    /// Ends a lease now, with all keys on it.
    ///
    /// # Errors
    /// As [`Etcd::call`]; a lease that is gone already is no error.
    pub async fn revoke(&self, lease: &Lease) -> Result<(), CallError> {
        lease.release();
        self.ask(|reply| Request::Revoke(lease.id, reply)).await
    }

    /// Returns when the thread has ended, which it never does by itself.
    pub async fn ended(&self) {
        self.requests.closed().await;
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, CallError>>) -> Request,
    ) -> Result<T, CallError> {
        let gone = || CallError::Unavailable("the lease's thread has ended".into());
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Lease {
    /// When etcd may let the lease end: the send time of the last acknowledged renewal plus the time to live.
    pub fn deadline(&self) -> BootTime {
        self.deadline.get()
    }

    /// Whether acting in the lease's name is still safe by this machine's own clock.
    pub fn holds(&self) -> bool {
        !self.holds_for().is_zero()
    }

    /// How long that stays so without another renewal.
    pub fn holds_for(&self) -> Duration {
        self.deadline().saturating_since(BootTime::now() + LEAD_MARGIN)
    }

    /// Waits until etcd has said that the lease is gone. A deadline that passes is not enough: while etcd is away a
    /// lease may outlive it, and then nothing has to be registered again.
    pub async fn lost(&self) {
        latest::wait_for(&mut self.lost.clone(), |lost| *lost).await;
    }

    /// Stops renewing, so that the lease ends by itself.
    pub fn release(&self) {
        self.release.send_replace(true);
    }
}

async fn serve(etcd: Etcd, heartbeat: SharedTime, mut inbox: mpsc::Receiver<Request>) {
    while let Some(request) = inbox.recv().await {
        let (etcd, heartbeat) = (etcd.clone(), heartbeat.clone());
        tokio::task::spawn_local(async move {
            match request {
                Request::Grant(ttl, reply) => drop(reply.send(grant(&etcd, heartbeat, ttl).await)),
                Request::Revoke(id, reply) => drop(reply.send(revoke(&etcd, id).await)),
            }
        });
    }
}

async fn grant(etcd: &Etcd, heartbeat: SharedTime, ttl: Duration) -> Result<Lease, CallError> {
    let seconds = ttl.as_secs() as i64;
    let (sent, answer) = etcd
        .call(Op::Grant, 2, |client| async move {
            let sent = BootTime::now();
            client.lease_client().grant(seconds, None).await.map(|answer| (sent, answer))
        })
        .await?;
    let granted = Duration::from_secs(answer.ttl().max(1) as u64);
    let deadline = SharedTime::default();
    deadline.set(sent + granted);
    let (lost_at, lost) = watch::channel(false);
    let (release, released) = watch::channel(false);
    let renewal =
        Renewal { etcd: etcd.clone(), id: answer.id(), ttl: granted, deadline: deadline.clone(), heartbeat };
    tokio::task::spawn_local(renewal.run(lost_at, released));
    Ok(Lease { id: answer.id(), ttl: granted, deadline, lost, release: Arc::new(release) })
}

async fn revoke(etcd: &Etcd, id: i64) -> Result<(), CallError> {
    let outcome =
        etcd.call(Op::Revoke, 2, |client| async move { client.lease_client().revoke(id).await }).await;
    match outcome {
        Ok(_) => Ok(()),
        Err(CallError::Refused { code: tonic::Code::NotFound, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Renewal {
    etcd: Etcd,
    id: i64,
    ttl: Duration,
    deadline: SharedTime,
    heartbeat: SharedTime,
}

enum Renewed {
    Yes,
    /// etcd does not know the lease any more.
    Gone,
    /// There was no answer; the lease may well live.
    Unknown(String),
}

impl Renewal {
    async fn run(self, lost: watch::Sender<bool>, mut released: watch::Receiver<bool>) {
        let mut stream = None;
        let mut failing = false;
        let mut withheld = 0_u32;
        let mut pause = self.ttl / RENEWALS_PER_TTL;
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                // Released on purpose, or every clone of the lease is dropped.
                _ = released.wait_for(|released| *released) => return,
            }
            if self.agent_hangs() {
                // After a freeze of the whole process this thread may run first: asked again at once, and only then
                // called a hang.
                withheld += 1;
                if withheld == 3 {
                    warn!(
                        name: "renewal-withheld",
                        lease = %format_args!("{:x}", self.id),
                        "renewal withheld: the agent does not move"
                    );
                }
                pause = RETRY_PAUSE;
                continue;
            }
            withheld = 0;
            let sent = BootTime::now();
            match self.renew(&mut stream).await {
                Renewed::Yes => {
                    self.deadline.set(sent + self.ttl);
                    if std::mem::take(&mut failing) {
                        info!(
                            name: "lease-renewed-again",
                            lease = %format_args!("{:x}", self.id),
                            "lease renewed again"
                        );
                    }
                    let spent = BootTime::now().saturating_since(sent);
                    pause = (self.ttl / RENEWALS_PER_TTL).saturating_sub(spent);
                }
                Renewed::Gone => {
                    lost.send_replace(true);
                    return;
                }
                Renewed::Unknown(error) => {
                    stream = None;
                    self.etcd.move_on();
                    debug!(
                        name: "renewal-failed",
                        lease = %format_args!("{:x}", self.id),
                        error,
                        "renewal failed"
                    );
                    if !std::mem::replace(&mut failing, true) {
                        warn!(
                            name: "lease-cannot-be-renewed-for-now",
                            lease = %format_args!("{:x}", self.id),
                            error,
                            "lease cannot be renewed for now"
                        );
                    }
                    pause = RETRY_PAUSE.mul_f64(1.0 + 2.0 * fastrand::f64());
                }
            }
        }
    }

    fn agent_hangs(&self) -> bool {
        BootTime::now().saturating_since(self.heartbeat.get()) > self.ttl / RENEWALS_PER_TTL
    }

    async fn renew(&self, stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>) -> Renewed {
        let limit = self.ttl / RENEWALS_PER_TTL;
        let started = std::time::Instant::now();
        let outcome = timeout(limit, self.exchange(stream)).await;
        let result = match &outcome {
            Ok(Ok(true)) => OpResult::Ok,
            Ok(_) => OpResult::Failed,
            Err(_) => OpResult::Unknown,
        };
        self.etcd.note(Op::Renew, result, started);
        match outcome {
            Ok(Ok(true)) => Renewed::Yes,
            Ok(Ok(false)) => Renewed::Gone,
            Ok(Err(Error::LeaseKeepAliveError(error))) if error.contains("lease not found") => Renewed::Gone,
            Ok(Err(error)) => Renewed::Unknown(classify(error).to_string()),
            Err(_) => Renewed::Unknown(format!("no answer within {limit:?}")),
        }
    }

    /// One request and its answer; whether the lease lives. Opening the stream is itself the first exchange.
    async fn exchange(
        &self,
        stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>,
    ) -> Result<bool, Error> {
        let Some((keeper, answers)) = stream else {
            let client = self.etcd.client().await.map_err(|error| Error::Internal(error.to_string()))?;
            *stream = Some(client.lease_client().keep_alive(self.id).await?);
            return Ok(true);
        };
        keeper.keep_alive().await?;
        match answers.message().await? {
            Some(answer) => Ok(answer.ttl() > 0),
            None => Err(Error::LeaseKeepAliveError("the stream has ended".into())),
        }
    }
}
