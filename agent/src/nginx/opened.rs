//! What nginx has to open, and so may.

use std::path::{Path, PathBuf};

use super::config::Nginx;
use crate::process::sandbox::Opened;

impl Nginx {
    /// All that nginx opens, when it is linked statically and does not run as root, who looks users up in /etc.
    ///
    /// The configuration and the generated files are among it: a link in the site can show them, and nothing in them is
    /// secret. Call it when [`Nginx::make_directories`] has made the directories.
    pub fn opens(&self) -> Opened {
        Opened {
            program: in_path(&self.program),
            read: [Some(self.dir.clone()), self.site.clone()].into_iter().flatten().collect(),
            written: vec![self.run_dir.clone()],
        }
    }
}

/// The program's file as exec finds it, or the name itself.
fn in_path(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        return program.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| program.to_owned())
}
