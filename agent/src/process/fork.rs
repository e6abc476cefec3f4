#![allow(unsafe_code)] // fork, exec and wait have no safe form that this file could use
//! fork, exec and wait.
//!
//! Not `std::process`: it empties the signal mask before its last hook runs, so that a signal could meet the agent's own
//! handlers in the child, and its reaping and ours would compete. Not `tokio::process` for the same second reason.
//! Between fork and exec the child of a process with threads may call only what signal-safety(7) lists; everything that
//! allocates is therefore prepared in the parent.

use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, getpid, pipe2, tcgetpgrp};

use super::command::{Command, Exit, SpawnError};
use super::sandbox::Sandbox;

/// The steps of a child that can fail, as it reports them.
const SANDBOX: u8 = 0;
const EXEC: u8 = 1;

/// A child that has passed exec, and the reading end of its output when that was asked for.
pub(super) struct Forked {
    pub(super) pid: Pid,
    pub(super) output: Option<OwnedFd>,
}

/// Forks and executes `command`: own process group, default dispositions, the signal mask `mask`, and SIGKILL when the
/// calling THREAD ends, which therefore must live as long as the process. The child itself writes its pid to `guard`
/// before exec: a parent that did it afterwards could be killed in between, and the child's group would go on.
///
/// Returns when exec has succeeded or failed; a child whose exec failed still has to be reaped.
pub(super) fn spawn(command: &Command, mask: &SigSet, guard: Option<RawFd>) -> Result<Forked, SpawnError> {
    let image = Image::new(command)?;
    let (failure, report) = pipe2(OFlag::O_CLOEXEC).map_err(SpawnError::system("open a pipe"))?;
    let (output, sink) = match command.capture {
        true => pipe2(OFlag::O_CLOEXEC)
            .map(|(r, w)| (Some(r), Some(w)))
            .map_err(SpawnError::system("open a pipe"))?,
        false => (None, None),
    };
    let setup = Setup {
        image: &image,
        parent: getpid(),
        foreground: command.foreground && tcgetpgrp(std::io::stdin()) == Ok(getpgrp()),
        output: sink.as_ref().map(AsRawFd::as_raw_fd),
        report: report.as_raw_fd(),
        guard,
        mask,
        sandbox: command.sandbox.as_ref().map(Sandbox::as_raw_fd),
    };

    // Every signal stays blocked until the child has default dispositions, or the agent's handlers would run in it and
    // write into the pipe that both share.
    let before = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(SpawnError::system("block signals"))?;
    // SAFETY: the child only calls `Setup::execute`, which allocates nothing and ends in exec or _exit.
    let forked = match unsafe { fork() } {
        Ok(ForkResult::Child) => setup.execute(),
        Ok(ForkResult::Parent { child }) => Ok(child),
        Err(errno) => Err(errno),
    };
    before.thread_set_mask().map_err(SpawnError::system("restore the signal mask"))?;
    let pid = forked.map_err(SpawnError::system("fork"))?;
    drop(report);

    match read_failure(failure) {
        None => Ok(Forked { pid, output }),
        Some((SANDBOX, errno)) => Err(SpawnError::System { step: "enter the sandbox", errno }),
        Some((_, Errno::ENOENT)) => Err(SpawnError::NotFound { program: command.shown() }),
        Some((_, Errno::EACCES)) if !is_somewhere(&command.program) => {
            Err(SpawnError::NotFound { program: command.shown() })
        }
        Some((_, errno)) => Err(SpawnError::NotExecutable { program: command.shown(), errno }),
    }
}

/// Reaps one child that has ended, or says that none has. Must not be called by more than one thread.
///
/// Not nix's `waitpid`: a child ended by a real-time signal is reaped there and then lost in an error.
pub(super) fn reap_one() -> Option<(Pid, Exit)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int for the whole call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            -1 if Errno::last() == Errno::EINTR => {}
            ..=0 => return None,
            pid if libc::WIFEXITED(status) => {
                return Some((Pid::from_raw(pid), Exit::Code(libc::WEXITSTATUS(status) as u8)));
            }
            pid => return Some((Pid::from_raw(pid), Exit::Signal(libc::WTERMSIG(status)))),
        }
    }
}

/// Whether the program's file is there at all: a `PATH` with a directory that may not be searched answers EACCES for
/// every name, where a shell says that the name was not found.
fn is_somewhere(program: &OsStr) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    program.as_bytes().contains(&b'/') || std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// The step of the child that failed and its error, or `None` when exec closed the pipe.
fn read_failure(failure: OwnedFd) -> Option<(u8, Errno)> {
    let mut bytes = [0; 1 + size_of::<i32>()];
    std::fs::File::from(failure).read_exact(&mut bytes).ok()?;
    let [step, errno @ ..] = bytes;
    Some((step, Errno::from_raw(i32::from_ne_bytes(errno))))
}

/// A program with its arguments and environment as exec wants them.
struct Image {
    program: CString,
    args: Pointers,
    env: Pointers,
}

impl Image {
    fn new(command: &Command) -> Result<Self, SpawnError> {
        let args = [&command.program].into_iter().chain(&command.args).cloned();
        let inherited =
            std::env::vars_os().filter(|(name, _)| !command.env.iter().any(|(own, _)| own == name));
        let env = inherited.chain(command.env.iter().cloned()).map(|(mut pair, value)| {
            pair.push("=");
            pair.push(value);
            pair
        });
        Ok(Self {
            program: c_string(command.program.clone())?,
            args: Pointers::new(args)?,
            env: Pointers::new(env)?,
        })
    }
}

/// A null-terminated array of C strings, and the strings it points into.
struct Pointers {
    array: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn new(strings: impl Iterator<Item = OsString>) -> Result<Self, SpawnError> {
        let strings = strings.map(c_string).collect::<Result<Vec<_>, _>>()?;
        let array = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { array, _strings: strings })
    }
}

fn c_string(string: OsString) -> Result<CString, SpawnError> {
    CString::new(string.into_vec()).map_err(|_| SpawnError::Nul)
}

/// What the child does between fork and exec.
struct Setup<'a> {
    image: &'a Image,
    parent: Pid,
    foreground: bool,
    output: Option<RawFd>,
    report: RawFd,
    guard: Option<RawFd>,
    mask: &'a SigSet,
    sandbox: Option<RawFd>,
}

impl Setup<'_> {
    /// Runs in the child with all signals blocked. Allocates nothing.
    fn execute(&self) -> ! {
        // SAFETY: all of these are plain system calls on values that live in the child's copy of the parent's memory;
        // the pointer arrays end in null and their strings outlive them.
        unsafe {
            libc::setpgid(0, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
            // The parent may have died before the line above took effect.
            if libc::getppid() != self.parent.as_raw() {
                libc::_exit(1);
            }
            if let Some(guard) = self.guard {
                let own = libc::getpid().to_ne_bytes();
                libc::write(guard, own.as_ptr().cast(), own.len());
                // A guard that has ended leaves a SIGPIPE behind, which would end the child when its mask is restored.
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            }
            if self.foreground {
                libc::tcsetpgrp(libc::STDIN_FILENO, libc::getpid());
            }
            if let Some(output) = self.output {
                libc::dup2(output, libc::STDOUT_FILENO);
                libc::dup2(output, libc::STDERR_FILENO);
            }
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, self.mask.as_ref(), ptr::null_mut());
            // Last, because what comes before opens nothing. Without new privileges the kernel asks for no right to do this.
            if let Some(sandbox) = self.sandbox
                && (libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                    || libc::syscall(libc::SYS_landlock_restrict_self, sandbox, 0) != 0)
            {
                self.give_up(SANDBOX);
            }
            libc::execvpe(
                self.image.program.as_ptr(),
                self.image.args.array.as_ptr(),
                self.image.env.array.as_ptr(),
            );
        }
        self.give_up(EXEC)
    }

    /// Reports the error of the call before.
    fn give_up(&self, step: u8) -> ! {
        let [a, b, c, d] = Errno::last_raw().to_ne_bytes();
        let report = [step, a, b, c, d];
        // SAFETY: as in `execute`.
        unsafe {
            libc::write(self.report, report.as_ptr().cast(), report.len());
            libc::_exit(127)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeReader;

    use nix::sys::wait::waitpid;

    use super::*;

    fn number(pipe: &mut PipeReader) -> i32 {
        let mut bytes = [0; size_of::<i32>()];
        pipe.read_exact(&mut bytes).unwrap();
        i32::from_ne_bytes(bytes)
    }

    /// What fails to execute has still told the guard: it does so before exec, and needs no parent for it.
    #[test]
    fn a_child_tells_the_guard_of_its_group_before_it_is_executed() {
        let (mut told, guard) = std::io::pipe().unwrap();
        let refused =
            spawn(&Command::new("/muster/no/such", [""; 0]), &SigSet::empty(), Some(guard.as_raw_fd()));
        assert!(matches!(refused, Err(SpawnError::NotFound { .. })));
        drop(guard);
        let pid = number(&mut told);
        assert!(pid > 0);
        waitpid(Pid::from_raw(pid), None).unwrap();
    }

    #[test]
    fn a_guard_that_has_ended_does_not_end_the_child() {
        let (told, guard) = std::io::pipe().unwrap();
        drop(told);
        let child = spawn(&Command::new("true", [""; 0]), &SigSet::empty(), Some(guard.as_raw_fd())).unwrap();
        let status = waitpid(child.pid, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child.pid, 0));
    }
}
