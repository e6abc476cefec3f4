#![allow(unsafe_code)] // forks a process that must not allocate
//! The guard: off PID 1, a small forked process that kills the children's groups when the agent is gone.
//!
//! PR_SET_PDEATHSIG alone is not enough (measured): it reaches nginx's master, and the workers of a killed master keep
//! the port and go on answering. As PID 1 no guard is needed, the kernel kills everything in the namespace.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{ForkResult, Pid, fork, pipe2};

/// How many groups the guard can remember. The served process and `nginx -t` make two; a dead group is forgotten at once.
const GROUPS: usize = 16;

/// The agent's end of the guard. The guard acts when it is closed, which the kernel does whatever ends the agent.
#[derive(Debug)]
pub(super) struct Guard {
    pid: Pid,
    groups: File,
}

impl Guard {
    pub(super) fn start() -> io::Result<Self> {
        let (watched, groups) = pipe2(OFlag::O_CLOEXEC)?;
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the child only calls `keep_watch`, which allocates nothing and never returns.
        let forked = match unsafe { fork() } {
            Ok(ForkResult::Child) => keep_watch(watched.as_raw_fd(), groups.as_raw_fd()),
            Ok(ForkResult::Parent { child }) => Ok(child),
            Err(errno) => Err(errno),
        };
        before.thread_set_mask()?;
        Ok(Self { pid: forked?, groups: groups.into() })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Where a child writes its pid, as `pid_t`: from then on the group of that number dies with the agent.
    pub(super) fn groups(&self) -> RawFd {
        self.groups.as_raw_fd()
    }

    /// The group `leader` is empty; its number may soon be a stranger's.
    pub(super) fn forget(&mut self, leader: Pid) -> io::Result<()> {
        self.groups.write_all(&(-leader.as_raw()).to_ne_bytes())
    }
}

/// The guard's whole life, with all signals blocked: a terminal's Ctrl-C or a group's TERM is not for it.
fn keep_watch(watched: libc::c_int, groups: libc::c_int) -> ! {
    let mut leaders = [0; GROUPS];
    // SAFETY: plain system calls; `number` and the name are valid for the lengths given, nothing allocates.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_NAME, c"muster-guard".as_ptr());
        // Its own copy of the writing end would keep the pipe open for ever.
        libc::close(groups);
        let mut number: libc::pid_t = 0;
        while libc::read(watched, (&raw mut number).cast(), size_of::<libc::pid_t>())
            == size_of::<libc::pid_t>() as isize
        {
            remember(&mut leaders, number);
        }
        for leader in leaders {
            if leader > 0 {
                libc::kill(-leader, libc::SIGKILL);
            }
        }
        libc::_exit(0)
    }
}

/// A positive number is a new group's leader, its negative says that the group is gone.
fn remember(leaders: &mut [libc::pid_t; GROUPS], number: libc::pid_t) {
    let (old, new) = if number > 0 { (0, number) } else { (-number, 0) };
    if let Some(place) = leaders.iter_mut().find(|leader| **leader == old) {
        *place = new;
    }
}
