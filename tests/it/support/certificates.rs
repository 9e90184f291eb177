//! CA of the test, and certificates that it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use chrono::{Datelike, Days, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, crypto::CryptoProvider,
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

/// CA that signs certificates.
#[derive(Debug)]
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// Certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) serial: u64,
}

/// Contents of a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    params: CertificateParams,
    is_rsa: bool,
}

/// Converts days from today to the date type of rcgen.
macro_rules! day {
    ($offset:expr) => {{
        let offset: i64 = $offset;
        let days = Days::new(offset.unsigned_abs());
        let today = Utc::now().date_naive();
        let day = if offset < 0 {
            today - days
        } else {
            today + days
        };
        let part = |part: u32| u8::try_from(part).unwrap();
        date_time_ymd(day.year(), part(day.month()), part(day.day()))
    }};
}

impl Wanted {
    /// Returns the contents for a site with these names, valid from yesterday for 90 days.
    pub(crate) fn site(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names can be in a certificate");
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "a site of a test");
        params.not_before = day!(-1);
        params.not_after = day!(89);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(SerialNumber::from(fastrand::u64(1 << 32..1 << 62)));
        Self {
            params,
            is_rsa: false,
        }
    }

    /// Returns the contents for a client with this name.
    pub(crate) fn client(parts: &[(DnType, &str)]) -> Self {
        let mut wanted = Self::site(&[]);
        wanted.params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            wanted
                .params
                .distinguished_name
                .push(kind.clone(), (*value).to_owned());
        }
        wanted.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        wanted
    }

    /// Uses an RSA key of 2048 bits instead of P-256.
    pub(crate) fn rsa(mut self) -> Self {
        self.is_rsa = true;
        self
    }

    /// Sets the validity in days from now.
    pub(crate) fn days(mut self, from: i64, to: i64) -> Self {
        self.params.not_before = day!(from);
        self.params.not_after = day!(to);
        self
    }
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let number = fastrand::u32(..);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("test CA {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = day!(-2);
        params.not_after = day!(1000);
        let key = KeyPair::generate().expect("there is randomness");
        let own = params.self_signed(&key).expect("it can sign itself");
        Self {
            pem: own.pem(),
            der: own.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Returns the CA certificate in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn issue(&self, wanted: &Wanted) -> Issued {
        let key = if wanted.is_rsa {
            rsa_key()
        } else {
            KeyPair::generate().expect("there is randomness")
        };
        let mut params = wanted.params.clone();
        params.use_authority_key_identifier_extension = true;
        let signed = params
            .signed_by(&key, &self.issuer)
            .expect("it can be signed");
        let (_, parsed) = x509_parser::parse_x509_certificate(signed.der()).expect("it is X.509");
        let serial = parsed.raw_serial();
        let serial = serial
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Issued {
            cert: signed.pem(),
            key: key.serialize_pem(),
            serial,
        }
    }

    /// Issues a certificate for a site with these names, with an EC key.
    pub(crate) fn site(&self, names: &[&str]) -> Issued {
        self.issue(&Wanted::site(names))
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("it is a CA");
        roots
    }

    /// Returns the configuration of a client that trusts only this CA.
    pub(crate) fn trust(&self) -> ClientConfig {
        self.trust_with(None)
    }

    /// Returns [`Ca::trust`] with a client certificate.
    pub(crate) fn trust_with(&self, own: Option<&Issued>) -> ClientConfig {
        let versions = rustls::DEFAULT_VERSIONS;
        self.trust_through(rustls::crypto::ring::default_provider(), versions, own)
    }

    /// Returns [`Ca::trust`] for a client with only this provider and these versions.
    pub(crate) fn trust_through(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Issued>,
    ) -> ClientConfig {
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("the versions have suites")
            .with_root_certificates(self.roots());
        match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let (chain, key) = own.ders();
                config
                    .with_client_auth_cert(chain, key)
                    .expect("they belong together")
            }
        }
    }
}

impl Issued {
    /// Creates a certificate that is signed by its own key instead of a CA.
    pub(crate) fn self_signed(wanted: &Wanted) -> Self {
        let key = KeyPair::generate().expect("there is randomness");
        let signed = wanted.params.self_signed(&key);
        Self {
            cert: signed.expect("it can sign itself").pem(),
            key: key.serialize_pem(),
            serial: 0,
        }
    }

    /// Writes `NAME.pem` and `NAME.key`, each atomically.
    pub(crate) fn write(&self, folder: &Path, name: &str) {
        for (ending, text) in [("key", &self.key), ("pem", &self.cert)] {
            let path = folder.join(format!("{name}.{ending}"));
            replace(&path, text);
        }
    }

    /// Creates the TLS side of a server that offers these ALPN protocols, and requires certificates of
    /// clients if there are CAs for them.
    pub(crate) fn acceptor(
        &self,
        protocols: &[&str],
        clients: Option<RootCertStore>,
    ) -> TlsAcceptor {
        let (chain, key) = self.ders();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .unwrap(),
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = protocols.collect();
        TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) fn ders(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes());
        (
            chain.collect::<Result<_, _>>().expect("it is PEM"),
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it is PEM"),
        )
    }
}

/// Writes a file so that readers see either the old text or the new one.
pub(crate) fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("the folder takes files");
    fs::rename(&draft, path).expect("it is the same folder");
}

/// Creates an RSA key, which `ring` cannot do. One is enough for all tests of a run.
fn rsa_key() -> KeyPair {
    static KEY: OnceLock<String> = OnceLock::new();
    let pem = KEY.get_or_init(|| {
        let made = Command::new("openssl")
            .args([
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
            ])
            .output()
            .expect("openssl is there: `make setup-tests` installs it");
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).expect("PEM is text")
    });
    KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_RSA_SHA256).expect("it is an RSA key")
}

/// Returns the folder of the examples, beside which everything lies that they name.
pub(crate) fn files_of_examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples"))
}
