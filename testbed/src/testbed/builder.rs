//! [`Builder`]: what a testbed is to be, and how a test starts one.

use std::net::SocketAddrV4;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{START_PATIENCE, Testbed};
use crate::address::Addresses;
use crate::certificates::Certificates;
use crate::etcd::Etcd;
use crate::node::Settings;
use crate::observe::eventually;
use crate::process::Keeper;
use crate::programs::Programs;

/// Most testbeds that run at the same time in tests, and one more than cores where there are few: a test waits for
/// leases and back-offs most of its time, and took 0.3 of a core on the average.
const SLOTS: usize = 4;
/// Longest wait for a place among them.
const SLOT_PATIENCE: Duration = Duration::from_secs(600);

/// How a testbed is to be.
#[derive(Clone, Debug)]
pub struct Builder {
    etcd: u8,
    nodes: u8,
    envoys: u8,
    ttl: Duration,
    edge: Option<SocketAddrV4>,
    linked: bool,
    tls: bool,
    extra: Vec<String>,
    command: Vec<String>,
    site_file: Option<(String, usize)>,
    supervised: Option<Vec<String>>,
    every_second: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            etcd: 3,
            nodes: 3,
            envoys: 1,
            ttl: Duration::from_secs(2),
            edge: None,
            linked: false,
            tls: false,
            extra: Vec::new(),
            command: Vec::new(),
            site_file: None,
            supervised: None,
            every_second: None,
        }
    }
}

impl Builder {
    /// Members of etcd, 1 or 3.
    pub fn etcd(self, members: u8) -> Self {
        Self { etcd: members, ..self }
    }

    /// Nodes to start with.
    pub fn nodes(self, nodes: u8) -> Self {
        Self { nodes, ..self }
    }

    /// Envoys, of which the edge is shared.
    pub fn envoys(self, envoys: u8) -> Self {
        Self { envoys, ..self }
    }

    /// The leases' time to live, in whole seconds.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// Where Envoy listens, in place of 127.a.b.250.
    pub fn edge(self, edge: SocketAddrV4) -> Self {
        Self { edge: Some(edge), ..self }
    }

    /// Puts a link before each node's nginx and control port, so that agents can be cut off from each other.
    pub fn linked(self) -> Self {
        Self { linked: true, ..self }
    }

    /// TLS everywhere, with certificates by `muster pki`.
    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// A further argument of `muster run`.
    pub fn agent_arg(mut self, arg: impl Into<String>) -> Self {
        self.extra.push(arg.into());
        self
    }

    /// What agents run in place of nginx.
    pub fn command(self, command: &[&str]) -> Self {
        Self { command: command.iter().map(|word| (*word).to_owned()).collect(), ..self }
    }

    /// A file of so many bytes in each node's own content, at `/NAME`.
    pub fn site_file(self, name: &str, bytes: usize) -> Self {
        Self { site_file: Some((name.to_owned(), bytes)), ..self }
    }

    /// Runs each Envoy under `muster edge`, with further arguments.
    pub fn supervised(self, args: &[&str]) -> Self {
        Self { supervised: Some(args.iter().map(|word| (*word).to_owned()).collect()), ..self }
    }

    /// Every second node runs this program: another build of muster.
    pub fn every_second(self, muster: PathBuf) -> Self {
        Self { every_second: Some(muster), ..self }
    }

    /// Starts everything and returns as soon as etcd serves; [`Testbed::complete`] waits for the rest.
    ///
    /// # Errors
    /// What is missing or does not start.
    pub async fn start(self) -> anyhow::Result<Testbed> {
        ensure!(matches!(self.etcd, 1 | 3), "etcd has 1 or 3 members, not {}", self.etcd);
        let programs = Programs::find()?;
        let keeper = Keeper::start(&programs.testbed)?;
        let addresses = Addresses::new(keeper.range)?;
        let certificates = match self.tls {
            true => Some(Certificates::make(self.etcd, addresses, &programs, &keeper).await?),
            false => None,
        };
        let settings = Settings {
            certificates: certificates.clone(),
            ttl: self.ttl,
            edge: self.edge.unwrap_or_else(|| addresses.edge()),
            etcd_members: self.etcd,
            linked: self.linked,
            extra: self.extra,
            command: self.command,
            site_file: self.site_file,
            supervised: self.supervised,
            every_second: self.every_second,
        };
        let etcd = Etcd::new(self.etcd, addresses, programs.clone(), Arc::clone(&keeper));
        let etcd = etcd.secured(certificates);
        let mut testbed = Testbed {
            etcd,
            addresses,
            nodes: Vec::new(),
            envoys: Vec::new(),
            settings,
            programs,
            keeper,
            failed: AtomicBool::new(false),
            _slot: None,
        };
        let started = testbed.start_parts(self.nodes, self.envoys).await;
        started.inspect_err(|_| testbed.keep_logs())?;
        Ok(testbed)
    }

    /// One test: waits for a place among those that run at the same time, starts, waits until the fleet is complete,
    /// runs `body`, ends everything. A failure of any of these leaves the logs behind and prints where they are.
    ///
    /// # Errors
    /// The first failure.
    pub async fn run(self, body: impl AsyncFnOnce(&mut Testbed) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let slot = slot().await?;
        let mut testbed = self.start().await?;
        testbed._slot = Some(slot);
        let result = match testbed.complete(START_PATIENCE).await {
            Ok(_) => body(&mut testbed).await,
            Err(error) => Err(error),
        };
        result.inspect_err(|_| testbed.keep_logs())
    }
}

/// One of the places for tests, free again when the listener is dropped. A name in the abstract socket space, so that
/// it holds between test programs too and leaves no file.
async fn slot() -> anyhow::Result<UnixListener> {
    let slots = std::thread::available_parallelism().map_or(1, |cores| (cores.get() + 1).clamp(1, SLOTS));
    eventually(SLOT_PATIENCE, "a place among the running testbeds", async || {
        let taken = (0..slots).find_map(|slot| {
            let name = SocketAddr::from_abstract_name(format!("muster-testbed-slot-{slot}")).ok()?;
            UnixListener::bind_addr(&name).ok()
        });
        taken.context("all places are taken")
    })
    .await
}
