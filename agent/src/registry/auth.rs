//! Users and roles in etcd: a user is known by the name in its certificate and has no password.
//!
//! The range of a role is the prefix itself and not the prefix with a slash: otherwise `etcdctl get --prefix /muster`,
//! as everybody types it, asks for more than the role has and is refused.

use etcd_client::{AuthClient, Error, Permission, PermissionType, UserAddOptions};

use super::client::{CallError, Etcd};
use crate::metrics::Op;

/// etcd's own all-powerful user and role.
const ROOT: &str = "root";
/// Calls around all members before one counts as unanswered.
const LAPS: usize = 2;

/// Gives agents and operators what they need under `prefix`, and turns authentication on. Whether anything was missing.
/// Safe to repeat; Envoy has no user, and no certificate that etcd accepts.
///
/// # Errors
/// As [`Etcd::call`]; refused when it is on and the certificate shown is not root's.
pub async fn set_up(etcd: &Etcd, prefix: &str) -> Result<bool, CallError> {
    let mut changed = user(etcd, ROOT, &[]).await?;
    for (name, permissions) in grants(prefix) {
        changed |= user(etcd, name, &permissions).await?;
    }
    // Says nothing when it is on already.
    call(etcd, |mut auth| async move { auth.auth_enable().await }).await?;
    Ok(changed)
}

/// Roles by the name of their only user.
fn grants(prefix: &str) -> [(&'static str, Vec<Permission>); 2] {
    let below = |name: &str| all(PermissionType::Write, &format!("{prefix}/{name}/"));
    [
        ("agent", vec![all(PermissionType::Readwrite, prefix)]),
        // Takes nodes out by hand, and moves the leadership.
        ("operator", vec![all(PermissionType::Read, prefix), below("marks"), below("leader")]),
    ]
}

/// On every key that begins like this. The client's own `with_prefix` says where the range ends only on the wire, so that
/// what is wanted could not be compared with what is there.
fn all(what: PermissionType, begins: &str) -> Permission {
    let mut end = begins.as_bytes().to_vec();
    // A prefix ends in a letter, a digit or a slash: there is a next byte.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Permission::new(what, begins).with_range_end(end)
}

/// A role with these permissions, and the user of the same name in it.
async fn user(etcd: &Etcd, name: &'static str, permissions: &[Permission]) -> Result<bool, CallError> {
    let mut changed = false;
    let roles = call(etcd, |mut auth| async move { auth.role_list().await }).await?;
    if !roles.roles().iter().any(|role| role == name) {
        changed |= add(call(etcd, |mut auth| async move { auth.role_add(name).await }).await)?;
    }
    if !permissions.is_empty() {
        let role = call(etcd, |mut auth| async move { auth.role_get(name).await }).await?;
        let has: Vec<_> = role.permissions().iter().map(facts).collect();
        for permission in permissions.iter().filter(|wanted| !has.contains(&facts(wanted))) {
            let grant = |mut auth: AuthClient| {
                let permission = permission.clone();
                async move { auth.role_grant_permission(name, permission).await }
            };
            call(etcd, grant).await?;
            changed = true;
        }
    }
    let users = call(etcd, |mut auth| async move { auth.user_list().await }).await?;
    if !users.users().iter().any(|user| user == name) {
        let no_password = || Some(UserAddOptions::new().with_no_pwd());
        let added = call(etcd, |mut auth| async move { auth.user_add(name, "", no_password()).await });
        changed |= add(added.await)?;
    }
    let known = call(etcd, |mut auth| async move { auth.user_get(name).await }).await?;
    if !known.roles().iter().any(|role| role == name) {
        call(etcd, |mut auth| async move { auth.user_grant_role(name, name).await }).await?;
        changed = true;
    }
    Ok(changed)
}

/// What makes a permission the same.
fn facts(permission: &Permission) -> (i32, Vec<u8>, Vec<u8>) {
    (permission.get_type(), permission.key().to_vec(), permission.range_end().to_vec())
}

/// Another process, or a call whose answer was lost, may have been first.
fn add<T>(outcome: Result<T, CallError>) -> Result<bool, CallError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(CallError::Refused { message, .. }) if message.contains("already exists") => Ok(false),
        Err(error) => Err(error),
    }
}

async fn call<T, F>(etcd: &Etcd, call: impl Fn(AuthClient) -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, Error>>,
{
    etcd.call(Op::Auth, LAPS, |client| call(client.auth_client())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_begins_at_the_prefix_itself() {
        let [(_, agent), (_, operator)] = grants("/muster");
        assert_eq!((agent[0].key(), agent[0].range_end()), (&b"/muster"[..], &b"/mustes"[..]));
        assert_eq!(
            (operator[1].key(), operator[1].range_end()),
            (&b"/muster/marks/"[..], &b"/muster/marks0"[..])
        );
        assert!(operator.iter().all(|permission| permission.get_type() != PermissionType::Readwrite as i32));
    }
}
