//! The life of the process that the node exists for: nginx, or a COMMAND.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::error;

use super::command::{Command, Exit, SpawnError};
use super::service_state::Order;
pub use super::service_state::{Audience, ChildSpec, ChildState, End, OnExit};
use super::service_task::ServiceTask;
use super::supervisor::Supervisor;

/// What `nginx -t` may take.
pub const CHECK_BOUND: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum ReloadError {
    #[error("nothing runs that could reload")]
    NotRunning,
    #[error("new configuration refused, the old one stays: {0}")]
    Refused(String),
    #[error("new configuration not checked within {} s, the old one stays", CHECK_BOUND.as_secs())]
    Unchecked,
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// The handle: asks for things and shows the state.
#[derive(Debug, Clone)]
pub struct Service {
    supervisor: Supervisor,
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<ChildState>,
    check: Option<Command>,
    graceful: Option<Signal>,
}

impl Service {
    /// A handle, and the life that has to be run for anything to happen.
    pub fn new(supervisor: Supervisor, spec: ChildSpec) -> (Self, ServiceTask) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (sender, state) = watch::channel(ChildState::Starting);
        let served = Self {
            supervisor: supervisor.clone(),
            orders,
            state,
            check: spec.check.clone(),
            graceful: spec.graceful,
        };
        (served, ServiceTask::new(supervisor, spec, inbox, sender))
    }

    pub fn state(&self) -> watch::Receiver<ChildState> {
        self.state.clone()
    }

    /// Asks it to end in peace: by its own graceful signal, or `received` where it has none. Killed at the bound.
    /// Returns its end; the order stands even when the future is dropped.
    pub async fn stop(&self, received: Signal, bound: Duration) -> End {
        self.order(Order::Stop { signal: self.graceful.unwrap_or(received), bound });
        self.ended().await
    }

    /// TERM, and KILL to the whole group at the bound. Also hurries a graceful stop under way.
    pub async fn stop_fast(&self, bound: Duration) -> End {
        self.order(Order::Stop { signal: Signal::SIGTERM, bound });
        self.ended().await
    }

    /// Kills the whole group now; what follows is as after any end: with `OnExit::Restart` a back-off and a new start.
    pub fn kill(&self, reason: &'static str) {
        // With its pid, so that an order that comes late does not hit the next one.
        if let Some(pid) = self.pid() {
            self.order(Order::Kill { pid, reason });
        }
    }

    /// Passes a signal on, in order with the other requests. One that comes while the process is being executed waits for
    /// that; it is dropped where nothing runs and nothing is about to: before a taken port, and between two starts.
    pub fn forward(&self, signal: Signal) {
        self.order(Order::Signal(signal));
    }

    /// Checks the new configuration, then HUP. Logs what the check said when it refuses.
    ///
    /// # Errors
    /// A refused configuration, and a process that neither runs nor starts: one that starts may have read the old one.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        if matches!(*self.state.borrow(), ChildState::Backoff { .. } | ChildState::Exited(_)) {
            return Err(ReloadError::NotRunning);
        }
        if let Some(check) = self.check.clone() {
            let output = self.supervisor.output(check, CHECK_BOUND).await?;
            match output.exit {
                Some(Exit::Code(0)) => {}
                Some(_) => {
                    let text = output.text.trim_end().to_owned();
                    error!(
                        name: "new-configuration-refused",
                        output = text,
                        "new configuration refused, the old one stays"
                    );
                    return Err(ReloadError::Refused(text));
                }
                None => return Err(ReloadError::Unchecked),
            }
        }
        // It may have ended meanwhile: then the next start reads the new configuration anyway.
        self.forward(Signal::SIGHUP);
        Ok(())
    }

    /// Waits for the end for good.
    pub async fn ended(&self) -> End {
        let mut state = self.state.clone();
        match state.wait_for(|state| matches!(state, ChildState::Exited(_))).await.as_deref() {
            Ok(ChildState::Exited(end)) => end.clone(),
            // The life was dropped without having been run to its end.
            _ => End::Stopped,
        }
    }

    /// While it runs.
    pub fn pid(&self) -> Option<Pid> {
        match *self.state.borrow() {
            ChildState::Running { pid } => Some(pid),
            _ => None,
        }
    }

    fn order(&self, order: Order) {
        // A life that is over has nothing left to stop.
        _ = self.orders.send(order);
    }
}
