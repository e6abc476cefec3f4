//! Directories of certificates, each swapped as a whole: `<service>/current` is a link to the newest generation beside
//! it, and whoever has resolved it reads one generation to the end.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::Wrong;
use super::plan::AUTHORITY;

/// The link to the newest generation.
pub const CURRENT: &str = "current";
/// Where a generation is made, and a link, before they get their names.
const UNFINISHED: &str = ".unfinished";

/// A directory with one directory a service.
#[derive(Clone, Debug)]
pub struct Store {
    pub dir: PathBuf,
    /// Who gets what is made; only root can give it away.
    pub owner: u32,
}

/// Name and content of a file. Keys are readable by their owner alone.
pub type Files = Vec<(String, Vec<u8>)>;

impl Store {
    /// Nobody else makes certificates here until it is dropped.
    ///
    /// # Errors
    /// [`Wrong::Unwritable`].
    pub fn lock(&self) -> Result<Flock<File>, Wrong> {
        let dir = self.dir.join(AUTHORITY);
        self.directory(&dir, 0o700)?;
        let opened = File::open(&dir).map_err(|error| unwritable(&dir, &error))?;
        Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, errno)| unwritable(&dir, &io::Error::from(errno)))
    }

    /// Where the files of a service are now; `None` when there are none.
    ///
    /// # Errors
    /// [`Wrong::Unreadable`], [`Wrong::Half`].
    pub fn current(&self, service: &str) -> Result<Option<PathBuf>, Wrong> {
        current(&self.dir.join(service))
    }

    /// Makes `files` what a service has, at once. The generation before stays for whoever still reads it.
    ///
    /// # Errors
    /// [`Wrong::Unwritable`].
    pub fn swap(&self, service: &str, files: &Files) -> Result<(), Wrong> {
        let dir = self.dir.join(service);
        self.directory(&dir, 0o700)?;
        let before = current(&dir)?;
        self.write(&dir, before.as_deref(), files).map_err(|error| unwritable(&dir, &error))
    }

    fn write(&self, dir: &Path, before: Option<&Path>, files: &Files) -> io::Result<()> {
        let unfinished = dir.join(UNFINISHED);
        remove(&unfinished)?;
        DirBuilder::new().mode(0o700).create(&unfinished)?;
        for (name, content) in files {
            let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
            let path = unfinished.join(name);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(content)?;
            file.sync_all()?;
            self.give(&path)?;
        }
        self.give(&unfinished)?;
        File::open(&unfinished)?.sync_all()?;
        let next = generations(dir)?.last().map_or(1, |last| last + 1);
        fs::rename(&unfinished, dir.join(generation(next)))?;
        symlink(generation(next), &unfinished)?;
        fs::rename(&unfinished, dir.join(CURRENT))?;
        File::open(dir)?.sync_all()?;
        for old in generations(dir)?.into_iter().filter(|old| *old != next) {
            let old = dir.join(generation(old));
            if before.is_none_or(|before| before != old) {
                remove(&old)?;
            }
        }
        Ok(())
    }

    /// A directory of a service. One that is a volume is there, with the owner that the image gave it.
    fn directory(&self, dir: &Path, mode: u32) -> Result<(), Wrong> {
        let made = || -> io::Result<()> {
            if !dir.is_dir() {
                fs::create_dir_all(dir.parent().unwrap_or(dir))?;
                DirBuilder::new().mode(mode).create(dir)?;
            }
            self.give(dir)
        };
        made().map_err(|error| unwritable(dir, &error))
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        if geteuid().is_root() { chown(path, Some(self.owner), Some(self.owner)) } else { Ok(()) }
    }
}

/// The newest generation in the directory of one service, as a path without links.
///
/// # Errors
/// [`Wrong::Unreadable`]; [`Wrong::Half`] when the link leads nowhere.
pub fn current(dir: &Path) -> Result<Option<PathBuf>, Wrong> {
    let link = dir.join(CURRENT);
    match fs::read_link(&link) {
        Ok(to) if dir.join(&to).is_dir() => Ok(Some(dir.join(to))),
        Ok(to) => Err(Wrong::Half {
            path: dir.to_owned(),
            what: format!("{CURRENT} leads to {}, which is not there", to.display()),
            fix: "restore it, or remove the directory and run `muster pki init`",
        }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Wrong::Unreadable { path: link, why: error.to_string() }),
    }
}

/// Whether others than the owner may read a key.
pub fn is_exposed(mode: u32) -> bool {
    mode & 0o077 != 0
}

/// Permission bits.
pub fn mode(metadata: &fs::Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

fn generation(number: u64) -> String {
    format!("generation-{number}")
}

/// Numbers of the generations there are, the newest last.
fn generations(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("generation-"));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn remove(path: &Path) -> io::Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    gone.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn unwritable(path: &Path, error: &io::Error) -> Wrong {
    Wrong::Unwritable { path: path.to_owned(), why: error.to_string() }
}
