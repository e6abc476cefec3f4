//! `muster pki show`: every certificate, and how it stands.

use std::path::{Path, PathBuf};

use super::Wrong;
use super::plan::{AUTHORITY, CURRENT};
use super::read::{Facts, Pair, facts_of};
use super::store::current;

/// How one certificate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Good,
    /// It ends within the time asked about.
    Expiring,
    Wrong(Wrong),
}

/// One certificate.
#[derive(Clone, Debug)]
pub struct CertificateEntry {
    pub service: String,
    pub file: String,
    pub path: PathBuf,
    /// Empty where it cannot be read.
    pub facts: Facts,
    pub state: State,
}

impl CertificateEntry {
    /// Nothing can be said about it.
    pub fn is_unreadable(&self) -> bool {
        matches!(self.state, State::Wrong(Wrong::Unreadable { .. }))
    }
}

/// All certificates below `dir`, or in it when it is the directory of one service. `within` are seconds.
///
/// # Errors
/// [`Wrong::Missing`] where there are none, [`Wrong::Unreadable`].
pub fn show(dir: &Path, within: i64, now: i64) -> Result<Vec<CertificateEntry>, Wrong> {
    let mut entries = Vec::new();
    let alone = dir.join(CURRENT).symlink_metadata().is_ok();
    let services = if alone { vec![dir.to_owned()] } else { listed(dir)? };
    for path in services {
        let service = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let half = |state| CertificateEntry {
            service: service.clone(),
            file: CURRENT.into(),
            path: path.clone(),
            facts: Facts::default(),
            state,
        };
        match current(&path) {
            Ok(Some(found)) => entries.extend(of_service(&service, &found, within, now)?),
            Ok(None) => {}
            Err(wrong) => entries.push(half(State::Wrong(wrong))),
        }
    }
    if entries.is_empty() {
        Err(Wrong::Missing { path: dir.join(AUTHORITY).join(CURRENT) })
    } else {
        Ok(entries)
    }
}

fn of_service(service: &str, dir: &Path, within: i64, now: i64) -> Result<Vec<CertificateEntry>, Wrong> {
    let mut stems: Vec<String> = Vec::new();
    for path in listed(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".crt").or_else(|| name.strip_suffix(".key"));
        // What a service judges others by is the same file as the authority's own.
        let stem = stem.filter(|stem| service == AUTHORITY || !stem.ends_with("-ca"));
        if let Some(stem) = stem.map(str::to_owned)
            && !stems.contains(&stem)
        {
            stems.push(stem);
        }
    }
    let entry = |stem: &String| {
        let path = dir.join(format!("{stem}.crt"));
        let pair = if service == AUTHORITY { Pair::authority(dir, stem) } else { Pair::read(dir, stem) };
        let state = match pair.and_then(|pair| pair.in_time(now).map(|()| pair)) {
            Ok(pair) if pair.ends() <= now + within => State::Expiring,
            Ok(_) => State::Good,
            Err(wrong) => State::Wrong(wrong),
        };
        let facts = facts_of(&path).unwrap_or_default();
        CertificateEntry { service: service.to_owned(), file: stem.clone(), path, facts, state }
    };
    Ok(stems.iter().map(entry).collect())
}

/// What is in a directory, sorted.
fn listed(dir: &Path) -> Result<Vec<PathBuf>, Wrong> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Wrong::Missing { path: dir.to_owned() },
        _ => Wrong::Unreadable { path: dir.to_owned(), why: error.to_string() },
    };
    let entries = std::fs::read_dir(dir).map_err(unreadable)?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(unreadable)?;
    paths.sort();
    Ok(paths)
}
