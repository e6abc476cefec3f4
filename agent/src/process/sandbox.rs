//! Which files a child process may open: a Landlock sandbox (<https://docs.kernel.org/userspace-api/landlock.html>).
//!
//! Rights belong to files and directories, not to paths: a link leads nowhere that the sandbox does not know, also when it
//! is replaced between the look at it and the opening. Only the file system is restricted; sockets and signals are as before.
//! What the sandbox holds cannot look into the agent's memory or its `/proc` either.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, make_bitflags,
};
use thiserror::Error;

/// The first version of Landlock (Linux 5.13) has all rights that are needed here. Those of later versions, for truncating
/// and for ioctls of devices, are about files that have been opened.
const VERSION: ABI = ABI::V1;

/// What is opened, and how. Paths that are not there are an error: they would be forbidden once they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Executed, which the kernel counts as reading too; nothing else is. Linked statically, or the sandbox has to hold its
    /// libraries.
    pub program: PathBuf,
    /// Files, and directories with all that is below them.
    pub read: Vec<PathBuf>,
    /// Directories in which files are made, written and removed as well.
    pub written: Vec<PathBuf>,
}

/// Rights that a child takes on before it is executed, for good and for all that it starts.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<OwnedFd>);

#[derive(Debug, Error)]
pub enum SandboxError {
    /// An old kernel, one that was built or started without Landlock, or a seccomp profile that does not know it.
    #[error("Landlock is not available: {0}")]
    Unavailable(#[from] RulesetError),
    #[error("Landlock is not available: the kernel has made no ruleset")]
    NoRuleset,
    #[error("cannot open {}: {source}", path.display())]
    Path { path: PathBuf, source: io::Error },
}

impl Sandbox {
    /// Standard output is writable in it by its name as well, whatever it is.
    ///
    /// # Errors
    /// When this kernel has no Landlock, or when a path cannot be opened.
    pub fn new(opened: &Opened) -> Result<Self, SandboxError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(VERSION))?
            .create()?;
        rules = allow(rules, &opened.program, make_bitflags!(AccessFs::{Execute | ReadFile}))?;
        for path in &opened.read {
            rules = allow(rules, path, make_bitflags!(AccessFs::{ReadFile | ReadDir}))?;
        }
        for path in &opened.written {
            rules = allow(rules, path, AccessFs::from_all(VERSION) & !make_bitflags!(AccessFs::{Execute}))?;
        }
        if named_by_the_file_system(&io::stdout()) {
            rules = rules.add_rule(PathBeneath::new(io::stdout(), AccessFs::WriteFile))?;
        }
        let rules: Option<OwnedFd> = rules.into();
        Ok(Self(Arc::new(rules.ok_or(SandboxError::NoRuleset)?)))
    }

    /// For `landlock_restrict_self` in the child. Closed by exec.
    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    let failed = |source| SandboxError::Path { path: path.to_owned(), source };
    let is_dir = path.metadata().map_err(failed)?.is_dir();
    // Rights that only directories have are refused for a file.
    let access = if is_dir { access } else { access & AccessFs::from_file(VERSION) };
    let opened = PathFd::new(path).map_err(|error| failed(io::Error::other(error)))?;
    Ok(rules.add_rule(PathBeneath::new(opened, access))?)
}

/// A pipe or a socket is not, and needs no rule.
fn named_by_the_file_system(output: &impl AsFd) -> bool {
    let Ok(copy) = output.as_fd().try_clone_to_owned() else { return false };
    File::from(copy).metadata().is_ok_and(|found| found.is_file() || found.file_type().is_char_device())
}
