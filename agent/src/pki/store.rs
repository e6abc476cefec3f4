//! Directories of certificates, each swapped as a whole: `<service>/current` is a link to the newest generation beside
//! it, and a reader that has resolved it reads one generation to the end.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;

use super::Wrong;
use super::plan::{AUTHORITY, CURRENT};

/// Where a generation is made, and a link, before they get their names.
const UNFINISHED: &str = ".unfinished";

/// A directory with one directory a service.
#[derive(Clone, Debug)]
pub struct Store {
    pub dir: PathBuf,
    /// Owner of the files; only root can give files away.
    pub owner: u32,
}

/// Name and content of a file. Keys are readable by their owner alone.
pub type Files = Vec<(String, Vec<u8>)>;

impl Store {
    /// No other process makes certificates here until it is dropped.
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

    /// Names of the services that have certificates, sorted.
    ///
    /// # Errors
    /// As [`Store::current`].
    pub fn services(&self) -> Result<Vec<String>, Wrong> {
        let unreadable =
            |error: io::Error| Wrong::Unreadable { path: self.dir.clone(), why: error.to_string() };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != AUTHORITY && entry.path().is_dir() && self.current(&name)?.is_some() {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes `files` what a service has, at once. The generation before stays for readers that still use it.
    ///
    /// # Errors
    /// [`Wrong::Unwritable`].
    pub fn swap(&self, service: &str, files: &Files) -> Result<(), Wrong> {
        let dir = self.dir.join(service);
        self.directory(&dir, 0o700)?;
        let before = current(&dir)?;
        self.write(&dir, before.as_deref(), files).map_err(|error| unwritable(&dir, &error))
    }

    /// Links the newest generation where none is linked, as after a crash between its last step but one and its last, or
    /// when somebody took the link away. A generation has its name only when it is whole.
    ///
    /// # Errors
    /// As [`Store::current`], and [`Wrong::Unwritable`].
    pub fn mend(&self, service: &str) -> Result<(), Wrong> {
        let dir = self.dir.join(service);
        if current(&dir)?.is_some() {
            return Ok(());
        }
        match generations(&dir) {
            Ok(found) => found.last().map_or(Ok(()), |last| link(&dir, *last)),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(|error| unwritable(&dir, &error))
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
            self.give(&file)?;
            file.sync_all()?;
        }
        let made = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&unfinished)?;
        self.give(&made)?;
        made.sync_all()?;
        let next = generations(dir)?.last().map_or(1, |last| last + 1);
        fs::rename(&unfinished, dir.join(generation(next)))?;
        // On the disk before the link, so that no loss of power leaves a link to nothing.
        File::open(dir)?.sync_all()?;
        link(dir, next)?;
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
                let made = DirBuilder::new().mode(mode).create(dir);
                // Another one may have been first: the lock is on a directory that is made before it.
                made.or_else(|error| if dir.is_dir() { Ok(()) } else { Err(error) })?;
            }
            self.give(&File::open(dir)?)
        };
        made().map_err(|error| unwritable(dir, &error))
    }

    /// By the open file and not by its name: the directory belongs to the new owner, which could put a link in its place.
    fn give(&self, file: &File) -> io::Result<()> {
        if geteuid().is_root() { fchown(file, Some(self.owner), Some(self.owner)) } else { Ok(()) }
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
        Err(error) if is_absent(&error) => Ok(None),
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

/// Makes a generation what `current` leads to, at once and on the disk.
fn link(dir: &Path, number: u64) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    remove(&unfinished)?;
    symlink(generation(number), &unfinished)?;
    fs::rename(&unfinished, dir.join(CURRENT))?;
    File::open(dir)?.sync_all()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
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
