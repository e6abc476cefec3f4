//! Processes and signals: what makes the agent a good PID 1, whatever it starts.
//!
//! [`supervisor`] owns every child: one thread forks and reaps, so nothing else may wait for a process. [`signals`]
//! turns what is sent to the agent into a channel. [`service`] is the life of the one process the node exists for, nginx
//! or a COMMAND: start, stop, reload, restart. [`probe`] asks it, and [`readiness`] keeps the verdict, by the rules of
//! [`watchdog`]; one that waits for a core is late, by its [`turns`]. [`sandbox`] is what a child may open.
//!
//! Invariant: no other room knows a signal, forks, or waits for a child.

pub mod command;
pub mod lifecycle;
pub mod probe;
pub mod readiness;
pub mod sandbox;
pub mod service;
pub mod signals;
pub mod supervisor;
pub mod watchdog;

mod fork;
mod guard;
mod service_state;
mod service_task;
mod turns;

pub use nix::sys::signal::Signal;
pub use nix::unistd::Pid;
pub use service_task::{ServiceTask, try_port};
