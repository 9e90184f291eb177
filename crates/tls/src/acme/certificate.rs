//! Certificates as ACME needs them: read from PEM with the times that decide renewal, and
//! self-signed ones that serve until a CA has signed one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use instant_acme::CertificateIdentifier;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, Der, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::{extensions::ParsedExtension, time::ASN1Time};

use crate::pair::{self, parse};

/// Start of a stand-in's validity, set in the past because clients' clocks differ.
const BACKDATED_BY: Duration = Duration::from_hours(1);
/// Lifetime of a stand-in, short enough that expiry monitoring raises an alert.
const STAND_IN_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// A certificate with its key, ready to be served, and the values that decide its renewal.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
    /// In lower-case hex.
    pub(super) serial: String,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("the chain is not PEM with certificates")]
    Chain(#[source] rustls_pki_types::pem::Error),
    #[error("the key is not PEM with a private key")]
    Key(#[source] rustls_pki_types::pem::Error),
    #[error("no certificate in the chain")]
    Empty,
    #[error("cannot read the certificate")]
    Unreadable,
    #[error("the certificate is not for `{0}`")]
    OtherName(String),
    #[error("key and certificate do not match")]
    Pair(#[source] rustls::Error),
    #[error("cannot create the certificate")]
    Make(#[source] rcgen::Error),
}

impl Certificate {
    /// Reads a chain, leaf first, and its key, which must be for `name`.
    pub(super) fn read(name: &str, chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(CertificateError::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
        let leaf = chain.first().ok_or(CertificateError::Empty)?;
        let parsed = parse(leaf).ok_or(CertificateError::Unreadable)?;
        let (names, _) = pair::names(&parsed).ok_or(CertificateError::Unreadable)?;
        if !names.iter().any(|entry| entry.eq_ignore_ascii_case(name)) {
            return Err(CertificateError::OtherName(name.to_owned()));
        }
        let from = moment(parsed.validity().not_before);
        let until = moment(parsed.validity().not_after);
        let serial = parsed.raw_serial_as_string().replace(':', "");
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(CertificateError::Pair)?;
        Ok(Self {
            key: Arc::new(key),
            from,
            until,
            serial,
        })
    }

    /// Identifier of this certificate in renewal information (RFC 9773, 4.1).
    pub(super) fn identifier(&self) -> Option<CertificateIdentifier<'static>> {
        let parsed = parse(self.key.cert.first()?)?;
        let key_identifier =
            parsed
                .iter_extensions()
                .find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
                    _ => None,
                })?;
        let serial = parsed.tbs_certificate.raw_serial();
        let id =
            CertificateIdentifier::new(Der::from_slice(key_identifier.0), Der::from_slice(serial));
        Some(id.into_owned())
    }
}

/// Creates a self-signed certificate for `name`, served until a CA has signed one: clients can
/// connect, but get a warning.
pub(super) fn stand_in(name: &str, now: SystemTime) -> Result<Arc<CertifiedKey>, CertificateError> {
    let mut params = params(name)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Edgeway stand-in, not yet issued");
    params.not_before = (now - BACKDATED_BY).into();
    params.not_after = (now + STAND_IN_LIFETIME).into();
    self_signed(&params)
}

/// Creates the TLS-ALPN-01 challenge certificate for `name` (RFC 8737, 3).
pub(super) fn challenge(name: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let mut params = params(name)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    self_signed(&params)
}

fn params(name: &str) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new([name.to_owned()]).map_err(CertificateError::Make)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

fn self_signed(params: &CertificateParams) -> Result<Arc<CertifiedKey>, CertificateError> {
    let key = KeyPair::generate().map_err(CertificateError::Make)?;
    let certificate = params.self_signed(&key).map_err(CertificateError::Make)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![certificate.der().clone()];
    // `from_der` would reject the critical extension of RFC 8737.
    let key = ring::sign::any_supported_type(&der).map_err(CertificateError::Pair)?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn moment(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_for_its_name_and_valid_now() {
        let now = UNIX_EPOCH + Duration::from_hours(500_000);
        let made = stand_in("a.example", now).unwrap();
        let parsed = parse(&made.cert[0]).unwrap();
        let (names, _) = pair::names(&parsed).unwrap();
        assert_eq!(*names, [Box::from("a.example")]);
        let validity = parsed.validity();
        assert_eq!(moment(validity.not_before), now - BACKDATED_BY);
        assert_eq!(moment(validity.not_after), now + STAND_IN_LIFETIME);
    }

    #[test]
    fn the_challenge_certificate_holds_the_digest() {
        let made = challenge("a.example", &[7; 32]).unwrap();
        let parsed = parse(&made.cert[0]).unwrap();
        let id = parsed
            .iter_extensions()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .expect("RFC 8737, 6.1");
        assert!(id.critical);
        assert_eq!(id.value, [&[4, 32][..], &[7; 32]].concat());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let pair = || {
            let key = KeyPair::generate().unwrap();
            let made = params("a.example").unwrap().self_signed(&key).unwrap();
            (made.pem(), key.serialize_pem())
        };
        let (first, other) = (pair(), pair());
        let read = |chain: &str, key: &str, name: &str| {
            Certificate::read(name, chain.as_bytes(), key.as_bytes())
        };
        let whole = read(&first.0, &first.1, "A.example").unwrap();
        assert_eq!(whole.serial.len() % 2, 0, "{}", whole.serial);
        assert!(matches!(
            read(&first.0, &other.1, "a.example"),
            Err(CertificateError::Pair(_))
        ));
        assert!(matches!(
            read(&first.0, &first.1, "b.example"),
            Err(CertificateError::OtherName(_))
        ));
        assert!(matches!(
            read("", &first.1, "a.example"),
            Err(CertificateError::Empty)
        ));
        assert!(read(&first.0, "", "a.example").is_err());
    }
}
