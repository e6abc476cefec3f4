//! Replacing a file whole: what is new stands beside it under a name of its own until it is complete.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// World-readable: nginx's workers may run as another user than the agent.
pub const MODE: u32 = 0o644;
/// How the names of temporary files begin: a dotfile, which nginx does not serve, and a name that a later life of the agent
/// may delete.
pub const TEMPORARY: &str = ".muster-";

/// A complete file in `dir`, readable whatever the umask, that [`NamedTempFile::persist`] gives its name; one that is
/// dropped before is removed.
///
/// # Errors
/// The directory or the disk does not take it.
pub fn temporary(dir: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
    file.write_all(bytes)?;
    // After creation and not by its mode argument, from which the umask would take away.
    file.as_file().set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_readable_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("healthz");
        temporary(dir.path(), b"ok").unwrap().persist(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(fs::read_to_string(path).unwrap(), "ok");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(temporary(dir.path(), b"ok").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
