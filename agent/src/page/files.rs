//! [`Publisher`]: bytes into files that a reader sees whole or not at all.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempPath;
use thiserror::Error;
use tracing::{info, warn};

use super::render::ListFiles;
use crate::metrics::ListFile;
use crate::replace::{self, MODE, TEMPORARY};

/// Writes the generated files of one directory.
#[derive(Debug)]
pub struct Publisher {
    dir: PathBuf,
}

/// A file that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub file: ListFile,
    pub bytes: usize,
}

/// No file was replaced, or only those before `file` in the order of writing.
#[derive(Debug, Error)]
#[error("{}: {source}", .dir.join(.file.as_str()).display())]
pub struct PublishError {
    pub file: ListFile,
    dir: PathBuf,
    pub source: io::Error,
}

impl Publisher {
    /// Makes the directory if it is missing, and removes what a life that ended between write and rename left in it.
    ///
    /// # Errors
    /// The directory can neither be read nor made.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                continue;
            }
            let path = entry.path();
            match fs::remove_file(&path) {
                Ok(()) => info!(
                    name: "temporary-file-of-an-earlier-life-removed",
                    path = %path.display(),
                    "temporary file of an earlier life removed"
                ),
                Err(error) => {
                    warn!(
                        name: "temporary-file-of-an-earlier-life-stays",
                        path = %path.display(),
                        %error,
                        "temporary file of an earlier life stays"
                    )
                }
            }
        }
        Ok(Self { dir })
    }

    /// Replaces the files whose bytes differ from those on disk; the others keep their inode.
    ///
    /// All new files are written in full before the first is renamed, so a disk that fills up halfway leaves a list
    /// that is old but agrees with itself. Blocks on the file system.
    ///
    /// # Errors
    /// The old files stay as they were, and no temporary file is left.
    pub fn publish(&self, files: &ListFiles) -> Result<Vec<Written>, PublishError> {
        // The page last: a browser that has just reloaded it finds the files that it links to as new as the page.
        self.replace(&[
            (ListFile::IpsJson, &files.ips_json),
            (ListFile::IpsTxt, &files.ips_txt),
            (ListFile::SdJson, &files.sd_json),
            (ListFile::IpsHtml, &files.ips_html),
        ])
    }

    /// The same for any of the files, in this order.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn replace(&self, files: &[(ListFile, &[u8])]) -> Result<Vec<Written>, PublishError> {
        let failed = |file| move |source| PublishError { file, dir: self.dir.clone(), source };
        let mut written = Vec::new();
        let mut ready = Vec::new();
        for &(file, bytes) in files {
            let path = self.dir.join(file.as_str());
            if !holds(&path, bytes) {
                ready.push((file, path, self.write(bytes).map_err(failed(file))?));
                written.push(Written { file, bytes: bytes.len() });
            }
        }
        for (file, path, temporary) in ready {
            temporary.persist(path).map_err(|error| failed(file)(error.error))?;
        }
        if let Some(first) = written.first() {
            self.sync().map_err(failed(first.file))?;
        }
        Ok(written)
    }

    /// Replaces one file, whole as ever, without waiting for the disk: for what is written anew within a second.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn overwrite(&self, file: ListFile, bytes: &[u8]) -> Result<Vec<Written>, PublishError> {
        let replace = || {
            let temporary = self.temporary(bytes)?.into_temp_path();
            temporary.persist(self.dir.join(file.as_str())).map_err(|error| error.error)?;
            Ok(vec![Written { file, bytes: bytes.len() }])
        };
        replace().map_err(|source| PublishError { file, dir: self.dir.clone(), source })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<TempPath> {
        let file = self.temporary(bytes)?;
        file.as_file().sync_all()?;
        Ok(file.into_temp_path())
    }

    fn temporary(&self, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
        // The directory may have been removed under a running agent.
        fs::create_dir_all(&self.dir)?;
        replace::temporary(&self.dir, bytes)
    }

    /// The names too survive a power cut. Nothing on tmpfs.
    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.dir)?.sync_all()
    }
}

/// Whether a regular, readable file has these bytes. The disk is asked and not a memory of the last write: what
/// somebody deleted or changed is repaired at the next change.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    let same_shape = fs::symlink_metadata(path).is_ok_and(|found| {
        found.is_file() && found.len() == bytes.len() as u64 && found.permissions().mode() & 0o777 == MODE
    });
    same_shape && fs::read(path).is_ok_and(|found| found == bytes)
}
