//! `muster pki renew`: new keys and certificates from the same authorities.

use super::Wrong;
use super::authorities::{Authorities, headless};
use super::init::Done;
use super::issue::Validity;
use super::plan::{AUTHORITY, Authority, Consumer, Member};
use super::read::{facts_of, is_signed_by};
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
    let there = store.services()?;
    let unknown = services.iter().find(|name| !there.contains(name));
    if let Some(name) = unknown {
        return Err(Wrong::Unknown { name: name.clone(), known: there.join(", ") });
    }
    let mut done = Vec::new();
    for name in there.iter().filter(|name| services.is_empty() || services.contains(name)) {
        let service = consumer(store, &authorities, name, members)?;
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

fn consumer(
    store: &Store,
    authorities: &Authorities,
    name: &str,
    members: &[Member],
) -> Result<Consumer, Wrong> {
    if let Some(other) = Consumer::OTHERS.into_iter().find(|other| other.name() == name) {
        return Ok(other);
    }
    if let Some(member) = members.iter().find(|member| member.name == name) {
        return Ok(Consumer::Member(member.clone()));
    }
    let dir = store.current(name)?.unwrap_or_else(|| store.dir.join(name));
    // The directory is the member's own: names that no authority has signed may be anybody's.
    let peer = dir.join("peer.crt");
    if !is_signed_by(&peer, &authorities.of(Authority::Peer).certificate)? {
        return Err(Wrong::Unproven { path: peer });
    }
    let facts = facts_of(&peer)?;
    let further = facts.names.into_iter().filter(|other| other != name).collect();
    Ok(Consumer::Member(Member { name: name.to_owned(), further }))
}
