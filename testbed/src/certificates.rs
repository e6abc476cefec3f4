//! A testbed's certificates, made by `muster pki` itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;

use crate::address::Addresses;
use crate::process::Keeper;
use crate::programs::Programs;

/// Nodes that reach etcd by its certificate: each does so at an address of its own.
pub const MAX_NODES: u8 = 20;

const PATIENCE: Duration = Duration::from_secs(20);

/// One directory a service, as containers have it.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Has all of them.
    pub dir: PathBuf,
    muster: PathBuf,
    keeper: Arc<Keeper>,
}

impl Certificates {
    /// Makes them for this many members of etcd.
    ///
    /// # Errors
    /// When they cannot be made.
    pub async fn make(
        members: u8,
        addresses: Addresses,
        programs: &Programs,
        keeper: &Arc<Keeper>,
    ) -> anyhow::Result<Self> {
        let dir = keeper.directory.join("pki");
        let own = Self { dir, muster: programs.muster.clone(), keeper: Arc::clone(keeper) };
        let member = |number: u8| {
            let mut names = vec![format!("etcd{number}"), addresses.etcd_client(number).ip().to_string()];
            // Whoever connects on 127.x comes from 127.0.0.1, and members look at where their peers come from.
            names.push("127.0.0.1".into());
            names.extend((1..=MAX_NODES).map(|node| addresses.ip(node).to_string()));
            names.join("+")
        };
        let members: Vec<String> = (1..=members).map(member).collect();
        own.muster_pki(&["init", "--days", "100", "--members", &members.join(",")]).await?;
        Ok(own)
    }

    /// The link to the newest files of a service.
    pub fn of(&self, service: &str) -> PathBuf {
        self.dir.join(service).join("current")
    }

    /// One of its files, for a flag.
    pub fn file(&self, service: &str, name: &str) -> String {
        self.of(service).join(name).display().to_string()
    }

    /// New certificates for everybody, good for 200 days.
    ///
    /// # Errors
    /// When they cannot be made.
    pub async fn renew(&self) -> anyhow::Result<()> {
        self.muster_pki(&["renew", "--days", "200"]).await
    }

    async fn muster_pki(&self, words: &[&str]) -> anyhow::Result<()> {
        let dir = self.dir.display().to_string();
        let args = ["pki"].iter().chain(words).copied().chain(["--dir", &dir]);
        let output = self.keeper.run(&self.muster, args, &[], None, PATIENCE).await?;
        ensure!(output.exit.code == Some(0), "muster pki {}: {}", words[0], output.stderr.trim());
        Ok(())
    }
}
