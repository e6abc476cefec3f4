//! From start to start: running the served process, restarting it, stopping it.

use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use super::service_state::{Audience, ChildSpec, ChildState, End, OnExit, Order};
use super::supervisor::{Child, Supervisor};

/// How long the members of a killed group may take to vanish before it is only logged.
const GROUP_BOUND: Duration = Duration::from_secs(5);
/// How often a taken port is tried again.
const PORT_STEP: Duration = Duration::from_millis(20);

/// Runs the process from start to start: a task that must not end early.
#[derive(Debug)]
pub struct ServiceTask {
    supervisor: Supervisor,
    spec: ChildSpec,
    orders: mpsc::UnboundedReceiver<Order>,
    state: watch::Sender<ChildState>,
}

impl ServiceTask {
    pub(super) fn new(
        supervisor: Supervisor,
        spec: ChildSpec,
        orders: mpsc::UnboundedReceiver<Order>,
        state: watch::Sender<ChildState>,
    ) -> Self {
        Self { supervisor, spec, orders, state }
    }

    /// Runs until the process has ended for good.
    pub async fn run(mut self) -> End {
        let end = self.live().await;
        info!(name: "served-process-is-over", %end, "served process is over");
        self.state.send_replace(ChildState::Exited(end.clone()));
        end
    }

    async fn live(&mut self) -> End {
        let mut failures = 0;
        let mut first = true;
        loop {
            self.state.send_replace(ChildState::Starting);
            if let Some(port) = self.spec.port
                && self.stopped_during(until_free(port)).await
            {
                return End::Stopped;
            }
            let started = Instant::now();
            let (end, stopping) = match self.supervisor.spawn(self.spec.command.clone()).await {
                Ok(child) => self.watch_over(child).await,
                Err(error) => (End::NotStarted(error), false),
            };
            // A program that cannot be started the first time will not be there the second time either.
            let hopeless = first && matches!(end, End::NotStarted(_));
            if stopping || hopeless || self.spec.on_exit == OnExit::Exit {
                return end;
            }
            first = false;
            failures = if started.elapsed() < self.spec.back_off.stable { failures } else { 0 };
            let delay = self.spec.back_off.delay(failures);
            failures = failures.saturating_add(1);
            warn!(
                name: "served-process-ended",
                %end,
                delay_ms = delay.as_millis() as u64,
                "served process ended, starting again"
            );
            self.state.send_replace(ChildState::Backoff { delay, last: end });
            if self.stopped_during(sleep(delay)).await {
                return End::Stopped;
            }
        }
    }

    /// From exec to the last member of its group. True when it was told to stop.
    async fn watch_over(&mut self, mut child: Child) -> (End, bool) {
        let pid = child.pid;
        info!(
            name: "served-process-started",
            %pid,
            program = self.spec.command.shown(),
            "served process started"
        );
        self.state.send_replace(ChildState::Running { pid });
        let mut kill_at: Option<Instant> = None;
        let mut stopping = false;
        let exit = loop {
            let never = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                exit = child.wait() => break exit,
                order = next(&mut self.orders) => match order {
                    Order::Stop { signal, bound } => {
                        info!(
                            name: "stopping-served-process",
                            %pid,
                            %signal,
                            bound_ms = bound.as_millis() as u64,
                            "stopping served process"
                        );
                        stopping = true;
                        let deadline = Instant::now() + bound;
                        kill_at = Some(kill_at.map_or(deadline, |earlier| earlier.min(deadline)));
                        send(&self.supervisor, self.spec.audience, pid, signal);
                        // A stopped process would sit on the signal until the bound.
                        send(&self.supervisor, Audience::Group, pid, Signal::SIGCONT);
                    }
                    // One that is stopping has closed its port and answers what is under way: its bound ends it.
                    Order::Kill { pid: meant, .. } if meant != pid || stopping => {}
                    Order::Kill { reason, .. } => {
                        warn!(name: "killing-served-process", %pid, reason, "killing served process");
                        send(&self.supervisor, Audience::Group, pid, Signal::SIGKILL);
                    }
                    Order::Signal(signal) => send(&self.supervisor, self.spec.audience, pid, signal),
                },
                () = sleep_until(kill_at.unwrap_or(never)), if kill_at.is_some() => {
                    warn!(
                        name: "served-process-did-not-stop-in-time",
                        %pid,
                        "served process did not stop in time, killing its group"
                    );
                    kill_at = None;
                    send(&self.supervisor, Audience::Group, pid, Signal::SIGKILL);
                }
            }
        };
        // A killed master leaves workers that keep the port.
        if let Err(error) = self.supervisor.kill_group_and_wait(pid, GROUP_BOUND).await {
            error!(
                name: "served-process-left-something-behind",
                %error,
                "served process left something behind"
            );
        }
        (End::Exited(exit), stopping)
    }

    /// Waits for `done`; true when a stop came first.
    async fn stopped_during(&mut self, done: impl Future<Output = ()>) -> bool {
        tokio::pin!(done);
        loop {
            tokio::select! {
                () = &mut done => return false,
                order = next(&mut self.orders) => match order {
                    Order::Stop { .. } => return true,
                    Order::Kill { .. } => {}
                    Order::Signal(signal) => debug!(
                        name: "signal-dropped",
                        %signal,
                        "signal dropped, nothing runs"
                    ),
                },
            }
        }
    }
}

/// The next order; none ever comes when all handles are gone.
async fn next(orders: &mut mpsc::UnboundedReceiver<Order>) -> Order {
    match orders.recv().await {
        Some(order) => order,
        None => std::future::pending().await,
    }
}

/// Signals a child or its group; one that is gone by now is not an error.
fn send(supervisor: &Supervisor, audience: Audience, pid: Pid, signal: Signal) {
    let sent = match audience {
        Audience::Child => supervisor.signal(pid, signal),
        Audience::Group => supervisor.signal_group(pid, signal),
    };
    if let Err(errno) = sent {
        debug!(name: "signal-not-delivered", %pid, %signal, %errno, "signal not delivered");
    }
}

async fn until_free(port: SocketAddrV4) {
    if !is_taken(port) {
        return;
    }
    warn!(name: "port-is-taken", %port, "port is taken, waiting for it");
    while is_taken(port) {
        sleep(PORT_STEP).await;
    }
    info!(name: "port-is-free", %port, "port is free");
}

/// Any other error is for the server itself to meet and report.
fn is_taken(port: SocketAddrV4) -> bool {
    try_port(port) == Err(Errno::EADDRINUSE)
}

/// Binds without listening, so that no client can meet this socket.
///
/// # Errors
/// What a server would meet there.
pub fn try_port(port: SocketAddrV4) -> nix::Result<()> {
    let tried = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&tried, sockopt::ReuseAddr, &true)?;
    bind(tried.as_raw_fd(), &SockaddrIn::from(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_only_while_somebody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(port) = listener.local_addr().unwrap() else { unreachable!() };
        assert!(is_taken(port));
        drop(listener);
        assert!(!is_taken(port));
    }
}
