//! The keeper: a process of its own that starts everything a testbed runs and ends all of it when the testbed goes.
//!
//! A test may panic, be killed or be stopped by Ctrl-C, and agents lead process groups of their own. So every process
//! is a descendant of one keeper that adopts orphans and reads a pipe from the testbed: end of file means that
//! everything dies now. Should the keeper itself be killed, its children follow by their parent-death signal; they are
//! forked by its only thread, because that signal is sent when the forking thread ends, not the process.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, setsid};
use serde::{Deserialize, Serialize};

use crate::tree;

/// The argument that makes the `testbed` program a keeper.
pub const KEEPER: &str = "keeper";
/// The argument that makes it the last step before another program: `launch PARENT PROGRAM -- [ARG...]`.
pub const LAUNCH: &str = "launch";

/// One line of JSON from the testbed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Spawn(Spawn),
    /// Leave the directory behind, for a look at the logs.
    KeepDirectory,
}

/// What to start. The environment is exactly `env`; the process leads a group of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Spawn {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// `None`: nothing to read.
    pub stdin: Option<PathBuf>,
    /// Appended to.
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

/// One line of JSON from the keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The first line: the range of addresses (127.a.b.0/24) and the directories that are this testbed's, the second
    /// in memory where the machine has such a place.
    Ready {
        range: [u8; 2],
        directory: PathBuf,
        memory: PathBuf,
    },
    Started {
        pid: i32,
    },
    Failed {
        why: String,
    },
    /// Also said of orphans, which nobody asked for.
    Exited {
        pid: i32,
        code: Option<i32>,
        signal: Option<i32>,
    },
}

/// Runs as a keeper until standard input ends.
///
/// # Errors
/// When it cannot become what it must be; afterwards it has nobody left to tell.
pub fn keep() -> anyhow::Result<()> {
    // Ctrl-C at the terminal goes to the foreground group: the testbed alone decides what it means.
    setsid().context("leaving the testbed's session")?;
    prctl::set_child_subreaper(true).context("becoming the adopter of orphans")?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().context("blocking SIGCHLD")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    let (range, _lock) = claim_range().context("finding a free range of addresses")?;
    let mut named = tempfile::Builder::new();
    // nginx's workers run as another user when the testbed runs as root.
    let named = named.prefix("muster-testbed-").permissions(std::fs::Permissions::from_mode(0o755));
    let directory = named.tempdir().context("making the testbed's directory")?;
    // The generated files are synced at each change and meant for tmpfs: a disk would be what the bench measures. Not
    // for etcd's data, which are larger than what containers have there.
    let memory = named.tempdir_in("/dev/shm").or_else(|_| named.tempdir_in(directory.path()));
    let memory = memory.context("making the directory for files in memory")?;
    say(&Reply::Ready { range, directory: directory.path().to_owned(), memory: memory.path().to_owned() });

    let keep_directory = serve(&signals);
    end_everything();
    if keep_directory {
        let _path = directory.keep();
    }
    Ok(())
}

/// Sets the parent-death signal and becomes `program`; returns only when that failed.
pub fn launch(parent: i32, program: &Path, args: &[String]) -> anyhow::Error {
    let prepared = prctl::set_pdeathsig(Signal::SIGKILL)
        .and_then(|()| SigSet::empty().thread_set_mask())
        .context("setting the parent-death signal");
    if let Err(error) = prepared {
        return error;
    }
    // The keeper may have died before the signal was set.
    if getppid().as_raw() != parent {
        return anyhow::anyhow!("the keeper is gone");
    }
    let error = Command::new(program).args(args).exec();
    anyhow::Error::new(error).context(format!("starting {}", program.display()))
}

/// Answers requests and reports ends until the testbed is gone. Returns whether to keep the directory.
fn serve(signals: &SignalFd) -> bool {
    let stdin = io::stdin();
    let mut keep_directory = false;
    let mut pending = Vec::new();
    loop {
        let mut fds =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return keep_directory,
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        reap(&mut |reply| say(&reply));
        if fds[0].revents().is_none_or(|events| events.is_empty()) {
            continue;
        }
        let mut chunk = [0; 4096];
        match nix::unistd::read(&stdin, &mut chunk) {
            Ok(0) => return keep_directory,
            Ok(n) => pending.extend_from_slice(&chunk[..n]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return keep_directory,
        }
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Request::Spawn(wanted)) => say(&spawn(&wanted)),
                Ok(Request::KeepDirectory) => keep_directory = true,
                Err(error) => say(&Reply::Failed { why: error.to_string() }),
            }
        }
    }
}

fn spawn(wanted: &Spawn) -> Reply {
    let open = |path: &Path| std::fs::File::options().append(true).create(true).open(path);
    let started = (|| -> anyhow::Result<i32> {
        let stdin = match &wanted.stdin {
            Some(path) => Stdio::from(std::fs::File::open(path).context("opening its input")?),
            None => Stdio::null(),
        };
        let child = Command::new("/proc/self/exe")
            .args([LAUNCH, &std::process::id().to_string()])
            .arg(&wanted.program)
            .arg("--")
            .args(&wanted.args)
            .env_clear()
            .envs(&wanted.env)
            .stdin(stdin)
            .stdout(open(&wanted.stdout).context("opening its output")?)
            .stderr(open(&wanted.stderr).context("opening its error output")?)
            .process_group(0)
            .spawn()?;
        Ok(i32::try_from(child.id())?)
    })();
    match started {
        Ok(pid) => Reply::Started { pid },
        Err(error) => Reply::Failed { why: format!("{error:#}") },
    }
}

/// Collects every child that has ended. Returns whether any child is left.
fn reap(report: &mut dyn FnMut(Reply)) -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                report(Reply::Exited { pid: pid.as_raw(), code: Some(code), signal: None });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                report(Reply::Exited { pid: pid.as_raw(), code: None, signal: Some(signal as i32) });
            }
            Ok(WaitStatus::StillAlive) => return true,
            Err(Errno::ECHILD) => return false,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Kills every descendant until none is left. What a killed parent leaves becomes the keeper's own child, so the loop
/// reaches it in its next round. Bounded, because a process in uninterruptible sleep cannot be waited for.
fn end_everything() {
    let deadline = Instant::now() + Duration::from_secs(5);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    while reap(&mut |_| {}) && Instant::now() < deadline {
        for pid in tree::descendants(own) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A range 127.a.b.0/24 that no other testbed holds and where nobody listens. The lock is a name in the abstract socket
/// space: it ends with the process that holds it and leaves no file.
fn claim_range() -> anyhow::Result<([u8; 2], UnixListener)> {
    let first = std::process::id();
    for step in 0..4096 {
        let [.., high, low] = (first.wrapping_add(step)).to_be_bytes();
        // 127.64 to 127.127: away from 127.0.0.1 and from 127.0.1.1 and 127.0.0.53, which systems use.
        let range = [64 + high % 64, low];
        let name = format!("muster-testbed-127.{}.{}", range[0], range[1]);
        match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
            Ok(lock) if !is_in_use(range)? => return Ok((range, lock)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("4096 testbeds run already")
}

/// Whether anybody listens on an address of the range: somebody else's processes may live on 127.x.y.z too.
fn is_in_use(range: [u8; 2]) -> anyhow::Result<bool> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").context("reading the machine's listeners")?;
    // An address is printed as the hexadecimal number its four bytes are on this machine: 127.a.b.c as ccbbaa7F.
    let tail = format!("{:02X}{:02X}7F:", range[1], range[0]);
    let is_listener = |line: &str| line.split_whitespace().nth(3) == Some("0A");
    let local =
        |line: &str| line.split_whitespace().nth(1).is_some_and(|local| local[2..].starts_with(&tail));
    Ok(sockets.lines().skip(1).any(|line| is_listener(line) && local(line)))
}

fn say(reply: &Reply) {
    let Ok(mut line) = serde_json::to_vec(reply) else { return };
    line.push(b'\n');
    // A testbed that is gone is noticed by the end of standard input.
    let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
}
