//! One node: an agent as the parent of its nginx, on an address of its own, and its links to etcd and Envoy.

mod links;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::address::Addresses;
use crate::certificates::Certificates;
use crate::http::{self, Answer};
use crate::observe::List;
use crate::process::{Exit, Keeper, Process, lock};
use crate::programs::Programs;
use crate::proxy::Proxy;
use crate::tree;

/// Longest wait for an end that is not itself being measured: above the agent's own bound of a leave.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all nodes of a testbed have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    pub ttl: Duration,
    pub edge: SocketAddrV4,
    pub etcd_members: u8,
    /// Whether others reach a node's nginx and control port through links.
    pub linked: bool,
    /// `None`: everything in the clear.
    pub certificates: Option<Certificates>,
    /// Further arguments of `muster run`, before the command.
    pub extra: Vec<String>,
    /// Run in place of nginx.
    pub command: Vec<String>,
    /// Name and bytes of a file in each node's own content.
    pub site_file: Option<(String, usize)>,
    /// Envoys run under `muster edge`, with these arguments.
    pub supervised: Option<Vec<String>>,
    /// Run in place of muster by nodes of even numbers.
    pub every_second: Option<PathBuf>,
}

/// One node, numbered from 1: `node<n>` on 127.a.b.n.
#[derive(Debug)]
pub struct Node {
    pub number: u8,
    pub name: String,
    pub ip: Ipv4Addr,
    pub http: SocketAddrV4,
    pub control: SocketAddrV4,
    pub metrics: SocketAddrV4,
    /// The generated files.
    pub files: PathBuf,
    etcd_links: Vec<Proxy>,
    control_link: Proxy,
    /// nginx's port and the control port as others see them; none unless linked.
    peer_links: Vec<Proxy>,
    listen: Ipv4Addr,
    addresses: Addresses,
    settings: Settings,
    program: PathBuf,
    nginx: PathBuf,
    keeper: Arc<Keeper>,
    process: Mutex<Option<Process>>,
    paused: AtomicBool,
}

impl Node {
    /// Describes a node and opens its links; [`Node::start`] starts it.
    ///
    /// # Errors
    /// When a link's address cannot be listened on.
    pub async fn new(
        number: u8,
        addresses: Addresses,
        settings: Settings,
        programs: &Programs,
        keeper: &Arc<Keeper>,
    ) -> anyhow::Result<Self> {
        let ip = addresses.ip(number);
        let at = |port| SocketAddrV4::new(ip, port);
        let mut etcd_links = Vec::new();
        for member in 1..=settings.etcd_members {
            let listen = at(addresses.ports.etcd_proxy + u16::from(member));
            etcd_links.push(Proxy::start(listen, addresses.etcd_client(member)).await?);
        }
        let listen = if settings.linked { addresses.behind(number) } else { ip };
        let control = at(addresses.ports.control);
        let mut peer_links = Vec::new();
        for port in [addresses.ports.http, addresses.ports.control] {
            if settings.linked {
                peer_links.push(Proxy::start(at(port), SocketAddrV4::new(listen, port)).await?);
            }
        }
        let agent = SocketAddrV4::new(listen, addresses.ports.control);
        let name = format!("node{number}");
        let other = settings.every_second.as_ref().filter(|_| number.is_multiple_of(2));
        let program = other.unwrap_or(&programs.muster).clone();
        Ok(Self {
            number,
            ip,
            http: at(addresses.ports.http),
            control,
            metrics: SocketAddrV4::new(listen, addresses.ports.metrics),
            files: keeper.memory.join(&name).join("files"),
            name,
            etcd_links,
            control_link: Proxy::start(at(addresses.ports.control_proxy), agent).await?,
            peer_links,
            listen,
            addresses,
            settings,
            program,
            nginx: programs.nginx.clone(),
            keeper: Arc::clone(keeper),
            process: Mutex::new(None),
            paused: AtomicBool::new(false),
        })
    }

    /// Starts the agent with empty directories, as a new container would have them.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> anyhow::Result<()> {
        self.start_as(&self.name)
    }

    /// The same under another name: another container that was given this address.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_as(&self, name: &str) -> anyhow::Result<()> {
        let base = self.keeper.memory.join(&self.name);
        for directory in [&self.files, &base.join("run")] {
            if directory.exists() {
                std::fs::remove_dir_all(directory)?;
            }
            std::fs::create_dir_all(directory)?;
        }
        if let Some((name, bytes)) = &self.settings.site_file {
            std::fs::create_dir_all(self.site())?;
            std::fs::write(self.site().join(name), vec![b'.'; *bytes])?;
        }
        let env = [("RUST_BACKTRACE", "1")];
        let process = self.keeper.spawn(&self.name, &self.program, self.arguments(name), &env)?;
        *lock(&self.process) = Some(process);
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The directory of its own content.
    pub fn site(&self) -> PathBuf {
        self.keeper.memory.join(&self.name).join("site")
    }

    /// Asks the agent to leave (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// When it does not run, or has not ended after 30 s.
    pub async fn stop(&self) -> anyhow::Result<Exit> {
        self.agent()?.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Kills agent and nginx at once, as `docker kill` does.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&self) -> anyhow::Result<Exit> {
        self.agent()?.signal_tree(Signal::SIGKILL);
        self.ended().await
    }

    /// Waits for the agent's end.
    ///
    /// # Errors
    /// When it was not started, or still runs after 30 s.
    pub async fn ended(&self) -> anyhow::Result<Exit> {
        let process = self.agent()?;
        let exit = process.ended(PATIENCE).await.with_context(|| self.name.clone())?;
        *lock(&self.process) = None;
        Ok(exit)
    }

    /// Freezes agent and nginx, as `docker pause` does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.agent()?.signal_tree(Signal::SIGSTOP);
        self.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.agent()?.signal_tree(Signal::SIGCONT);
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a signal to the agent alone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_agent(&self, signal: Signal) -> anyhow::Result<()> {
        self.agent()?.signal(signal);
        Ok(())
    }

    /// Sends a signal to every process of nginx.
    ///
    /// # Errors
    /// When there is none.
    pub fn signal_nginx(&self, signal: Signal) -> anyhow::Result<()> {
        let nginx = self.nginx_pids()?;
        anyhow::ensure!(!nginx.is_empty(), "{} has no nginx", self.name);
        for pid in nginx {
            let _gone = kill(Pid::from_raw(pid), signal);
        }
        Ok(())
    }

    /// Process ids of nginx, the master first.
    ///
    /// # Errors
    /// When the agent does not run.
    pub fn nginx_pids(&self) -> anyhow::Result<Vec<i32>> {
        let mut pids = tree::descendants(self.agent()?.pid);
        pids.retain(|pid| tree::program_name(*pid).as_deref() == Some("nginx"));
        Ok(pids)
    }

    /// The agent's guard, which ends nginx when the agent is gone.
    ///
    /// # Errors
    /// When there is none.
    pub fn guard(&self) -> anyhow::Result<Pid> {
        let mut pids = tree::descendants(self.agent()?.pid).into_iter();
        let guard = pids.find(|pid| tree::program_name(*pid).as_deref() == Some("muster-guard"));
        guard.map(Pid::from_raw).with_context(|| format!("{} has no guard", self.name))
    }

    /// The agent's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn agent(&self) -> anyhow::Result<Process> {
        lock(&self.process).clone().with_context(|| format!("{} does not run", self.name))
    }

    /// Whether it was started and neither ended nor was paused.
    pub fn is_up(&self) -> bool {
        let process = lock(&self.process);
        process.as_ref().is_some_and(|process| process.exit().is_none())
            && !self.paused.load(Ordering::Relaxed)
    }

    /// The list as the node's nginx serves it.
    ///
    /// # Errors
    /// When it does not answer with a list.
    pub async fn list(&self) -> anyhow::Result<List> {
        let body = http::body(self.http, "/ips.json").await?;
        List::parse(body).with_context(|| self.name.clone())
    }

    /// The list as it is on disk, whether or not nginx runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn list_on_disk(&self) -> anyhow::Result<List> {
        List::parse(std::fs::read(self.files.join("ips.json"))?).with_context(|| self.name.clone())
    }

    /// Changes with each rewrite of `ips.json`.
    ///
    /// # Errors
    /// When there is none.
    pub fn list_inode(&self) -> std::io::Result<(u64, i64)> {
        let file = std::fs::metadata(self.files.join("ips.json"))?;
        Ok((file.ino(), file.mtime_nsec()))
    }

    /// A request to the node's nginx.
    ///
    /// # Errors
    /// When there was no answer within a second.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        http::get(self.http, path, Duration::from_secs(1)).await
    }

    /// The agent's metrics by name and labels, as printed.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        http::metrics(self.metrics).await
    }

    /// Everything the agent and its nginx have printed.
    ///
    /// # Errors
    /// When nothing was ever started.
    pub fn log(&self) -> anyhow::Result<String> {
        self.keeper.log(&self.name)
    }

    /// Lines of the agent's log with this message, as JSON, oldest first; nginx's own lines are left out.
    ///
    /// # Errors
    /// As [`Node::log`].
    pub fn said(&self, message: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        self.keeper.said(&self.name, message)
    }

    fn arguments(&self, name: &str) -> Vec<String> {
        let scheme = if self.settings.certificates.is_some() { "https" } else { "http" };
        let endpoint = |proxy: &Proxy| format!("{scheme}://{}", proxy.listen);
        let base = self.keeper.memory.join(&self.name);
        let ports = self.addresses.ports;
        let options = [
            ("--etcd", self.etcd_links.iter().map(endpoint).collect::<Vec<_>>().join(",")),
            ("--name", name.to_owned()),
            ("--ttl", self.settings.ttl.as_secs().to_string()),
            ("--advertise", self.ip.to_string()),
            ("--allow", "127.0.0.0/8".into()),
            ("--listen", self.listen.to_string()),
            ("--http-port", ports.http.to_string()),
            ("--control-port", ports.control.to_string()),
            ("--metrics-port", ports.metrics.to_string()),
            ("--edge", self.settings.edge.to_string()),
            ("--dir", self.files.display().to_string()),
            ("--site", base.join("site").display().to_string()),
            ("--run-dir", base.join("run").display().to_string()),
            ("--nginx", self.nginx.display().to_string()),
            ("--log-format", "json".into()),
        ];
        let mut args = vec!["run".to_owned()];
        args.extend(options.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        if let Some(certificates) = &self.settings.certificates {
            args.extend(["--tls-dir".to_owned(), certificates.of("agent").display().to_string()]);
        }
        args.extend(self.settings.extra.iter().cloned());
        if !self.settings.command.is_empty() {
            args.push("--".into());
            args.extend(self.settings.command.iter().cloned());
        }
        args
    }
}
