//! Envoy sheds load by what its container uses of its memory limit, and does not start with such a bootstrap where the
//! kernel does not count that: another one takes its place there.

use std::ffi::OsString;
use std::path::Path;

/// Where a container sees what is counted for it.
pub const CGROUP: &str = "/sys/fs/cgroup";

/// What Envoy looks for: usage and limit, of cgroup v2 or of v1.
const COUNTERS: [[&str; 2]; 2] =
    [["memory.current", "memory.max"], ["memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes"]];

pub fn is_counted(cgroup: &Path) -> bool {
    COUNTERS.iter().any(|files| files.iter().all(|file| cgroup.join(file).exists()))
}

/// Envoy's arguments with another file in the place of the one that its `--config-path` names; `None` when it names none.
pub fn with_bootstrap(arguments: &[OsString], bootstrap: &Path) -> Option<Vec<OsString>> {
    let option = arguments.iter().position(|argument| argument == "--config-path" || argument == "-c")?;
    let mut changed = arguments.to_vec();
    *changed.get_mut(option + 1)? = bootstrap.into();
    Some(changed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn memory_is_counted_where_usage_and_limit_are_there() {
        for files in COUNTERS {
            let cgroup = tempfile::tempdir().unwrap();
            assert!(!is_counted(cgroup.path()));
            fs::create_dir(cgroup.path().join("memory")).unwrap();
            fs::write(cgroup.path().join(files[0]), "1").unwrap();
            assert!(!is_counted(cgroup.path()), "{} alone", files[0]);
            fs::write(cgroup.path().join(files[1]), "max").unwrap();
            assert!(is_counted(cgroup.path()), "{files:?}");
        }
    }

    #[test]
    fn only_the_file_that_config_path_names_is_another() {
        let arguments = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        let changed = |words: &str| with_bootstrap(&arguments(words), Path::new("/b"));
        let expected = Some(arguments("--config-path /b --service-node /a"));
        assert_eq!(changed("--config-path /a --service-node /a"), expected);
        assert_eq!(changed("-l info -c /a"), Some(arguments("-l info -c /b")));
        assert_eq!(changed("--config-yaml {}"), None);
        assert_eq!(changed("-l info --config-path"), None);
    }
}
