//! Processes and signals: what makes the agent a good PID 1, and the nginx it starts.
//!
//! [`supervisor`] owns every child: one thread forks and reaps, so nothing else may wait for a process. [`signals`]
//! turns what is sent to the agent into a channel. [`served`] is the life of the one process the node exists for, nginx
//! or a COMMAND: start, stop, reload, restart. [`nginx`] writes nginx's configuration, [`probe`] asks it, and
//! [`readiness`] keeps the verdict; one that waits for a core is late, by its [`turns`]. [`sandbox`] is what a child may open.
//!
//! Invariant: no other room knows a signal, forks, or waits for a child.

pub mod command;
pub mod lifecycle;
pub mod nginx;
pub mod probe;
pub mod readiness;
pub mod sandbox;
pub mod served;
pub mod signals;
pub mod supervisor;
pub mod watchdog;

mod fork;
mod guard;
mod life;
mod turns;

pub use life::{BackOff, Life, try_port};
pub use nix::sys::signal::Signal;
pub use nix::unistd::Pid;
