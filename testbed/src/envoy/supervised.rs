//! An Envoy under `muster edge`, as containers have it.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Envoy;
use crate::http::{self, Answer};
use crate::process::{Exit, Process, lock};
use crate::programs::Programs;
use crate::tree;

/// Longest wait for an end that is not itself being measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// By whom an Envoy is run, and how it is asked then.
#[derive(Clone, Debug)]
pub(super) struct Supervision {
    pub(super) muster: PathBuf,
    /// Of Envoy's admin interface.
    pub(super) socket: PathBuf,
    metrics: SocketAddrV4,
    extra: Vec<String>,
}

impl Supervision {
    pub(super) fn args<'a>(&self, envoy: &Path, args: impl Iterator<Item = &'a str>) -> Vec<String> {
        let options = [
            ("--admin", self.socket.display().to_string()),
            ("--listen", self.metrics.ip().to_string()),
            ("--metrics-port", self.metrics.port().to_string()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let own = ["edge".to_owned()].into_iter().chain(options).chain(self.extra.iter().cloned());
        let envoy = ["--".to_owned(), envoy.display().to_string()];
        own.chain(envoy).chain(args.map(str::to_owned)).collect()
    }

    pub(super) fn pipe(&self) -> Value {
        json!({"pipe": {"path": self.socket.display().to_string(), "mode": 0o600}})
    }
}

impl Envoy {
    /// The same under `muster edge`, with its metrics at this port of the admin interface's address, and further
    /// arguments. Unless they say otherwise the machine may have `lo` alone.
    pub fn supervised(self, programs: &Programs, metrics: u16, args: &[String]) -> Self {
        let may_be_alone = ["--require-network".to_owned(), "false".to_owned()];
        let asks = args.iter().any(|arg| *arg == may_be_alone[0]);
        let extra = args.iter().cloned().chain(may_be_alone.into_iter().filter(|_| !asks)).collect();
        let supervision = Supervision {
            muster: programs.muster.clone(),
            socket: self.keeper.directory.join(format!("envoy{}.sock", self.number)),
            metrics: SocketAddrV4::new(*self.admin.ip(), metrics),
            extra,
        };
        Self { supervision: Some(supervision), ..self }
    }

    /// Its id in the registry.
    pub fn id(&self) -> String {
        format!("envoy-{}", self.number)
    }

    /// Where its supervisor is asked.
    ///
    /// # Errors
    /// When it has none.
    pub fn supervisor(&self) -> anyhow::Result<SocketAddrV4> {
        Ok(self.supervision.as_ref().context("nobody supervises this Envoy")?.metrics)
    }

    /// What its supervisor answers.
    ///
    /// # Errors
    /// When it has none, or that one does not answer.
    pub async fn ask_supervisor(&self, path: &str) -> anyhow::Result<Answer> {
        http::get(self.supervisor()?, path, Duration::from_secs(6)).await
    }

    /// The supervisor's metrics, after Envoy's own.
    ///
    /// # Errors
    /// As [`Envoy::ask_supervisor`].
    pub async fn metrics(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        http::metrics(self.supervisor()?).await
    }

    /// Lines of the supervisor's log with this message, oldest first.
    ///
    /// # Errors
    /// When nothing was ever started.
    pub fn said(&self, message: &str) -> anyhow::Result<Vec<Value>> {
        self.keeper.said(&format!("envoy{}", self.number), message)
    }

    /// The process that was started: the supervisor.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&self) -> anyhow::Result<Process> {
        lock(&self.process).clone().with_context(|| format!("envoy{} was not started", self.number))
    }

    /// Envoy below its supervisor.
    ///
    /// # Errors
    /// When none runs.
    pub fn below(&self) -> anyhow::Result<i32> {
        let mut pids = tree::descendants(self.process()?.pid).into_iter();
        // The last but one step has the name of what forked it.
        let envoy = pids.find(|pid| tree::program_name(*pid).as_deref() == Some("envoy"));
        envoy.with_context(|| format!("no Envoy runs below envoy{}", self.number))
    }

    /// Signals Envoy below its supervisor, as nobody but the kernel or a bug would.
    ///
    /// # Errors
    /// When none runs.
    pub fn signal_below(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.below()?), signal)?)
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&self) -> anyhow::Result<Exit> {
        let process = self.process()?;
        process.signal(Signal::SIGTERM);
        process.ended(PATIENCE).await
    }
}
