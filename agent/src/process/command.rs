//! What is started, how it ended, and why it could not be started.

use std::ffi::OsString;
use std::fmt;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use thiserror::Error;

use super::sandbox::Sandbox;

/// What to start. The environment is the agent's own with `env` on top.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// A path, or a name that is looked up in `PATH`.
    pub program: OsString,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    /// Gets the terminal, when stdin is one and the agent has it: Ctrl-C then goes to this child, not to the agent.
    pub foreground: bool,
    /// What it may open. `None`: whatever the agent may.
    pub sandbox: Option<Sandbox>,
    /// Its stdout and stderr go to a pipe instead of the agent's own.
    pub(super) capture: bool,
}

impl Command {
    pub fn new(program: impl Into<OsString>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    pub(super) fn shown(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    /// By the signal of this number, which may be a real-time one.
    Signal(i32),
}

impl Exit {
    /// What a shell would report: the code, or 128 + n after signal n.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128 + number as u8,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpawnError {
    #[error("{program}: not found")]
    NotFound { program: String },
    #[error("{program}: cannot be executed: {errno}")]
    NotExecutable { program: String, errno: Errno },
    #[error("the command or its environment holds a NUL byte")]
    Nul,
    #[error("cannot {step}: {errno}")]
    System { step: &'static str, errno: Errno },
    #[error("the thread that owns the children has ended")]
    Ended,
}

impl SpawnError {
    /// The exit code that shells agree on: 127 not found, 126 not executable; 1 when it is no fault of the program.
    pub fn code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Nul | Self::System { .. } | Self::Ended => 1,
        }
    }

    pub(super) fn system(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { step, errno }
    }
}
