//! What is sent to the agent, as a channel.
//!
//! The agent decides what a signal means: TERM, INT and QUIT leave, HUP reloads, the rest goes on to a COMMAND.

use std::{io, thread};

use nix::sys::signal::Signal;
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// Every signal that is passed on: the list of tini, without what it would be wrong to take from the agent itself.
///
/// Left out: KILL and STOP (cannot be caught), CHLD (the reaper's), SEGV, BUS, ILL, FPE, TRAP, ABRT, SYS (the agent's own
/// faults), TTIN and TTOU (the terminal's word to the agent), and PIPE, which the kernel sends for each write of the
/// agent to a closed socket.
pub const PASSED_ON: [Signal; 18] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGURG,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGWINCH,
    Signal::SIGIO,
    Signal::SIGPWR,
];

/// Takes over the signals of the process: SIGCHLD calls `on_child`, all of [`PASSED_ON`] arrive on the receiver.
///
/// The channel has no bound, so that an agent that is slow to read can never stop the reaping; it cannot grow fast, as
/// the same signal coalesces until this thread has taken it.
pub(super) fn listen(on_child: impl Fn() + Send + 'static) -> io::Result<mpsc::UnboundedReceiver<Signal>> {
    let child = Signal::SIGCHLD as i32;
    let mut signals = Signals::new(PASSED_ON.iter().map(|signal| *signal as i32).chain([child]))?;
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for number in signals.forever() {
            if number == child {
                on_child();
            } else if let Ok(signal) = Signal::try_from(number) {
                // An agent that no longer listens is on its way out.
                _ = sender.send(signal);
            }
        }
    })?;
    Ok(receiver)
}
