//! The phases that a PID 1 goes through with the process it serves: serving until something ends that, and stopping.

use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tracing::error;

use super::Signal;
use super::service::{End, Service};

/// How long a fast stop may take before the group is killed.
pub const FAST_BOUND: Duration = Duration::from_secs(1);

/// What ended the serving.
#[derive(Debug)]
pub enum Cause {
    /// TERM, INT or QUIT.
    Signal(Signal),
    /// The served process is over for good.
    Process(End),
    /// A task has ended that must not: its name, or how it panicked.
    Task(String),
}

/// Waits for whatever ends the serving. What else the agent is sent meanwhile is for `other`.
///
/// # Errors
/// The signals' thread has ended.
pub async fn serve(
    signals: &mut UnboundedReceiver<Signal>,
    served: &Service,
    tasks: &mut JoinSet<&'static str>,
    mut other: impl AsyncFnMut(Signal),
) -> Result<Cause> {
    loop {
        tokio::select! {
            biased;
            signal = signals.recv() => match signal {
                Some(signal) if asks_to_leave(signal) => return Ok(Cause::Signal(signal)),
                Some(signal) => other(signal).await,
                None => bail!("the signals' thread has ended"),
            },
            end = served.ended() => return Ok(Cause::Process(end)),
            Some(ended) = tasks.join_next() => {
                return Ok(Cause::Task(ended.map_or_else(|panicked| panicked.to_string(), str::to_owned)));
            }
        }
    }
}

/// Logs the end of a task that must not end; what the program ends with.
pub fn task_has_ended(task: &str) -> Error {
    error!(name: "task-has-ended", task, "task has ended, and must not: leaving");
    anyhow!("task {task} has ended, and must not")
}

/// Waits for the next signal that asks to leave.
pub async fn asked_again(signals: &mut UnboundedReceiver<Signal>) {
    loop {
        match signals.recv().await {
            Some(signal) if asks_to_leave(signal) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Stops the served process as [`Service::stop`] does; fast from the moment at which the agent is asked once more.
pub async fn stop(
    served: &Service,
    signal: Signal,
    bound: Duration,
    signals: &mut UnboundedReceiver<Signal>,
) -> End {
    tokio::select! {
        end = served.stop(signal, bound) => end,
        () = asked_again(signals) => served.stop_fast(FAST_BOUND).await,
    }
}

fn asks_to_leave(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)
}
