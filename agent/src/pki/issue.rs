//! Making keys and certificates: ECDSA on P-256, which rustls, Go and Envoy all take.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::Wrong;
use super::plan::{Authority, CertificateSubject, Usage};

/// Seconds since 1970, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub to: i64,
}

impl Validity {
    /// Clocks of one fleet may differ by this much.
    const SLACK: i64 = 300;

    /// From a little before `now`.
    pub fn days(now: i64, days: u32) -> Self {
        Self { from: now - Self::SLACK, to: now + i64::from(days) * 86_400 }
    }
}

/// What is written to files.
#[derive(Clone)]
pub struct Pem {
    pub certificate: String,
    pub key: String,
}

/// Without the key: what can be printed is printed one day.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// An authority with its key.
pub struct Signer {
    /// PEM.
    pub certificate: String,
    /// Nothing that it signs lives longer.
    pub ends: i64,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    /// A new authority. `tag` tells it from those of other fleets.
    ///
    /// # Errors
    /// [`Wrong::Issue`] without randomness.
    pub fn make(authority: Authority, tag: &str, validity: Validity) -> Result<Pem, Wrong> {
        let mut params = params(&format!("muster {} authority {tag}", authority.name()), validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// # Errors
    /// A reason in a few words, without a path.
    pub fn read(pem: &Pem, ends: i64) -> Result<Self, String> {
        let key = KeyPair::from_pem(&pem.key).map_err(|error| error.to_string())?;
        let issuer = Issuer::from_ca_cert_pem(&pem.certificate, key).map_err(|error| error.to_string())?;
        Ok(Self { certificate: pem.certificate.clone(), ends, issuer })
    }

    /// A key of its own and its certificate.
    ///
    /// # Errors
    /// [`Wrong::Issue`] without randomness, or for a name that no certificate can carry.
    pub fn sign(&self, identity: &CertificateSubject, validity: Validity) -> Result<Pem, Wrong> {
        let validity = Validity { from: validity.from, to: validity.to.min(self.ends) };
        let mut params = params(&identity.common_name, validity)?;
        params.subject_alt_names = names(&identity.names)?;
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, Wrong> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let moment = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| Wrong::Issue(error.to_string()))
    };
    params.not_before = moment(validity.from)?;
    params.not_after = moment(validity.to)?;
    Ok(params)
}

fn names(names: &[String]) -> Result<Vec<SanType>, Wrong> {
    let one = |name: &String| match name.parse() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(name.as_str().try_into().map_err(failed)?)),
    };
    names.iter().map(one).collect()
}

fn failed(error: rcgen::Error) -> Wrong {
    Wrong::Issue(error.to_string())
}
