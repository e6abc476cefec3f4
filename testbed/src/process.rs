//! The testbed's end of the [`keeper`](crate::keeper), and one process it started.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::keeper::{KEEPER, Reply, Request, Spawn};
use crate::tree;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// What a program that ran to its end said.
#[derive(Debug)]
pub struct Output {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A running keeper. Dropping the last handle ends every process it started and waits for that.
#[derive(Debug)]
pub struct Keeper {
    pub range: [u8; 2],
    /// Removed with the keeper unless [`Keeper::keep_directory`] was called.
    pub directory: PathBuf,
    /// For small files, in memory where the machine has such a place; always removed.
    pub memory: PathBuf,
    pipe: Mutex<Option<Pipe>>,
    exits: watch::Receiver<HashMap<i32, Exit>>,
    child: Mutex<Child>,
}

/// One process. It lives until it ends or its keeper does, whether or not this handle is dropped.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    /// Where its output goes.
    pub log: PathBuf,
    keeper: Arc<Keeper>,
}

#[derive(Debug)]
struct Pipe {
    requests: ChildStdin,
    replies: mpsc::Receiver<Reply>,
}

impl Keeper {
    /// Starts `testbed keeper`; `program` is the testbed's own program.
    ///
    /// # Errors
    /// When it does not start or says why it cannot go on.
    pub fn start(program: &Path) -> anyhow::Result<Arc<Self>> {
        let mut child = Command::new(program)
            .arg(KEEPER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let requests = child.stdin.take().context("the keeper has no input")?;
        let mut lines = BufReader::new(child.stdout.take().context("the keeper has no output")?).lines();
        let first = lines.next().context("the keeper ended at once")??;
        let Reply::Ready { range, directory, memory } = serde_json::from_str(&first)? else {
            bail!("the keeper's first word was {first}");
        };
        let (reply, replies) = mpsc::channel();
        let (exited, exits) = watch::channel(HashMap::new());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(Reply::Exited { pid, code, signal }) => {
                        exited.send_modify(|all| {
                            all.insert(pid, Exit { code, signal });
                        });
                    }
                    Ok(other) => {
                        // A process id that came round again is alive.
                        if let Reply::Started { pid } = &other {
                            exited.send_modify(|all| {
                                all.remove(pid);
                            });
                        }
                        let _ = reply.send(other);
                    }
                    Err(_) => {}
                }
            }
        });
        Ok(Arc::new(Self {
            range,
            directory,
            memory,
            pipe: Mutex::new(Some(Pipe { requests, replies })),
            exits,
            child: Mutex::new(child),
        }))
    }

    /// Starts a process whose output goes to `logs/NAME.log` in the testbed's directory.
    ///
    /// # Errors
    /// When it cannot be started. A missing program is only seen in its log and its exit code.
    pub fn spawn<S: Into<String>>(
        self: &Arc<Self>,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
    ) -> anyhow::Result<Process> {
        let log = self.logs()?.join(format!("{name}.log"));
        self.start_process(Spawn {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: environment(env),
            stdin: None,
            stdout: log.clone(),
            stderr: log,
        })
        .with_context(|| format!("starting {name}"))
    }

    /// Runs a program to its end, with `input` as its standard input.
    ///
    /// # Errors
    /// When it cannot be started or has not ended within `patience`.
    pub async fn run<S: Into<String>>(
        self: &Arc<Self>,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
        input: Option<&[u8]>,
        patience: Duration,
    ) -> anyhow::Result<Output> {
        let directory = tempfile::tempdir_in(&self.directory)?;
        let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| directory.path().join(name));
        if let Some(input) = input {
            std::fs::write(&stdin, input)?;
        }
        let process = self.start_process(Spawn {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: environment(env),
            stdin: input.is_some().then_some(stdin),
            stdout: stdout.clone(),
            stderr: stderr.clone(),
        })?;
        let exit = match process.ended(patience).await {
            Ok(exit) => exit,
            Err(late) => {
                process.signal(Signal::SIGKILL);
                return Err(late.context(program.display().to_string()));
            }
        };
        let stderr = String::from_utf8_lossy(&std::fs::read(stderr)?).into_owned();
        Ok(Output { exit, stdout: std::fs::read(stdout)?, stderr })
    }

    /// Leaves the directory behind when the keeper ends.
    pub fn keep_directory(&self) {
        if let Some(pipe) = lock(&self.pipe).as_mut() {
            let _gone = pipe.send(&Request::KeepDirectory);
        }
    }

    /// Ends every process now and waits until none is left.
    pub fn end(&self) {
        // Closing the pipe is the order.
        drop(lock(&self.pipe).take());
        let _status = lock(&self.child).wait();
    }

    /// The keeper's own process id.
    pub fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Directory of all logs.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn logs(&self) -> std::io::Result<PathBuf> {
        let logs = self.directory.join("logs");
        std::fs::create_dir_all(&logs)?;
        Ok(logs)
    }

    /// Everything that a process started under this name has printed.
    ///
    /// # Errors
    /// When nothing was ever started.
    pub fn log(&self, name: &str) -> anyhow::Result<String> {
        let log = self.logs()?.join(format!("{name}.log"));
        Ok(String::from_utf8_lossy(&std::fs::read(log)?).into_owned())
    }

    /// Lines of JSON in its log with this message, oldest first; what others write between them is left out.
    ///
    /// # Errors
    /// As [`Keeper::log`].
    pub fn said(&self, name: &str, message: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let log = self.log(name)?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(lines.filter(|line| line["msg"] == message).collect())
    }

    fn start_process(self: &Arc<Self>, wanted: Spawn) -> anyhow::Result<Process> {
        let log = wanted.stderr.clone();
        let mut pipe = lock(&self.pipe);
        let pipe = pipe.as_mut().context("the keeper has been ended")?;
        pipe.send(&Request::Spawn(wanted))?;
        match pipe.replies.recv_timeout(Duration::from_secs(10)).context("no answer from the keeper")? {
            Reply::Started { pid } => Ok(Process { pid, log, keeper: Arc::clone(self) }),
            Reply::Failed { why } => bail!("{why}"),
            other => bail!("an unexpected answer: {other:?}"),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

impl Process {
    /// Sends a signal; nothing happens when the process has ended.
    pub fn signal(&self, signal: Signal) {
        if self.exit().is_none() {
            let _gone = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Sends a signal to the process and all its descendants; none of them escapes SIGKILL or SIGSTOP by forking.
    pub fn signal_tree(&self, signal: Signal) {
        if self.exit().is_some() {
            return;
        }
        let all = match signal {
            Signal::SIGKILL | Signal::SIGSTOP => tree::freeze(self.pid),
            _ => std::iter::once(self.pid).chain(tree::descendants(self.pid)).collect(),
        };
        for pid in all {
            let _gone = kill(Pid::from_raw(pid), signal);
        }
    }

    /// How it ended, once it has.
    pub fn exit(&self) -> Option<Exit> {
        self.keeper.exits.borrow().get(&self.pid).copied()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub async fn ended(&self, patience: Duration) -> anyhow::Result<Exit> {
        let mut exits = self.keeper.exits.clone();
        let ended = exits.wait_for(|all| all.contains_key(&self.pid));
        tokio::time::timeout(patience, ended)
            .await
            .with_context(|| format!("process {} still runs after {patience:?}", self.pid))?
            .context("the keeper has been ended")?;
        self.exit().context("its exit was forgotten")
    }
}

impl Pipe {
    fn send(&mut self, request: &Request) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.requests.write_all(&line).context("the keeper is gone")
    }
}

fn environment(extra: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let pairs = extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    [("PATH".to_owned(), path)].into_iter().chain(pairs).collect()
}

/// A panic while holding one of these locks leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
