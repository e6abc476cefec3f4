//! The three authorities as they are kept: `authority/current/<name>-ca.crt` and `.key`.

use std::path::Path;

use super::Wrong;
use super::issue::{Pem, Signer, Validity};
use super::plan::{AUTHORITY, Authority, CertificateSubject};
use super::read::{Pair, contents, is_there, moment};
use super::store::{Files, Store};

/// Ten years: to replace one, every service needs new files at the same time.
const DAYS: u32 = 3650;

/// All three, ready to sign.
pub struct Authorities([Signer; 3]);

impl Authorities {
    /// `None` where there are none.
    ///
    /// # Errors
    /// What is wrong with one of them; [`Wrong::Half`] when a part is missing.
    pub fn read(store: &Store, now: i64) -> Result<Option<Self>, Wrong> {
        let Some(dir) = store.current(AUTHORITY)? else { return Ok(None) };
        let [etcd, peer, control] = Authority::ALL;
        let read = |authority| signer(&dir, authority, now);
        Ok(Some(Self([read(etcd)?, read(peer)?, read(control)?])))
    }

    /// Makes and keeps new ones.
    ///
    /// # Errors
    /// [`Wrong::Issue`], [`Wrong::Unwritable`].
    pub fn make(store: &Store, now: i64) -> Result<Self, Wrong> {
        // Two fleets on one machine are told apart by what their certificates say.
        let tag = format!("{:08x}", fastrand::u32(..));
        let mut files = Files::new();
        for authority in Authority::ALL {
            let pem = Signer::make(authority, &tag, Validity::days(now, DAYS))?;
            files.push((format!("{}-ca.crt", authority.name()), pem.certificate.into_bytes()));
            files.push((format!("{}-ca.key", authority.name()), pem.key.into_bytes()));
        }
        store.swap(AUTHORITY, &files)?;
        Self::read(store, now)?.ok_or_else(|| Wrong::Issue("what was just made is not there".into()))
    }

    /// The files of a new pair, with the authority that the other side is judged by.
    ///
    /// # Errors
    /// [`Wrong::Issue`].
    pub fn pair(&self, identity: &CertificateSubject, validity: Validity) -> Result<Files, Wrong> {
        let signer = self.of(identity.authority);
        let pem = signer.sign(identity, validity)?;
        let file = |ending: &str, text: String| (format!("{}{ending}", identity.file), text.into_bytes());
        let authority = signer.certificate.clone();
        Ok(vec![file(".crt", pem.certificate), file(".key", pem.key), file("-ca.crt", authority)])
    }

    pub fn of(&self, authority: Authority) -> &Signer {
        &self.0[authority as usize]
    }
}

fn signer(dir: &Path, authority: Authority, now: i64) -> Result<Signer, Wrong> {
    let stem = format!("{}-ca", authority.name());
    let (certificate, key) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
    for path in [&certificate, &key] {
        if !is_there(path)? {
            return Err(headless(dir, &format!("{} is missing", path.display())));
        }
    }
    let pair = Pair::authority(dir, &stem)?;
    if pair.facts.to < now {
        return Err(Wrong::AuthorityExpired { path: certificate, at: moment(pair.facts.to) });
    }
    let text = |path: &Path| contents(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    let pem = Pem { certificate: text(&certificate)?, key: text(&key)? };
    Signer::read(&pem, pair.facts.to).map_err(|_| Wrong::Malformed {
        path: key,
        expected: "private key",
        why: String::new(),
    })
}

/// Nothing new can be signed that the services would accept.
pub fn headless(path: &Path, what: &str) -> Wrong {
    Wrong::Half {
        path: path.to_owned(),
        what: what.to_owned(),
        fix: "restore the authorities from a backup, or remove the whole directory, make all anew with \
              `muster pki init` and start every service again",
    }
}
