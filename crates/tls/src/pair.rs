//! A certificate and its key, read from PEM files and checked: that they match, the names they are
//! for, and how long they are valid.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use edgeway_base::named_file;
use rustls::{Error as TlsError, InconsistentKeys, crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// A certificate with its key, ready to be served.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// The DNS names of the certificate, in lower case. Empty if it is for addresses only.
    pub(super) names: Box<[Box<str>]>,
    /// Seconds since 1970.
    pub(super) not_after: i64,
    pub(super) not_before: i64,
    /// In hex.
    pub(super) serial: Box<str>,
}

/// Paths of a certificate, its key and its OCSP response.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PairPaths {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ocsp: Option<Ocsp>,
}

/// Path of an OCSP response.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Ocsp {
    Needed(PathBuf),
    /// Nothing is stapled if the file does not exist.
    IfThere(PathBuf),
}

/// A file of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PairFile {
    Cert,
    Key,
    Ocsp,
}

impl Ocsp {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Needed(path) | Self::IfThere(path) => path,
        }
    }

    fn read(&self) -> Result<Option<Vec<u8>>, PairError> {
        let path = self.path();
        let response = match named_file::read(path, named_file::MAX_LEN) {
            Ok(response) => response,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && matches!(self, Self::IfThere(_)) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Fault::Read(error).at(PairFile::Ocsp, path)),
        };
        if is_ocsp_response(&response) {
            return Ok(Some(response));
        }
        Err(Fault::BadOcsp.at(PairFile::Ocsp, path))
    }
}

/// Returns true for a complete `OCSPResponse` with status `successful` (RFC 6960, 4.2.1).
fn is_ocsp_response(der: &[u8]) -> bool {
    use x509_parser::der_parser::der::parse_der_sequence;
    let Ok((rest, sequence)) = parse_der_sequence(der) else {
        return false;
    };
    let Ok(parts) = sequence.as_sequence() else {
        return false;
    };
    let is_successful = parts.first().is_some_and(|status| status.as_u32() == Ok(0));
    rest.is_empty() && is_successful && parts.len() == 2
}

/// Reason why a pair of files cannot be used.
#[derive(Debug)]
pub(super) struct PairError {
    /// File that caused the error.
    pub(super) part: PairFile,
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Read(io::Error),
    Pem(pem::Error),
    NoCertificate,
    BadCertificate,
    NoNames,
    NoKey,
    Encrypted,
    BadKey(TlsError),
    /// The key is not that of the certificate in this file.
    Mismatch(PathBuf),
    BadOcsp,
    Order,
}

impl std::error::Error for PairError {}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Read(error) => write!(f, "cannot read `{path}`: {error}"),
            Fault::Pem(error) => write!(f, "`{path}` is not a PEM file: {error}"),
            Fault::NoCertificate => write!(f, "`{path}` holds no certificate"),
            Fault::BadCertificate => write!(f, "invalid certificate in `{path}`"),
            Fault::NoNames => write!(
                f,
                "the certificate in `{path}` has no subject alternative names"
            ),
            Fault::NoKey => write!(f, "`{path}` holds no private key"),
            Fault::Encrypted => write!(f, "the private key in `{path}` is encrypted"),
            Fault::BadKey(error) => {
                write!(f, "the private key in `{path}` cannot be used: {error}")
            }
            Fault::Mismatch(cert) => write!(
                f,
                "`{path}` is not the key of the certificate in `{}`",
                cert.display()
            ),
            Fault::BadOcsp => write!(f, "`{path}` holds no successful OCSP response in DER"),
            Fault::Order => write!(f, "the key does not fit the first certificate in `{path}`"),
        }
    }
}

impl Fault {
    fn at(self, part: PairFile, path: &Path) -> PairError {
        PairError {
            part,
            path: path.to_owned(),
            fault: self,
        }
    }
}

impl PairError {
    /// Advice on how to fix the problem.
    pub(super) fn help(&self) -> String {
        let path = self.path.display();
        match &self.fault {
            Fault::Read(error)
                if error.kind() == io::ErrorKind::NotFound && self.path.is_relative() =>
            {
                "paths start at the folder of the configuration"
            }
            Fault::Read(error) if error.kind() == io::ErrorKind::NotFound => "check the path",
            Fault::Read(_) => "it must be a file that the gateway's user may read",
            Fault::Pem(_) => return format!(
                "PEM has its Base64 between `-----BEGIN …-----` and `-----END …-----`; write the whole file again: `{path}`"
            ),
            Fault::NoCertificate => return format!(
                "a PEM file begins with `-----BEGIN CERTIFICATE-----`; `openssl x509 -inform der -in {path} -out {path}.pem` converts DER to PEM"
            ),
            Fault::BadCertificate => {
                return format!("look at it with `openssl x509 -noout -text -in {path}`");
            }
            Fault::NoNames => {
                "browsers ignore the common name: have it issued with `subjectAltName`"
            }
            Fault::NoKey => {
                "a PEM key begins with `-----BEGIN PRIVATE KEY-----` (or `EC`, `RSA`)"
            }
            Fault::Encrypted => return format!(
                "the gateway cannot ask for its password: decrypt it with `openssl pkey -in {path} -out {path}.plain`, readable by the gateway's user only"
            ),
            Fault::BadKey(_) => {
                "use a key of type P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits"
            }
            Fault::Mismatch(_) => {
                "look for mixed-up files, or a pair of which only one file was replaced"
            }
            Fault::BadOcsp => {
                "fetch it again with `openssl ocsp … -respout FILE`, or remove `ocsp`"
            }
            Fault::Order => {
                "write the chain with the site's own certificate first, then those that signed it"
            }
        }
        .to_owned()
    }
}

impl Certificate {
    /// Title in logs and metrics: the certificate's first name.
    pub(super) fn title(&self) -> &str {
        self.names.first().map_or("(addresses)", |name| name)
    }
}

/// Loads a pair and checks it.
pub(super) fn load(paths: &PairPaths, provider: &CryptoProvider) -> Result<Certificate, PairError> {
    let chain = chain(&paths.cert)?;
    let key = key(&paths.key)?;
    let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let bad = || Fault::BadCertificate.at(PairFile::Cert, &paths.cert);
    let parsed = parse(leaf).ok_or_else(bad)?;
    let (names, has_addresses) = names(&parsed).ok_or_else(bad)?;
    // Certificates of version 1 have none.
    if names.is_empty() && !has_addresses {
        return Err(Fault::NoNames.at(PairFile::Cert, &paths.cert));
    }
    let not_before = parsed.validity().not_before.timestamp();
    let serial = format!("{:X}", parsed.serial).into_boxed_str();
    let not_after = parsed.validity().not_after.timestamp();
    let belongs = |chain, key: &PrivateKeyDer<'static>| {
        CertifiedKey::from_der(chain, key.clone_key(), provider)
    };
    let mut certified = match belongs(chain.clone(), &key) {
        Ok(certified) => certified,
        Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let is_later = chain[1..]
                .iter()
                .any(|other| belongs(vec![other.clone()], &key).is_ok());
            return Err(if is_later {
                Fault::Order.at(PairFile::Cert, &paths.cert)
            } else {
                Fault::Mismatch(paths.cert.clone()).at(PairFile::Key, &paths.key)
            });
        }
        Err(TlsError::InvalidCertificate(_)) => return Err(bad()),
        Err(error) => return Err(Fault::BadKey(error).at(PairFile::Key, &paths.key)),
    };
    if let Some(ocsp) = &paths.ocsp {
        certified.ocsp = ocsp.read()?;
    }
    Ok(Certificate {
        key: Arc::new(certified),
        names,
        not_after,
        not_before,
        serial,
    })
}

/// Reads every certificate of a PEM file, which must have at least one.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let failed = |fault: Fault| fault.at(PairFile::Cert, path);
    let text =
        named_file::read(path, named_file::MAX_LEN).map_err(|error| failed(Fault::Read(error)))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(Fault::Pem(error)))?;
    if chain.is_empty() {
        return Err(failed(Fault::NoCertificate));
    }
    Ok(chain)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PairError> {
    let failed = |fault: Fault| fault.at(PairFile::Key, path);
    let text =
        named_file::read(path, named_file::MAX_LEN).map_err(|error| failed(Fault::Read(error)))?;
    let is_encrypted = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| memchr::memmem::find(&text, mark).is_some());
    if is_encrypted {
        return Err(failed(Fault::Encrypted));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => failed(Fault::NoKey),
        error => failed(Fault::Pem(error)),
    })
}

/// Parses a certificate in DER.
pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der)
        .ok()
        .map(|(_, parsed)| parsed)
}

/// The DNS names, in lower case, and true if there are addresses. `None` if the extension cannot be
/// parsed.
pub(super) fn names(certificate: &X509Certificate<'_>) -> Option<(Box<[Box<str>]>, bool)> {
    let extension = certificate.subject_alternative_name().ok()?;
    let Some(extension) = extension else {
        return Some((Box::default(), false));
    };
    let mut names = Vec::new();
    let mut has_addresses = false;
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                names.push(name.to_ascii_lowercase().into_boxed_str());
            }
            GeneralName::IPAddress(_) => has_addresses = true,
            _ => {}
        }
    }
    Some((names.into_boxed_slice(), has_addresses))
}

/// Expiry of a certificate in DER, in seconds since 1970.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    Some(parse(certificate)?.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_truncated_ocsp_response_is_none(
            body in prop::collection::vec(any::<u8>(), 0..100),
            noise in prop::collection::vec(any::<u8>(), 0..60),
            status in 0..7u8,
            at in any::<prop::sample::Index>(),
        ) {
            let length = u8::try_from(body.len()).unwrap();
            let octets = [&[0x04, length][..], &body].concat();
            let tagged = [&[0xa0, length + 2][..], &octets].concat();
            let response = [&[0x30, length + 7, 0x0a, 1, status][..], &tagged].concat();
            prop_assert_eq!(is_ocsp_response(&response), status == 0);
            prop_assert!(!is_ocsp_response(&response[..at.index(response.len())]));
            prop_assert!(!is_ocsp_response(&[&response[..], &[0]].concat()));
            is_ocsp_response(&noise);
        }
    }
}
