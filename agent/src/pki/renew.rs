//! `muster pki renew`: new keys and certificates from the same authorities.

use super::Wrong;
use super::authorities::{Authorities, headless};
use super::init::Done;
use super::issue::Validity;
use super::plan::{AUTHORITY, Consumer, Member};
use super::read::facts_of;
use super::store::{Files, Store};

/// Replaces what `services` have, each at once; all that have any when none is named. `members` says how members are
/// reached from now on; others keep the names that their certificates have.
///
/// # Errors
/// What is in the way; services before it in line have new certificates.
pub fn renew(
    store: &Store,
    services: &[String],
    members: &[Member],
    days: u32,
    now: i64,
) -> Result<Vec<Done>, Wrong> {
    let _lock = store.lock()?;
    let authorities = Authorities::read(store, now)?;
    let authorities = authorities.ok_or_else(|| {
        headless(&store.dir.join(AUTHORITY), "there are no authorities, so nothing can be signed")
    })?;
    let there = services_there(store)?;
    let unknown = services.iter().find(|name| !there.contains(name));
    if let Some(name) = unknown {
        return Err(Wrong::Unknown { name: name.clone(), known: there.join(", ") });
    }
    let mut done = Vec::new();
    for name in there.iter().filter(|name| services.is_empty() || services.contains(name)) {
        let service = consumer(store, name, members)?;
        let mut files = Files::new();
        for identity in service.identities() {
            files.extend(authorities.pair(&identity, Validity::days(now, days))?);
        }
        store.swap(name, &files)?;
        let made = service.identities().iter().map(|identity| identity.file.into()).collect();
        done.push(Done { service: name.clone(), made, kept: Vec::new() });
    }
    Ok(done)
}

/// Names of the services that have certificates, sorted.
///
/// # Errors
/// [`Wrong::Unreadable`], [`Wrong::Half`].
pub fn services_there(store: &Store) -> Result<Vec<String>, Wrong> {
    let unreadable =
        |error: std::io::Error| Wrong::Unreadable { path: store.dir.clone(), why: error.to_string() };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&store.dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != AUTHORITY && entry.path().is_dir() && store.current(&name)?.is_some() {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

fn consumer(store: &Store, name: &str, members: &[Member]) -> Result<Consumer, Wrong> {
    if let Some(other) = Consumer::OTHERS.into_iter().find(|other| other.name() == name) {
        return Ok(other);
    }
    if let Some(member) = members.iter().find(|member| member.name == name) {
        return Ok(Consumer::Member(member.clone()));
    }
    let dir = store.current(name)?.unwrap_or_else(|| store.dir.join(name));
    let facts = facts_of(&dir.join("peer.crt"))?;
    let further = facts.names.into_iter().filter(|other| other != name).collect();
    Ok(Consumer::Member(Member { name: name.to_owned(), further }))
}
