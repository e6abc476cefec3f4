//! All children: one thread that lives as long as the process forks them and reaps them.
//!
//! One thread for both, because PR_SET_PDEATHSIG fires when the forking thread ends, and because nothing can then be
//! reaped before it is known. Ends are handed out by pid; an orphan that was re-parented to the agent is reaped without a message.
//! Rejected: `waitpid` beside `std::process` or `tokio::process` (they lose their children to it, measured).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, getpid};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc as async_mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, warn};

use super::command::{Command, Exit, SpawnError};
use super::fork::{self, Forked};
use super::guard::Guard;
use super::signals;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("process group {group} is not empty {} ms after SIGKILL", waited.as_millis())]
pub struct GroupLingers {
    pub group: Pid,
    pub waited: Duration,
}

/// A running child, or one that has ended.
#[derive(Debug)]
pub struct Child {
    /// Also the number of its process group.
    pub pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
    output: Option<OwnedFd>,
}

impl Child {
    /// Its end. May be dropped and called again.
    pub async fn wait(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Signal(Signal::SIGKILL as i32)),
            // Its thread is gone, and PR_SET_PDEATHSIG has killed the child with it.
            Err(_) => Exit::Signal(Signal::SIGKILL as i32),
        }
    }
}

/// What [`Supervisor::output`] brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// `None` when it had to be killed at the bound.
    pub exit: Option<Exit>,
    /// stdout and stderr as they came, at most 64 KiB.
    pub text: String,
}

/// The owner of all children; clones speak to the same thread.
#[derive(Debug, Clone)]
pub struct Supervisor {
    requests: mpsc::Sender<Request>,
    children: Arc<Children>,
}

impl Supervisor {
    /// Takes over the process's signals and children, for good.
    ///
    /// Call it first thing in `main`, before any thread exists and before the async runtime: what is sent to the agent
    /// until then meets the default dispositions, and the calling thread's signal mask is what children get.
    /// Can be called once in a process. From then on nothing else may wait for children: no `std::process::Command`.
    pub fn start() -> io::Result<(Self, async_mpsc::UnboundedReceiver<Signal>)> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(io::Error::other("a process can have only one supervisor"));
        }
        let mask = SigSet::thread_get_mask().map_err(failed("read the signal mask"))?;
        let guard = match getpid().as_raw() {
            1 => None,
            _ => {
                prctl::set_child_subreaper(true).map_err(failed("become the subreaper of its children"))?;
                Some(Guard::start().map_err(failed("start the guard of its children"))?)
            }
        };
        let (requests, inbox) = mpsc::channel();
        let children = Arc::new(Children(Mutex::new(Register { exits: HashMap::new(), guard })));
        let poke = requests.clone();
        let signals =
            signals::listen(move || _ = poke.send(Request::Reap)).map_err(failed("listen to signals"))?;
        let owner = Arc::clone(&children);
        let thread = thread::Builder::new().name("children".into()).spawn(move || {
            // A child may have ended before SIGCHLD was listened to.
            owner.reap();
            for request in inbox {
                match request {
                    Request::Reap => owner.reap(),
                    Request::Spawn(command, reply) => _ = reply.send(owner.spawn(&command, &mask)),
                }
            }
        });
        thread.map_err(failed("start the thread that owns the children"))?;
        Ok((Self { requests, children }, signals))
    }

    /// Starts a child in its own process group and returns when exec has succeeded.
    pub async fn spawn(&self, command: Command) -> Result<Child, SpawnError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Spawn(command, reply)).map_err(|_| SpawnError::Ended)?;
        answer.await.map_err(|_| SpawnError::Ended)?
    }

    /// Runs a command to its end with its output captured; at the bound its group is killed.
    pub async fn output(&self, mut command: Command, bound: Duration) -> Result<CommandOutput, SpawnError> {
        const LIMIT: u64 = 64 * 1024;
        command.capture = true;
        let deadline = Instant::now() + bound;
        let mut child = self.spawn(command).await?;
        let mut bytes = Vec::new();
        if let Some(output) = child.output.take() {
            let mut output = pipe::Receiver::from_owned_fd(output)
                .map_err(|error| SpawnError::System { step: "read from a pipe", errno: errno_of(&error) })?
                .take(LIMIT);
            // What the bound cuts off is lost; what came before it is kept.
            _ = timeout_at(deadline, output.read_to_end(&mut bytes)).await;
        }
        let exit = timeout_at(deadline, child.wait()).await.ok();
        if let Err(error) = self.kill_group_and_wait(child.pid, bound).await {
            warn!(name: "process-group-left-behind", %error, "process group left behind");
        }
        Ok(CommandOutput { exit, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Signals one child. ESRCH when it has been reaped: its number may be a stranger's by then.
    pub fn signal(&self, pid: Pid, signal: Signal) -> Result<(), Errno> {
        self.children.lock().known(pid).and_then(|()| kill(pid, signal))
    }

    /// Signals a child's whole process group. ESRCH when the child has been reaped.
    pub fn signal_group(&self, leader: Pid, signal: Signal) -> Result<(), Errno> {
        self.children.lock().known(leader).and_then(|()| killpg(leader, signal))
    }

    /// Kills a child's process group until the group is empty, zombies included.
    ///
    /// Meant for right after the child's end too: while the group has a member its number cannot be given away.
    pub async fn kill_group_and_wait(&self, leader: Pid, bound: Duration) -> Result<(), GroupLingers> {
        const STEP: Duration = Duration::from_millis(5);
        let empty = async {
            // Again and again, because a member can fork between two of them.
            while killpg(leader, Signal::SIGKILL) != Err(Errno::ESRCH) {
                sleep(STEP).await;
            }
        };
        timeout(bound, empty).await.map_err(|_| GroupLingers { group: leader, waited: bound })?;
        self.children.lock().forget_group(leader);
        Ok(())
    }
}

#[derive(Debug)]
enum Request {
    Spawn(Command, oneshot::Sender<Result<Child, SpawnError>>),
    Reap,
}

/// Held across each fork, each reap and each signal, so that a number in the register is always the child's own.
#[derive(Debug)]
struct Children(Mutex<Register>);

impl Children {
    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &Command, mask: &SigSet) -> Result<Child, SpawnError> {
        let mut register = self.lock();
        let Forked { pid, output } = fork::spawn(command, mask, register.guard.as_ref().map(Guard::groups))?;
        let (sender, exit) = watch::channel(None);
        register.exits.insert(pid, sender);
        Ok(Child { pid, exit, output })
    }

    /// Reaps until no zombie is left: one SIGCHLD may stand for any number of ends.
    fn reap(&self) {
        let mut register = self.lock();
        while let Some((pid, exit)) = fork::reap_one() {
            match register.exits.remove(&pid) {
                Some(waiter) => {
                    if killpg(pid, None) == Err(Errno::ESRCH) {
                        register.forget_group(pid);
                    }
                    waiter.send_replace(Some(exit));
                }
                None if register.guard.as_ref().is_some_and(|guard| guard.pid() == pid) => {
                    warn!(
                        name: "guard-ended",
                        %exit,
                        "guard ended, a killed agent would leave its children behind"
                    );
                    register.guard = None;
                }
                None => {
                    // Also a child that could not be executed: it has told the guard of itself.
                    register.forget_group(pid);
                    debug!(name: "reaped-an-orphan", %pid, %exit, "reaped an orphan");
                }
            }
        }
    }
}

#[derive(Debug)]
struct Register {
    exits: HashMap<Pid, watch::Sender<Option<Exit>>>,
    guard: Option<Guard>,
}

impl Register {
    fn known(&self, pid: Pid) -> Result<(), Errno> {
        if self.exits.contains_key(&pid) { Ok(()) } else { Err(Errno::ESRCH) }
    }

    fn forget_group(&mut self, leader: Pid) {
        // A guard that cannot be reached has ended, which the reaper reports.
        if let Some(Err(error)) = self.guard.as_mut().map(|guard| guard.forget(leader)) {
            debug!(name: "guard-not-reached", %error, "guard not reached");
        }
    }
}

/// Names the step that failed: an emulator or a sandbox refuses single system calls, and says only "Invalid argument".
fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("cannot {step}: {error}"))
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
