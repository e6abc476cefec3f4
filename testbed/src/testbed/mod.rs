//! [`Testbed`]: one fleet, from its first process to the last.

mod agreement;
mod builder;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::address::{Addresses, MAX_LINKED, MAX_NODES};
use crate::certificates::{self, Certificates};
use crate::envoy::Envoy;
use crate::etcd::{Etcd, Key};
use crate::node::{Node, Settings};
use crate::process::{Exit, Keeper, Output};
use crate::programs::Programs;
use crate::proxy::Link;

/// Longest wait for a fresh fleet to be complete.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Longest a command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(20);

pub use builder::Builder;

/// A fleet of plain processes on 127.a.b.0/24. Dropping it ends all of them.
#[derive(Debug)]
pub struct Testbed {
    pub etcd: Etcd,
    pub addresses: Addresses,
    nodes: Vec<Node>,
    envoys: Vec<Envoy>,
    settings: Settings,
    programs: Programs,
    keeper: Arc<Keeper>,
    failed: AtomicBool,
    _slot: Option<UnixListener>,
}

impl Testbed {
    /// 3 members of etcd, 3 nodes, 1 Envoy, TTL 2 s.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// All nodes that were ever started, in order of their numbers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Runs a command of muster's against all members of etcd.
    ///
    /// # Errors
    /// When it takes more than 20 s.
    pub async fn muster(&self, words: &[&str]) -> anyhow::Result<Output> {
        let endpoints: Vec<String> =
            self.etcd.members().map(|member| format!("http://{}", self.etcd.address(member))).collect();
        let registry = ["--etcd".to_owned(), endpoints.join(","), "--allow".into(), "127.0.0.0/8".into()];
        let (command, rest) = words.split_first().context("which command?")?;
        let args: Vec<String> = [(*command).to_owned()].into_iter().chain(registry).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(rest.iter().copied()).collect();
        self.plain_muster(&args).await
    }

    /// Runs a command that does not ask the registry.
    ///
    /// # Errors
    /// As [`Testbed::muster`].
    pub async fn plain_muster(&self, words: &[&str]) -> anyhow::Result<Output> {
        let args = words.iter().copied();
        self.keeper.run(&self.programs.muster, args, &[], None, COMMAND_PATIENCE).await
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// When there is no such node: a mistake in the test.
    pub fn node(&self, number: u8) -> &Node {
        &self.nodes[usize::from(number) - 1]
    }

    /// The first Envoy.
    ///
    /// # Panics
    /// When the testbed was built without.
    pub fn envoy(&self) -> &Envoy {
        &self.envoys[0]
    }

    pub fn envoys(&self) -> &[Envoy] {
        &self.envoys
    }

    /// # Panics
    /// When the testbed was built without TLS: a mistake in the test.
    pub fn certificates(&self) -> &Certificates {
        self.settings.certificates.as_ref().expect("built with tls()")
    }

    pub fn ttl(&self) -> Duration {
        self.settings.ttl
    }

    /// Process id of the keeper, the ancestor of everything here.
    pub fn keeper_pid(&self) -> u32 {
        self.keeper.pid()
    }

    /// Addresses of all nodes that run and are not paused, sorted: what a settled fleet lists.
    pub fn up(&self) -> Vec<Ipv4Addr> {
        let mut up: Vec<Ipv4Addr> =
            self.nodes.iter().filter(|node| node.is_up()).map(|node| node.ip).collect();
        up.sort_unstable();
        up
    }

    /// Starts one more node and returns its number.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn add_node(&mut self) -> anyhow::Result<u8> {
        let number = u8::try_from(self.nodes.len() + 1)?;
        let room = if self.settings.linked { MAX_LINKED } else { MAX_NODES };
        let room = if self.settings.certificates.is_some() { certificates::MAX_NODES } else { room };
        ensure!(number <= room, "this testbed has room for {room} nodes");
        let node =
            Node::new(number, self.addresses, self.settings.clone(), &self.programs, &self.keeper).await?;
        self.nodes.push(node);
        self.start_node(number)?;
        Ok(number)
    }

    /// Starts a node that has ended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_node(&self, number: u8) -> anyhow::Result<()> {
        self.node(number).start()?;
        self.tell_envoys()
    }

    /// Changes the links between two nodes, both ways; neither loses etcd or Envoy.
    ///
    /// # Errors
    /// As [`Node::link_from`].
    pub fn link_between(&self, one: u8, other: u8, link: Link) -> anyhow::Result<()> {
        let (one, other) = (self.node(one), self.node(other));
        one.link_from(other, link)?;
        other.link_from(one, link)
    }

    /// Asks a node to leave and waits for its end.
    ///
    /// # Errors
    /// As [`Node::stop`].
    pub async fn stop_node(&self, number: u8) -> anyhow::Result<Exit> {
        let exit = self.node(number).stop().await?;
        self.tell_envoys()?;
        Ok(exit)
    }

    /// Kills a node, agent and nginx at once.
    ///
    /// # Errors
    /// As [`Node::kill`].
    pub async fn kill_node(&self, number: u8) -> anyhow::Result<Exit> {
        let exit = self.node(number).kill().await?;
        self.tell_envoys()?;
        Ok(exit)
    }

    /// Number of the node whose candidate key is the lowest.
    ///
    /// # Errors
    /// As [`Testbed::line`]; when there is none.
    pub async fn leader(&self) -> anyhow::Result<u8> {
        self.line().await?.first().copied().context("no candidate")
    }

    /// Numbers of all candidates, the leader first, then in the order in which they would follow.
    ///
    /// # Errors
    /// When one is no node of this testbed.
    pub async fn line(&self) -> anyhow::Result<Vec<u8>> {
        let mut candidates = self.etcd.get_prefix("/muster/leader/").await?.keys;
        candidates.retain(|key| key.lease != 0 && key.key == format!("/muster/leader/{:x}", key.lease));
        candidates.sort_by_key(|key| (key.create_revision, key.key.clone()));
        let number = |key: Key| -> anyhow::Result<u8> {
            let value: serde_json::Value = serde_json::from_slice(&key.value)?;
            let control: SocketAddrV4 = value["control"].as_str().context("no control address")?.parse()?;
            let node = self.nodes.iter().find(|node| node.control == control);
            Ok(node.with_context(|| format!("no node at {control}"))?.number)
        };
        candidates.into_iter().map(number).collect()
    }

    /// The key a node is registered by.
    ///
    /// # Errors
    /// When it is not registered.
    pub async fn node_key(&self, number: u8) -> anyhow::Result<Key> {
        let prefix = format!("/muster/nodes/{}-", self.node(number).name);
        let keys = self.etcd.get_prefix(&prefix).await?.keys;
        keys.into_iter().next().with_context(|| format!("nothing under {prefix}"))
    }

    /// A node that runs and does not lead.
    ///
    /// # Errors
    /// When there is none.
    pub async fn follower(&self) -> anyhow::Result<u8> {
        let leader = self.leader().await?;
        let follower = self.nodes.iter().find(|node| node.is_up() && node.number != leader);
        Ok(follower.context("no follower")?.number)
    }

    /// Leaves the directory behind and prints where it is, with the end of each log.
    pub fn keep_logs(&self) {
        if self.failed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.keeper.keep_directory();
        let mut text = format!("\ntestbed: the logs are kept in {}\n", self.keeper.directory.display());
        let logs = self.keeper.logs().and_then(std::fs::read_dir).into_iter().flatten().flatten();
        let mut logs: Vec<_> = logs.map(|entry| entry.path()).collect();
        logs.sort();
        for log in logs {
            let all = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = all.lines().collect();
            let last = &lines[lines.len().saturating_sub(12)..];
            text.push_str(&format!("--- {}\n{}\n", log.display(), last.join("\n")));
        }
        // One write, so that two tests that fail at once stay apart; a closed stderr is nobody's failure.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }

    async fn start_parts(&mut self, nodes: u8, envoys: u8) -> anyhow::Result<()> {
        self.etcd.start_all()?;
        for number in 1..=envoys {
            let edge = self.settings.edge;
            let envoy = Envoy::new(number, edge, self.addresses, &self.programs, &self.keeper);
            let envoy = envoy.secured(self.settings.certificates.clone());
            let envoy = match &self.settings.supervised {
                Some(args) => envoy.supervised(&self.programs, self.addresses.ports.metrics, args),
                None => envoy,
            };
            envoy.start()?;
            self.envoys.push(envoy);
        }
        for _ in 0..nodes {
            self.add_node().await?;
        }
        self.etcd.healthy(START_PATIENCE).await
    }

    fn tell_envoys(&self) -> anyhow::Result<()> {
        // A paused node stays: nobody but Envoy itself notices that it is silent.
        let there = self.nodes.iter().filter(|node| node.agent().is_ok());
        let controls: Vec<SocketAddrV4> = there.map(Node::control_for_envoy).collect();
        self.envoys.iter().try_for_each(|envoy| envoy.set_agents(&controls))
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
        self.keeper.end();
    }
}
