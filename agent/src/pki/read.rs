//! Reading certificates and keys, and judging them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::Wrong;
use super::store::{is_exposed, mode};

/// Longest file read: a chain has a few KB.
const MAX_BYTES: u64 = 1 << 20;

/// A certificate with its key and the authorities the other side is judged by. It belongs together; whether its time
/// has come is another question ([`Pair::in_time`]).
#[derive(Debug)]
pub struct Pair {
    pub certificate: PathBuf,
    pub authority: PathBuf,
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub roots: Vec<CertificateDer<'static>>,
    pub facts: Facts,
    /// When the last of the authorities ends, in seconds since 1970.
    pub roots_end: i64,
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub common_name: String,
    /// DNS names and addresses.
    pub names: Vec<String>,
    pub issuer: String,
    /// Seconds since 1970, both included.
    pub from: i64,
    pub to: i64,
    pub client: bool,
    pub server: bool,
}

impl Pair {
    /// Reads `<file>.crt`, `<file>.key` and `<file>-ca.crt`.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn read(dir: &Path, file: &str) -> Result<Self, Wrong> {
        Self::judged_by(dir, file, dir.join(format!("{file}-ca.crt")))
    }

    /// Reads `<file>.crt` and `<file>.key` of an authority, which signed itself.
    ///
    /// # Errors
    /// As [`Pair::read`].
    pub fn authority(dir: &Path, file: &str) -> Result<Self, Wrong> {
        Self::judged_by(dir, file, dir.join(format!("{file}.crt")))
    }

    fn judged_by(dir: &Path, file: &str, authority: PathBuf) -> Result<Self, Wrong> {
        let certificate = dir.join(format!("{file}.crt"));
        let chain = certificates(&certificate)?;
        let roots = certificates(&authority)?;
        let key_path = dir.join(format!("{file}.key"));
        let key = key(&key_path)?;
        let leaf = parse(&chain[0], &certificate)?;
        if !belongs(&key, &leaf, &key_path)? {
            return Err(Wrong::Mismatch { path: key_path });
        }
        let facts = facts(&leaf);
        let mut anchors = Vec::new();
        for root in &roots {
            anchors.push(parse(root, &authority)?);
        }
        let links: Result<Vec<_>, Wrong> = chain.iter().map(|one| parse(one, &certificate)).collect();
        if !leads_to(&links?, &anchors) {
            return Err(Wrong::Stranger { path: certificate, authority });
        }
        let roots_end = anchors.iter().map(|root| root.validity().not_after.timestamp()).max().unwrap_or(0);
        Ok(Self { certificate, authority, chain, key, roots, facts, roots_end })
    }

    /// # Errors
    /// [`Wrong::Expired`], [`Wrong::NotYetValid`], [`Wrong::AuthorityExpired`].
    pub fn in_time(&self, now: i64) -> Result<(), Wrong> {
        let path = self.certificate.clone();
        if self.roots_end < now {
            return Err(Wrong::AuthorityExpired { path: self.authority.clone(), at: moment(self.roots_end) });
        }
        if self.facts.to < now {
            return Err(Wrong::Expired { path, at: moment(self.facts.to) });
        }
        if self.facts.from > now {
            return Err(Wrong::NotYetValid { path, at: moment(self.facts.from) });
        }
        Ok(())
    }

    /// When the first of them ends.
    pub fn ends(&self) -> i64 {
        self.facts.to.min(self.roots_end)
    }
}

/// All certificates of a PEM file, at least one.
///
/// # Errors
/// [`Wrong::Missing`], [`Wrong::Unreadable`], [`Wrong::Malformed`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let text = contents(path)?;
    let malformed = |why: String| Wrong::Malformed { path: path.to_owned(), expected: "certificate", why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| malformed(error.to_string()))?;
    if found.is_empty() { Err(malformed(String::new())) } else { Ok(found) }
}

/// What the first certificate of a file says.
///
/// # Errors
/// As [`certificates`].
pub fn facts_of(path: &Path) -> Result<Facts, Wrong> {
    let found = certificates(path)?;
    Ok(facts(&parse(&found[0], path)?))
}

/// Whether the first certificate of a file was signed by this authority, given in PEM.
///
/// # Errors
/// As [`certificates`].
pub fn is_signed_by(path: &Path, authority: &str) -> Result<bool, Wrong> {
    let found = certificates(path)?;
    let leaf = parse(&found[0], path)?;
    let Ok(der) = CertificateDer::from_pem_slice(authority.as_bytes()) else { return Ok(false) };
    Ok(leads_to(&[leaf], &[parse(&der, path)?]))
}

/// # Errors
/// As [`certificates`], and [`Wrong::Exposed`].
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Wrong> {
    let (text, mode) = contents_and_mode(path)?;
    if is_exposed(mode) {
        return Err(Wrong::Exposed { path: path.to_owned(), mode });
    }
    // What a parser says of a key stays out of errors and logs.
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| not_a_key(path))
}

/// A whole file.
///
/// # Errors
/// [`Wrong::Missing`], [`Wrong::Unreadable`].
pub fn contents(path: &Path) -> Result<Vec<u8>, Wrong> {
    contents_and_mode(path).map(|(text, _)| text)
}

/// Of one and the same file, whatever becomes of the name meanwhile.
fn contents_and_mode(path: &Path) -> Result<(Vec<u8>, u32), Wrong> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| {
        let mode = mode(&file.metadata()?);
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map(|_| mode)
    });
    match read {
        Ok(_) if text.len() as u64 > MAX_BYTES => {
            Err(Wrong::Unreadable { path: path.to_owned(), why: format!("longer than {MAX_BYTES} bytes") })
        }
        Ok(mode) => Ok((text, mode)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Wrong::Missing { path: path.to_owned() }),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Whether there is a file; one that cannot be looked at is not taken for one that is missing.
///
/// # Errors
/// [`Wrong::Unreadable`].
pub fn is_there(path: &Path) -> Result<bool, Wrong> {
    path.try_exists().map_err(|error| unreadable(path, &error))
}

/// For people: RFC 3339.
pub fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds}"), |at| at.to_string())
}

/// What a certificate says that a peer has presented.
pub fn shown_facts(certificate: &CertificateDer<'_>) -> Facts {
    X509Certificate::from_der(certificate).map(|(_, parsed)| facts(&parsed)).unwrap_or_default()
}

fn parse<'a>(der: &'a CertificateDer<'_>, path: &Path) -> Result<X509Certificate<'a>, Wrong> {
    let parsed = X509Certificate::from_der(der).map(|(_, parsed)| parsed);
    parsed.map_err(|error| Wrong::Malformed {
        path: path.to_owned(),
        expected: "certificate",
        why: error.to_string(),
    })
}

fn facts(certificate: &X509Certificate<'_>) -> Facts {
    let common_name = |name: &x509_parser::x509::X509Name<'_>| {
        let first = name.iter_common_name().next().and_then(|attribute| attribute.as_str().ok());
        first.unwrap_or_default().to_owned()
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|found| found.value.general_names.iter().filter_map(shown).collect());
    let uses = certificate.extended_key_usage().ok().flatten().map(|found| found.value);
    Facts {
        common_name: common_name(certificate.subject()),
        names: names.unwrap_or_default(),
        issuer: common_name(certificate.issuer()),
        from: certificate.validity().not_before.timestamp(),
        to: certificate.validity().not_after.timestamp(),
        client: uses.is_none_or(|uses| uses.any || uses.client_auth),
        server: uses.is_none_or(|uses| uses.any || uses.server_auth),
    }
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn belongs(key: &PrivateKeyDer<'_>, leaf: &X509Certificate<'_>, path: &Path) -> Result<bool, Wrong> {
    let signing = any_supported_type(key).map_err(|_| not_a_key(path))?;
    Ok(signing.public_key().is_some_and(|public| public.as_ref() == leaf.public_key().raw))
}

/// Each signed by the next, the last by an authority. What is shown in earnest is verified by rustls; this tells a
/// person what is wrong before anybody is turned away.
fn leads_to(chain: &[X509Certificate<'_>], anchors: &[X509Certificate<'_>]) -> bool {
    let signed = |one: &X509Certificate<'_>, by: &X509Certificate<'_>| {
        one.issuer() == by.subject() && one.verify_signature(Some(by.public_key())).is_ok()
    };
    let joined = chain.windows(2).all(|pair| signed(&pair[0], &pair[1]));
    let last = chain.last();
    joined && last.is_some_and(|last| anchors.iter().any(|anchor| signed(last, anchor)))
}

fn not_a_key(path: &Path) -> Wrong {
    Wrong::Malformed { path: path.to_owned(), expected: "private key", why: String::new() }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Wrong {
    Wrong::Unreadable { path: path.to_owned(), why: error.to_string() }
}
