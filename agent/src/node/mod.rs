//! The node as a whole: the phases of its life. Which tasks there are and which channels join them is in [`tasks`].

mod gauges;
mod own_status;
mod relays;
mod service;
mod site;
mod tasks;

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::clock::unix_now;
use crate::config::{GRACE_MARGIN, RunFlags, not_publishable};
use crate::fleet::KeySpace;
use crate::metrics::{DrainResult, Metrics, Phase};
use crate::nginx::Nginx;
use crate::pki::tls::{Needs, Tls};
use crate::process::Signal;
use crate::process::command::Exit;
use crate::process::lifecycle::{self, Cause, FAST_BOUND};
use crate::process::service::{End, Service};
use crate::process::supervisor::Supervisor;
use crate::registry::address::{allowed_networks, own_address};
use crate::registry::client::Etcd;
use crate::registry::keys::new_id;
use crate::registry::registration::{Drain, Standing};
use service::{refuse_a_site_with_keys, served};
use site::Site;
use tasks::{Parts, Wiring};

/// How long the own address may take at the start before the agent goes on without it.
const ADDRESS_BOUND: Duration = Duration::from_millis(300);
/// How long leaving the registry and closing the ports may take after the served process has ended.
const CLOSE_BOUND: Duration = Duration::from_secs(2);

/// The flags cannot work on this machine: exit code 2, as for a flag that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Runs the node until it is told to leave or its process ends; the exit code.
///
/// # Errors
/// [`Unusable`] when the flags cannot work here; anything else that keeps the node from starting, or a task that must
/// not end and did.
pub async fn run(flags: RunFlags, supervisor: Supervisor, signals: UnboundedReceiver<Signal>) -> Result<u8> {
    refuse_a_site_with_keys(&flags)?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), crate::REVISION);
    let tls = flags.registry.tls_dir.as_ref();
    let tls = tls.map(|dir| Tls::load(dir, Needs::EtcdAndControl, unix_now())).transpose()?;
    let etcd = Etcd::new(&flags.registry.etcd, fastrand::usize(..1024), tls.clone(), metrics.clone());
    refuse_hopeless_address(&flags, &etcd).await?;
    let name = match &flags.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let instance = new_id();
    // Ports before files: a second agent started by mistake must not overwrite the first one's.
    let control = listen(&flags, flags.control_port, "control").await?;
    let health = listen(&flags, flags.metrics_port, "metrics").await?;
    let (nginx, served, life, question) = served(&flags, &instance, supervisor).await?;
    info!(
        name: "node",
        version = crate::VERSION,
        name,
        instance,
        ttl_s = flags.ttl.as_secs(),
        prefix = flags.registry.prefix,
        "node"
    );

    let mut tasks = JoinSet::new();
    let served_too = served.clone();
    let site = nginx.as_ref().map(|nginx| Site::as_found(&flags.site, nginx.site.is_some()));
    let parts =
        Parts { metrics, tls, etcd, name, instance, control, health, served: served_too, question, site };
    let wiring = tasks::start(&flags, parts, &mut tasks)?;
    let child = tokio::spawn(life.run());
    let node = Node { flags, nginx, served, wiring };
    let code = node.live(signals, &mut tasks).await;
    node.close(&mut tasks).await;
    // Over already, unless a task has failed: then nothing of it may stay behind.
    node.served.stop_fast(FAST_BOUND).await;
    child.abort();
    code
}

struct Node {
    flags: RunFlags,
    nginx: Option<Nginx>,
    served: Service,
    wiring: Wiring,
}

impl Node {
    /// Serving until a signal or an end, then draining, then stopping.
    async fn live(
        &self,
        mut signals: UnboundedReceiver<Signal>,
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<u8> {
        let other = async |signal| match signal {
            Signal::SIGHUP => self.reload().await,
            signal if self.nginx.is_none() => self.served.forward(signal),
            _ => {}
        };
        match lifecycle::serve(&mut signals, &self.served, tasks, other).await? {
            Cause::Signal(signal) => {
                let code = self.leave(signal, &mut signals).await;
                // nginx ends with 0 on QUIT and TERM alike; a killed one says that it was hurried, not that it failed.
                Ok(if self.nginx.is_some() { 0 } else { code })
            }
            Cause::Process(end) => {
                match end {
                    End::NotStarted(_) => {
                        let given_as = if self.nginx.is_some() { "--nginx" } else { "COMMAND" };
                        error!(
                            name: "served-process-cannot-be-started",
                            %end,
                            given_as,
                            "served process cannot be started: leaving"
                        );
                    }
                    End::Exited(Exit::Code(0)) if self.nginx.is_none() => {
                        info!(
                            name: "served-process-has-finished",
                            %end,
                            "served process has finished: leaving"
                        );
                    }
                    _ => error!(name: "served-process-has-ended", %end, "served process has ended: leaving"),
                }
                Ok(end.code())
            }
            Cause::Task(task) => {
                let error = lifecycle::task_has_ended(&task);
                self.leave(Signal::SIGTERM, &mut signals).await;
                Err(error)
            }
        }
    }

    /// The graceful leave; a second signal makes it a fast one.
    async fn leave(&self, signal: Signal, signals: &mut UnboundedReceiver<Signal>) -> u8 {
        let bound = self.flags.drain_timeout();
        info!(name: "leaving", signal = signal.as_str(), bound_s = bound.as_secs(), "leaving");
        let metrics = &self.wiring.metrics;
        metrics.set_phase(Phase::Draining);
        let started = std::time::Instant::now();
        let last_request = started + self.flags.stop_grace.saturating_sub(GRACE_MARGIN);
        self.wiring.drain.cancel();
        let mut standing = self.wiring.standing.clone();
        let result = tokio::select! {
            told = timeout(bound, standing.wait_for(|now| matches!(now, Standing::Drained(_)))) => {
                match told.ok().and_then(Result::ok).as_deref() {
                    Some(Standing::Drained(Drain::Acknowledged)) => DrainResult::Acknowledged,
                    Some(Standing::Drained(Drain::NotNeeded)) => DrainResult::NotNeeded,
                    Some(Standing::Drained(Drain::Unannounced)) => DrainResult::Unannounced,
                    _ => DrainResult::Timeout,
                }
            }
            () = lifecycle::asked_again(signals) => DrainResult::Forced,
            end = self.served.ended() => return end.code(),
        };
        let took = started.elapsed();
        metrics.drains.get_or_create(&result).inc();
        metrics.drain_duration.observe(took.as_secs_f64());
        metrics.set_phase(Phase::Stopping);
        info!(
            name: "drain-over",
            result = result.as_str(),
            duration_ms = took.as_millis() as u64,
            "drain over"
        );
        let end = if result == DrainResult::Forced {
            self.served.stop_fast(FAST_BOUND).await
        } else {
            let left = last_request.saturating_duration_since(std::time::Instant::now());
            lifecycle::stop(&self.served, signal, left, signals).await
        };
        end.code()
    }

    /// Ends the own streams, revokes the lease and closes the ports, in bounded time.
    async fn close(&self, tasks: &mut JoinSet<&'static str>) {
        self.wiring.drain.cancel();
        self.wiring.close.cancel();
        let left = async {
            while let Some(ended) = tasks.join_next().await {
                if ended.is_ok_and(|name| name == tasks::REGISTRATION) {
                    return;
                }
            }
        };
        if timeout(CLOSE_BOUND, left).await.is_err() {
            warn!(
                name: "the-registry-was-not-left-in-time",
                "the registry was not left in time: the lease ends by itself"
            );
        }
        tasks.shutdown().await;
        info!(name: "stopped", "stopped");
    }

    async fn reload(&self) {
        if let Some(nginx) = &self.nginx
            && let Err(error) = nginx.prepare()
        {
            error!(name: "reload-refused", %error, "reload refused");
            return;
        }
        match self.served.reload().await {
            Ok(()) => info!(name: "reloaded", "reloaded"),
            Err(error) => error!(name: "reload-refused", %error, "reload refused"),
        }
    }
}

/// An address that no fleet could use is a mistake in the flags: better said at once than in every retry. One that
/// only the way to etcd will tell is looked for later.
async fn refuse_hopeless_address(flags: &RunFlags, etcd: &Etcd) -> Result<()> {
    let found = timeout(ADDRESS_BOUND, own_address(flags.advertise.as_ref(), etcd.endpoint())).await;
    let ip = match (found, &flags.advertise) {
        (Ok(Ok(ip)), _) => ip,
        (Ok(Err(error)), Some(_)) => return Err(Unusable(format!("{error:#}")).into()),
        _ => return Ok(()),
    };
    let allow = allowed_networks(&flags.allow, ip);
    if KeySpace::new(&*flags.registry.prefix, allow).allows(ip) {
        return Ok(());
    }
    Err(Unusable(not_publishable(ip, &flags.allow)).into())
}

async fn listen(flags: &RunFlags, port: u16, what: &str) -> Result<TcpListener> {
    let address = SocketAddrV4::new(flags.listen, port);
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {address} (--listen, --{what}-port)"))?;
    info!(name: "port-open", %address, what, "port open");
    Ok(listener)
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host name")?;
    let name = name.into_string().map_err(|_| anyhow!("the host name is not text: give --name"))?;
    if crate::fleet::is_name(&name) {
        return Ok(name);
    }
    Err(Unusable(format!("the host name `{}` is no node name: give --name", name.escape_debug())).into())
}
