//! What handle and task of a service say to each other: how it is run, what it is doing, how it ended.

use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::command::{Command, Exit, SpawnError};
use crate::backoff::BackOff;

/// What to do when the served process ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// Start it again, with back-off.
    Restart,
    /// End with its code.
    Exit,
}

/// Which processes a signal is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The child alone, as nginx expects: its master tells the workers.
    Child,
    /// Its whole process group, as dumb-init does: a shell that does not pass on TERM ends with what it runs.
    Group,
}

/// How to run the served process.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    pub command: Command,
    /// Run before each reload; its failure refuses the reload. `None`: a reload just passes HUP on.
    pub check: Option<Command>,
    /// The port it will listen on: a start waits until it is free.
    pub port: Option<SocketAddrV4>,
    pub audience: Audience,
    /// What asks it to end in peace. `None`: the signal that the agent received.
    pub graceful: Option<Signal>,
    pub on_exit: OnExit,
    pub back_off: BackOff,
}

impl ChildSpec {
    /// A COMMAND of the user: has the terminal if there is one, gets signals as a group.
    pub fn command(command: Command, on_exit: OnExit) -> Self {
        Self {
            command: Command { foreground: true, ..command },
            check: None,
            port: None,
            audience: Audience::Group,
            graceful: None,
            on_exit,
            back_off: BackOff::default(),
        }
    }
}

/// How a life ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Exited(Exit),
    NotStarted(SpawnError),
    /// Told to stop while nothing ran.
    Stopped,
}

impl End {
    /// The agent's exit code for a COMMAND: the child's code, 128 + n by signal, 126, 127.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited(exit) => exit.code(),
            Self::NotStarted(error) => error.code(),
            Self::Stopped => 0,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(exit) => exit.fmt(f),
            Self::NotStarted(error) => error.fmt(f),
            Self::Stopped => f.write_str("stopped before it ran"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildState {
    /// Not executed yet; perhaps waiting for its port.
    Starting,
    /// Executed. Whether it answers is for the probe to say.
    Running { pid: Pid },
    /// Ended or not startable, its group dead; starts again after `delay`.
    Backoff { delay: Duration, last: End },
    /// Over; nothing of its group runs.
    Exited(End),
}

/// What a handle asks of the task.
#[derive(Debug)]
pub(super) enum Order {
    Stop { signal: Signal, bound: Duration },
    Kill { pid: Pid, reason: &'static str },
    Signal(Signal),
}
