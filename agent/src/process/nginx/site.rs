//! Own static content: whether there is any, and how links in it are held.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::{PrepareError, quoted};

/// Whether own content is there to be served: any file at any depth.
pub fn holds_a_file(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match fs::metadata(entry.path()) {
        // A link to a directory counts as something to serve, and is not followed into a loop.
        Ok(found) => found.is_file() || entry.path().is_symlink() || holds_a_file(&entry.path()),
        Err(_) => false,
    })
}

/// The directive by which nginx follows no link below the site. What is above is the operator's own.
pub(super) fn without_links(site: &Path) -> Result<String, PrepareError> {
    let mut from = OsString::from("from=");
    from.push(site);
    Ok(format!("disable_symlinks on {}", quoted(Path::new(&from))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_tree_is_no_site() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!holds_a_file(&dir.path().join("missing")));
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        assert!(!holds_a_file(dir.path()));
        fs::write(dir.path().join("a/b/index.html"), "hello").unwrap();
        assert!(holds_a_file(dir.path()));
    }
}
