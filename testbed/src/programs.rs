//! Where the real programs are found.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The programs a testbed runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This crate's own program, which starts all others.
    pub testbed: PathBuf,
    pub muster: PathBuf,
    pub etcd: PathBuf,
    pub etcdctl: PathBuf,
    pub envoy: PathBuf,
    pub nginx: PathBuf,
}

impl Programs {
    /// `MUSTER_BIN` and `MUSTER_PARTS`, else what cargo built beside this program and `.cache/parts/bin` of the
    /// checkout it was built in.
    ///
    /// # Errors
    /// What is missing, with the command that makes it.
    pub fn find() -> anyhow::Result<Self> {
        let own = env::current_exe().context("asking for the own program")?;
        let parts = parts(&own)?;
        let part = |name: &str| {
            let path = parts.join(name);
            if path.is_file() {
                return Ok(path);
            }
            bail!("no {name} in {}: run `images/parts.sh etcd envoy nginx`", parts.display())
        };
        Ok(Self {
            testbed: built(&own, "testbed", None)?,
            muster: built(&own, "muster", env::var_os("MUSTER_BIN").map(PathBuf::from))?,
            etcd: part("etcd")?,
            etcdctl: part("etcdctl")?,
            envoy: part("envoy")?,
            nginx: part("nginx")?,
        })
    }
}

/// A program of this workspace: beside the running one, in the folder above it (tests run in `deps`), or in the other
/// profile's.
fn built(own: &Path, name: &str, named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        if path.is_file() {
            return Ok(path);
        }
        bail!("MUSTER_BIN names {}, which is no file", path.display());
    }
    let folder = own.parent().context("the own program is in no folder")?;
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let target = profile.parent().unwrap_or(profile);
    [profile.to_owned(), target.join("debug"), target.join("release")]
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} in {}: run `cargo build -p {name}`", profile.display()))
}

fn parts(own: &Path) -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("MUSTER_PARTS") {
        return Ok(named.into());
    }
    let current = env::current_dir().unwrap_or_default();
    own.ancestors()
        .chain(current.ancestors())
        .map(|folder| folder.join(".cache/parts/bin"))
        .find(|folder| folder.is_dir())
        .context("no .cache/parts/bin in the checkout: run `images/parts.sh etcd envoy nginx`")
}
