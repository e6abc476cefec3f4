//! The directory of own content while the node runs: what became of it that nginx does not serve.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::nginx::holds_a_file;

/// Between two looks. An operator who has just replaced a site looks at it, and then at the log.
const EVERY: Duration = Duration::from_secs(5);
/// Most files of which it is asked whether they may be read; a site may hold anything.
const MAX_ASKED: usize = 1_000;
const MAX_DEPTH: usize = 8;

/// The directory as it was when nginx was configured.
#[derive(Clone, Debug)]
pub struct Site {
    dir: PathBuf,
    /// Which directory it was: device and inode.
    identity: Option<(u64, u64)>,
    /// Whether nginx serves it.
    served: bool,
}

impl Site {
    /// `served`: whether nginx was configured to serve it.
    pub fn as_found(dir: &Path, served: bool) -> Self {
        let identity = fs::metadata(dir).ok().map(|found| (found.dev(), found.ino()));
        Self { dir: dir.to_owned(), identity, served }
    }

    /// Why what is there now is not what people get; `None` while it is.
    pub fn trouble(&self) -> Option<String> {
        let dir = self.dir.display();
        let again = "start this node again to serve what is there now";
        match fs::metadata(&self.dir) {
            // A mounted directory that was removed outside lives on without a name.
            Ok(now) if self.served && (now.nlink() == 0 || Some((now.dev(), now.ino())) != self.identity) => {
                Some(format!("{dir} was replaced or removed: {again}"))
            }
            Err(_) if self.served => Some(format!("{dir} was removed: {again}")),
            Err(_) => None,
            Ok(_) => match unreadable(&self.dir, MAX_DEPTH, &mut 0) {
                Some(path) => {
                    Some(format!("{} may not be read by nginx: see its mode and its owner", path.display()))
                }
                None if !self.served && holds_a_file(&self.dir) => {
                    Some(format!("{dir} was empty when nginx was started: {again}"))
                }
                None => None,
            },
        }
    }
}

/// The first file or directory that this process may not read, and so nginx neither, which runs as the same user.
fn unreadable(path: &Path, depth: usize, asked: &mut usize) -> Option<PathBuf> {
    *asked += 1;
    if *asked > MAX_ASKED {
        return None;
    }
    let needed = if path.is_dir() { AccessFlags::R_OK | AccessFlags::X_OK } else { AccessFlags::R_OK };
    // A link that leads nowhere is no file; one that leads out of the site is refused by intent.
    if path.exists() && access(path, needed).is_err() {
        return Some(path.to_owned());
    }
    let entries = fs::read_dir(path).ok().filter(|_| depth > 0 && !path.is_symlink())?;
    entries
        .flatten()
        .filter(|entry| !hidden(entry))
        .find_map(|entry| unreadable(&entry.path(), depth - 1, asked))
}

/// Dotfiles are not served, so they may be unreadable.
fn hidden(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    name.as_encoded_bytes().starts_with(b".") && name != ".well-known"
}

/// Looks again and again, tells the log of each change, and leaves the last word in `said`. Never returns; ends when
/// dropped.
pub async fn watch_site(site: Site, said: watch::Sender<Option<String>>) {
    loop {
        let looked = site.clone();
        let trouble = spawn_blocking(move || looked.trouble()).await.ok().flatten();
        if *said.borrow() != trouble {
            match &trouble {
                Some(why) => warn!(
                    name: "the-site-is-not-served-as-it-is",
                    why,
                    "the site is not served as it is"
                ),
                None => info!(name: "the-site-is-served-as-it-is-again", "the site is served as it is again"),
            }
            said.send_replace(trouble);
        }
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> (tempfile::TempDir, PathBuf) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("public");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/index.html"), "v1").unwrap();
        (tmp, dir)
    }

    fn said(site: &Site) -> String {
        site.trouble().unwrap_or_default()
    }

    #[test]
    fn changed_files_are_no_trouble() {
        let (_tmp, dir) = site();
        let site = Site::as_found(&dir, true);
        fs::write(dir.join("sub/index.html"), "v2").unwrap();
        fs::write(dir.join("new.html"), "new").unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.join("broken")).unwrap();
        assert_eq!(site.trouble(), None);
    }

    #[test]
    fn a_directory_that_was_replaced_or_removed_is_said() {
        let (tmp, dir) = site();
        let site = Site::as_found(&dir, true);
        fs::rename(&dir, tmp.path().join("old")).unwrap();
        assert!(said(&site).contains("was removed"), "{site:?}");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("index.html"), "v2").unwrap();
        assert!(said(&site).contains("replaced"), "{site:?}");
    }

    #[test]
    fn what_was_empty_at_the_start_is_said_once_it_holds_something() {
        let tmp = tempfile::tempdir().unwrap();
        let (there, missing) =
            (Site::as_found(tmp.path(), false), Site::as_found(&tmp.path().join("later"), false));
        assert_eq!((there.trouble(), missing.trouble()), (None, None));
        fs::create_dir(tmp.path().join("later")).unwrap();
        fs::write(tmp.path().join("later/index.html"), "v1").unwrap();
        assert!(said(&there).contains("was empty"));
        assert!(said(&missing).contains("was empty"));
    }
}
