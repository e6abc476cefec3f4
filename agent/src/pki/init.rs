//! `muster pki init`: makes what is missing, and touches nothing that is there.

use std::path::Path;

use super::Wrong;
use super::authorities::{Authorities, headless};
use super::issue::Validity;
use super::plan::{AUTHORITY, CertificateSubject, Consumer};
use super::read::{contents, is_there};
use super::store::{Files, Store};

/// What was done for one service; neither where the authorities are kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub service: String,
    pub made: Vec<String>,
    /// Was there and is as it was.
    pub kept: Vec<String>,
}

/// Makes what is missing for these services, each valid for `days`.
///
/// # Errors
/// What is in the way; services before it in line may have been filled.
pub fn init(store: &Store, services: &[Consumer], days: u32, now: i64) -> Result<Vec<Done>, Wrong> {
    let _lock = store.lock()?;
    store.mend(AUTHORITY)?;
    for service in services {
        store.mend(service.name())?;
    }
    let names = ["etcd", "peer", "control"].map(String::from).to_vec();
    let (authorities, made, kept) = match Authorities::read(store, now)? {
        Some(authorities) => (Some(authorities), Vec::new(), names),
        // Those of a new authority would not get on with them.
        None if !store.services()?.is_empty() => (None, Vec::new(), Vec::new()),
        None => (Some(Authorities::make(store, now)?), names, Vec::new()),
    };
    let mut done = vec![Done { service: AUTHORITY.into(), made, kept }];
    for service in services {
        done.push(fill(store, authorities.as_ref(), service, Validity::days(now, days))?);
    }
    Ok(done)
}

fn fill(
    store: &Store,
    authorities: Option<&Authorities>,
    service: &Consumer,
    validity: Validity,
) -> Result<Done, Wrong> {
    let mut done = Done { service: service.name().to_owned(), made: Vec::new(), kept: Vec::new() };
    let mut files = Files::new();
    let there = store.current(service.name())?;
    let mut complete = true;
    // Only where something is missing: their keys may be kept elsewhere.
    let authorities = || {
        let missing = || format!("{} lacks certificates, and the authorities are gone", service.name());
        authorities.ok_or_else(|| headless(&store.dir.join(AUTHORITY), &missing()))
    };
    for identity in service.identities() {
        let kept = there.as_deref().map(|dir| keep(dir, &identity)).transpose()?.flatten();
        match kept {
            Some((kept, whole)) => {
                files.extend(kept);
                complete &= whole;
                done.kept.push(identity.file.into());
            }
            None => {
                files.extend(authorities()?.pair(&identity, validity)?);
                complete = false;
                done.made.push(identity.file.into());
            }
        }
        let ca = format!("{}-ca.crt", identity.file);
        if files.iter().all(|(name, _)| *name != ca) {
            files.push((ca, authorities()?.of(identity.authority).certificate.clone().into_bytes()));
        }
    }
    if !complete {
        store.swap(service.name(), &files)?;
    }
    Ok(done)
}

/// The files of a pair that is there, and whether its authority is beside it.
fn keep(dir: &Path, identity: &CertificateSubject) -> Result<Option<(Files, bool)>, Wrong> {
    let file = |ending: &str| format!("{}{ending}", identity.file);
    let names = [file(".crt"), file(".key"), file("-ca.crt")];
    match (is_there(&dir.join(&names[0]))?, is_there(&dir.join(&names[1]))?) {
        (false, false) => return Ok(None),
        (true, true) => {}
        (has_certificate, _) => {
            let lost = if has_certificate { &names[1] } else { &names[0] };
            return Err(Wrong::Half {
                path: dir.to_owned(),
                what: format!("{lost} is missing"),
                fix: "restore it, or replace the pair with `muster pki renew`",
            });
        }
    }
    let mut files = Files::new();
    let whole = is_there(&dir.join(&names[2]))?;
    for name in names.iter().take(if whole { 3 } else { 2 }) {
        files.push((name.clone(), contents(&dir.join(name))?));
    }
    Ok(Some((files, whole)))
}
