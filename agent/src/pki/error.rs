//! [`Wrong`]: what can be wrong with certificates. Each sentence names the file, what is wrong, and what to do.

use std::path::PathBuf;

use thiserror::Error;

/// Paths are those that were opened, so that a person can look at them.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Wrong {
    #[error("{} is missing: make it with `muster pki init`, or name the directory that has it", path.display())]
    Missing { path: PathBuf },
    #[error("{} cannot be read: {why}; it must belong to the user that reads it", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{} cannot be written: {why}; it must belong to the user that writes it, or be written as root", path.display())]
    Unwritable { path: PathBuf, why: String },
    #[error("{} is no {expected} in PEM{}: restore it, or replace it with `muster pki renew`", path.display(), because(why))]
    Malformed { path: PathBuf, expected: &'static str, why: String },
    #[error("{} may be read by others than its owner (mode {mode:04o}): chmod 0600, or replace it with `muster pki renew`", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is not the key of the certificate beside it: restore the pair, or replace it with `muster pki renew`", path.display())]
    Mismatch { path: PathBuf },
    #[error("{} was not signed by {}: restore the one that belongs to it, or replace it with `muster pki renew`", path.display(), authority.display())]
    Stranger { path: PathBuf, authority: PathBuf },
    #[error("{} ended at {at}: replace it with `muster pki renew`", path.display())]
    Expired { path: PathBuf, at: String },
    #[error("{} begins at {at}: correct this machine's clock, or replace it with `muster pki renew`", path.display())]
    NotYetValid { path: PathBuf, at: String },
    #[error("{} is for {seen}, and {expected} is needed: the files of another service were mounted here", path.display())]
    PeerRole { path: PathBuf, seen: String, expected: String },
    #[error("{} ended at {at}: nothing it signed is worth anything; remove the directory and make all anew with `muster pki init`", path.display())]
    AuthorityExpired { path: PathBuf, at: String },
    #[error("{} was not signed by this fleet's authority, so its names are not taken over: say what the member is reached as by `--members NAME+OTHER`", path.display())]
    Unproven { path: PathBuf },
    #[error("{} is half there: {what}; {fix}", path.display())]
    Half { path: PathBuf, what: String, fix: &'static str },
    #[error("{name} is none of the services here; expected one of {known}")]
    Unknown { name: String, known: String },
    #[error("certificates cannot be made: {0}")]
    Issue(String),
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}
