//! `muster edge`: PID 1 of a container with an Envoy. Starts it, starts it again when it ends or hangs, and drains it
//! before it is stopped. It knows nothing of the fleet: what Envoy routes to, the leader says.
//!
//! [`health_check`] asks Envoy and kills a silent one; [`namespace`] says when the container has lost its network;
//! [`memory`] chooses its bootstrap; [`drain`] takes Envoy out; [`serve`] is what scrapers get; [`admin`] is how Envoy is asked.

mod admin;
mod drain;
mod health_check;
mod memory;
mod namespace;
mod serve;

use std::future::Future;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::{mpsc::UnboundedReceiver, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::BackOff;
use crate::config::{EdgeFlags, OnExit};
use crate::metrics::{self, EdgeDrain, EdgeMetrics, Health};
use crate::process::Signal;
use crate::process::command::Command;
use crate::process::lifecycle::{self, Cause, FAST_BOUND};
use crate::process::service::{Audience, ChildSpec, ChildState, End, Service};
use crate::process::supervisor::Supervisor;
use admin::Admin;
use health_check::HealthCheck;
use serve::Both;

/// How long Envoy may take to end after TERM: it writes its access log and closes what is left.
const TERM_BOUND: Duration = Duration::from_secs(2);
/// What a container that has lost its network exits with: not 0, so that every restart policy starts it again.
const CUT_OFF: u8 = 1;

/// Runs Envoy until it is told to stop or the network is gone; the exit code.
///
/// # Errors
/// What keeps it from starting, or a task that must not end and did.
pub async fn run(flags: EdgeFlags, supervisor: Supervisor, signals: UnboundedReceiver<Signal>) -> Result<u8> {
    let metrics = EdgeMetrics::new(env!("CARGO_PKG_VERSION"), crate::REVISION);
    let address = SocketAddrV4::new(flags.listen, flags.metrics_port);
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {address} (--listen, --metrics-port)"))?;
    info!(name: "edge", version = crate::VERSION, %address, admin = %flags.admin.display(), "edge");

    let admin = Admin::new(flags.admin.clone());
    let (served, life) = Service::new(supervisor, child_spec(&flags));
    let starting = Health { live: Ok(()), ready: Err("envoy has not been started".into()) };
    let (health, shown) = watch::channel(starting);
    let both = Both { admin: admin.clone(), metrics: metrics.clone() };
    let close = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(named("metrics", metrics::serve(listener, both, shown, close.clone())));
    let health_check = HealthCheck {
        admin: admin.clone(),
        served: served.clone(),
        silence: flags.silence,
        health: health.clone(),
        metrics: metrics.clone(),
    };
    let health_check = tasks.spawn(named("health_check", health_check.keep()));
    let child = tokio::spawn(life.run());
    let edge = Edge { flags, admin, served, health, metrics, health_check };
    let code = edge.live(signals, &mut tasks).await;
    close.cancel();
    // Over already, unless a task has failed: then nothing of it may stay behind.
    edge.served.stop_fast(FAST_BOUND).await;
    child.abort();
    info!(name: "stopped", "stopped");
    code
}

async fn named<T>(name: &'static str, task: impl Future<Output = T>) -> &'static str {
    task.await;
    name
}

fn child_spec(flags: &EdgeFlags) -> ChildSpec {
    let (program, args) = flags
        .envoy
        .split_first()
        .map_or((Default::default(), &[][..]), |(program, args)| (program.clone(), args));
    let other = flags.without_memory.as_deref().filter(|_| !memory::is_counted(Path::new(memory::CGROUP)));
    let other = other.and_then(|bootstrap| Some((bootstrap, memory::with_bootstrap(args, bootstrap)?)));
    if let Some((bootstrap, _)) = &other {
        warn!(
            name: "memory-of-containers-is-not-counted-by-this-kernel",
            bootstrap = %bootstrap.display(),
            "memory of containers is not counted by this kernel: Envoy sheds no load by it"
        );
    }
    let args = other.as_ref().map_or(args, |(_, args)| args);
    ChildSpec {
        command: Command::new(program, args),
        check: None,
        port: None,
        audience: Audience::Child,
        graceful: Some(Signal::SIGTERM),
        on_exit: OnExit::Restart,
        back_off: BackOff::default(),
    }
}

struct Edge {
    flags: EdgeFlags,
    admin: Admin,
    served: Service,
    health: watch::Sender<Health>,
    metrics: EdgeMetrics,
    health_check: tokio::task::AbortHandle,
}

impl Edge {
    /// Serving until a signal, an end for good, or the loss of the network.
    async fn live(
        &self,
        mut signals: UnboundedReceiver<Signal>,
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<u8> {
        let cut_off = async {
            match self.flags.require_network {
                true => namespace::until_cut_off().await,
                false => std::future::pending().await,
            }
        };
        tokio::pin!(cut_off);
        // Envoy opens its access logs anew.
        let other = async |signal| {
            if signal == Signal::SIGUSR1 {
                self.served.forward(signal);
            }
        };
        let cause = tokio::select! {
            biased;
            cause = lifecycle::serve(&mut signals, &self.served, tasks, other) => cause?,
            () = &mut cut_off => {
                error!(name: "network-namespace-gone", "network namespace gone, only lo is left: leaving");
                self.served.stop_fast(FAST_BOUND).await;
                return Ok(CUT_OFF);
            }
        };
        match cause {
            Cause::Signal(signal) => Ok(self.leave(signal, &mut signals).await),
            Cause::Process(end) => {
                error!(
                    name: "served-process-cannot-be-started",
                    %end,
                    given_as = "ENVOY",
                    "served process cannot be started: leaving"
                );
                Ok(end.code())
            }
            Cause::Task(task) => {
                let error = lifecycle::task_has_ended(&task);
                self.leave(Signal::SIGTERM, &mut signals).await;
                Err(error)
            }
        }
    }

    /// Drains and stops Envoy; a second signal stops it at once. Envoy's own exit code.
    async fn leave(&self, signal: Signal, signals: &mut UnboundedReceiver<Signal>) -> u8 {
        let bound = self.flags.drain_timeout();
        info!(name: "leaving", signal = signal.as_str(), bound_s = bound.as_secs(), "leaving");
        // An Envoy that drains is not ready, and one that is silent now is stopped soon anyway.
        self.health_check.abort();
        self.metrics.envoy_ready.set(0);
        self.health.send_modify(|health| health.ready = Err("leaving".into()));
        let began = std::time::Instant::now();
        let mut state = self.served.state();
        let gone = state.wait_for(|state| !matches!(state, ChildState::Running { .. }));
        let mut ended = None;
        let result = tokio::select! {
            biased;
            state = gone => {
                ended = state.ok().and_then(|state| last_end(&state));
                if ended.is_some() { EdgeDrain::Ended } else { EdgeDrain::NotNeeded }
            }
            result = drain::drain(&self.admin, bound) => result,
            () = lifecycle::asked_again(signals) => EdgeDrain::Forced,
        };
        self.metrics.drains.get_or_create(&result).inc();
        let duration_ms = began.elapsed().as_millis() as u64;
        info!(name: "drain-over", result = result.as_str(), duration_ms, "drain over");
        let end = match result {
            EdgeDrain::Forced => self.served.stop_fast(FAST_BOUND).await,
            _ => lifecycle::stop(&self.served, signal, TERM_BOUND, signals).await,
        };
        match (end, ended) {
            (End::Stopped, Some(last)) => last.code(),
            (end, _) => end.code(),
        }
    }
}

/// How the one before ended, where it is not started again yet.
fn last_end(state: &ChildState) -> Option<End> {
    match state {
        ChildState::Backoff { last, .. } => Some(last.clone()),
        _ => None,
    }
}
