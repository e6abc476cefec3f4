//! `muster pki init`: makes what is missing, and touches nothing that is there.

use std::path::Path;

use super::Wrong;
use super::authorities::{Authorities, headless};
use super::issue::Validity;
use super::plan::{AUTHORITY, Consumer, Identity};
use super::read::contents;
use super::store::{Files, Store};

/// What was done for one service.
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
    let found = Authorities::read(store, now)?;
    let kept = found.is_some();
    let authorities = match found {
        Some(authorities) => authorities,
        None => {
            refuse_orphans(store, services)?;
            Authorities::make(store, now)?
        }
    };
    let names = ["etcd", "peer", "control"].map(String::from).to_vec();
    let (made, kept) = if kept { (Vec::new(), names) } else { (names, Vec::new()) };
    let mut done = vec![Done { service: AUTHORITY.into(), made, kept }];
    for service in services {
        done.push(fill(store, &authorities, service, Validity::days(now, days))?);
    }
    Ok(done)
}

/// Certificates whose authority is gone would not get on with those of a new one.
fn refuse_orphans(store: &Store, services: &[Consumer]) -> Result<(), Wrong> {
    for service in services {
        if store.current(service.name())?.is_some() {
            let what = format!("{} has certificates, and their authorities are gone", service.name());
            return Err(headless(&store.dir.join(AUTHORITY), &what));
        }
    }
    Ok(())
}

fn fill(
    store: &Store,
    authorities: &Authorities,
    service: &Consumer,
    validity: Validity,
) -> Result<Done, Wrong> {
    let mut done = Done { service: service.name().to_owned(), made: Vec::new(), kept: Vec::new() };
    let mut files = Files::new();
    let there = store.current(service.name())?;
    let mut complete = true;
    for identity in service.identities() {
        let kept = there.as_deref().map(|dir| keep(dir, &identity)).transpose()?.flatten();
        match kept {
            Some((kept, whole)) => {
                files.extend(kept);
                complete &= whole;
                done.kept.push(identity.file.into());
            }
            None => {
                files.extend(authorities.pair(&identity, validity)?);
                complete = false;
                done.made.push(identity.file.into());
            }
        }
        let ca = format!("{}-ca.crt", identity.file);
        if files.iter().all(|(name, _)| *name != ca) {
            files.push((ca, authorities.of(identity.authority).certificate.clone().into_bytes()));
        }
    }
    if !complete {
        store.swap(service.name(), &files)?;
    }
    Ok(done)
}

/// The files of a pair that is there, and whether its authority is beside it.
fn keep(dir: &Path, identity: &Identity) -> Result<Option<(Files, bool)>, Wrong> {
    let file = |ending: &str| format!("{}{ending}", identity.file);
    let names = [file(".crt"), file(".key"), file("-ca.crt")];
    let is_there = |name: &String| dir.join(name).exists();
    match (is_there(&names[0]), is_there(&names[1])) {
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
    for name in names.iter().filter(|name| is_there(name)) {
        files.push((name.clone(), contents(&dir.join(name))?));
    }
    Ok(Some((files, is_there(&names[2]))))
}
