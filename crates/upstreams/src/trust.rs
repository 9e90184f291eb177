//! Compilation of an upstream's `tls` and `protocol`: files are opened here, once.

use std::{io, path::PathBuf, sync::Arc};

use ring::digest::{Context as Hasher, SHA256};
use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    client_tls::{TlsIdentity, TrustDigest, client_config},
    members::BackendSource,
    system,
    wire::{Protocol, ServerName, Trust, Wire},
};
use crate::{
    base::named_file,
    chain::CompileContext,
    config::{
        diagnostic::Place,
        model::{ProtocolConfig, UpstreamConfig, UpstreamTlsConfig},
        tree::Spanned,
    },
};

const NAME: &str = "edgeway::upstream::tls_name";
const FILE: &str = "edgeway::upstream::tls_file";
const PAIR: &str = "edgeway::upstream::tls_pair";

impl Wire {
    /// Compiles `tls` and `protocol`; `None` if a problem was reported.
    pub(super) fn compile(
        config: &UpstreamConfig,
        sources: &[BackendSource],
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let protocol = match config.protocol {
            ProtocolConfig::Http1 => Protocol::Http1,
            ProtocolConfig::H2 => Protocol::H2,
        };
        let tls = match config.tls.as_ref().filter(|tls| tls.value.enabled) {
            Some(tls) => Some(trust(tls, sources, cx)?),
            None => None,
        };
        Some(Self { protocol, tls })
    }
}

fn trust(
    tls: &Spanned<UpstreamTlsConfig>,
    sources: &[BackendSource],
    cx: &mut CompileContext<'_>,
) -> Option<Trust> {
    let (config, place) = (&tls.value, tls.place);
    // All parts are compiled, so that all problems are reported.
    let name = name(config, place, sources, cx);
    let cas = if let Some(file) = &config.ca {
        ca_certificates(file, cx)
    } else {
        warn_of_no_system(place, cx);
        Some((Vec::new(), system::roots()))
    };
    let client = match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => pair(cert, key, cx).map(Some),
        (None, None) => Some(None),
        (Some(alone), None) => cx.at(alone.place, PAIR).refuse(
            "`cert` has no `key`",
            "write the file of its private key: `key: client.key`",
        ),
        (None, Some(alone)) => cx.at(alone.place, PAIR).refuse(
            "`key` has no `cert`",
            "write the file of the certificate that it is for: `cert: client.pem`",
        ),
    };
    let (name, (cas, roots), client) = (name?, cas?, client?);
    let trust = digest(&cas, client.as_ref());
    match client_config(roots, client.map(|client| (client.chain, client.key))) {
        Ok(config) => Some(Trust {
            config: Arc::new(config),
            identity: TlsIdentity { name, trust },
        }),
        Err(error) => cx.at(place, PAIR).refuse(
            format!("TLS to the backends cannot be set up: {error}"),
            "check the certificate and the key that `tls` names",
        ),
    }
}

/// Returns the name as written, or the DNS name, if all backends share it.
fn name(
    config: &UpstreamTlsConfig,
    place: Place,
    sources: &[BackendSource],
    cx: &mut CompileContext<'_>,
) -> Option<ServerName> {
    if let Some(written) = &config.name {
        return ServerName::parse(&written.value).or_else(|| {
            cx.at(written.place, NAME).refuse(
                format!("invalid certificate name `{}`", written.value),
                "write a DNS name from the backends' certificate, without port or wildcard, such \
                 as `api.internal`",
            )
        });
    }
    let mut names = Vec::new();
    for source in sources {
        match source {
            BackendSource::Dns { name, .. } => names.push(name.as_str()),
            BackendSource::Fixed { target, .. } => {
                return cx.at(place, NAME).refuse(
                    format!("`{target}` has no name to verify its certificate against"),
                    "write the name that the certificate is for: `tls: { name: api.internal }`",
                );
            }
        }
    }
    names.dedup();
    let [name] = names[..] else {
        if !names.is_empty() {
            cx.at(place, NAME).error(
                format!("the backends have several names: `{}`", names.join("`, `")),
                "write the one that their certificates are for: `tls: { name: api.internal }`",
            );
        }
        return None;
    };
    ServerName::parse(name).or_else(|| {
        cx.at(place, NAME).refuse(
            format!("invalid certificate name `{name}`"),
            "write the name that it is for: `tls: { name: api.internal }`",
        )
    })
}

/// Warns if the system has no CA certificates: without trust no backend can be reached.
fn warn_of_no_system(place: Place, cx: &mut CompileContext<'_>) {
    let why = match system::ca_count() {
        Ok(0) => "this machine has no CA certificates".to_owned(),
        Ok(_) => return,
        Err(error) => format!("this machine's CA certificates cannot be used: {error}"),
    };
    let code = "edgeway::upstream::tls_no_ca_certificates";
    let help =
        "install the package `ca-certificates`, or name the trusted ones: `tls: { ca: ca.pem }`";
    cx.at(place, code).warn(why, help);
}

fn ca_certificates(
    file: &Spanned<PathBuf>,
    cx: &mut CompileContext<'_>,
) -> Option<(Vec<CertificateDer<'static>>, Arc<RootCertStore>)> {
    let list = certificates(file, "ca", cx)?;
    let mut store = RootCertStore::empty();
    for (index, certificate) in list.iter().enumerate() {
        if store.add(certificate.clone()).is_err() {
            return cx.at(file.place, FILE).refuse(
                format!(
                    "certificate {} of `{}` is not a CA certificate",
                    index + 1,
                    file.value.display()
                ),
                "remove it, or write a PEM file of CA certificates",
            );
        }
    }
    Some((list, Arc::new(store)))
}

/// Client certificate and its key.
struct Client {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn pair(
    cert: &Spanned<PathBuf>,
    key: &Spanned<PathBuf>,
    cx: &mut CompileContext<'_>,
) -> Option<Client> {
    let chain = certificates(cert, "cert", cx);
    let private = private_key(key, cx);
    let (chain, private) = (chain?, private?);
    let provider = rustls::crypto::ring::default_provider();
    let (cert_file, key_file) = (cert.value.display(), key.value.display());
    let (message, help) =
        match CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider) {
            Ok(_) => {
                let key = private;
                return Some(Client { chain, key });
            }
            Err(rustls::Error::InconsistentKeys(_)) => (
                format!("`{key_file}` is not the key of `{cert_file}`"),
                "write the two files of one pair; the certificate itself comes first in its file",
            ),
            Err(_) => (
                format!("`{cert_file}` and `{key_file}` cannot be used"),
                "write an X.509 certificate and its RSA, ECDSA or Ed25519 key, both in PEM",
            ),
        };
    cx.at(cert.place, PAIR).refuse(message, help)
}

fn certificates(
    file: &Spanned<PathBuf>,
    key: &str,
    cx: &mut CompileContext<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = read(file, cx)?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match list {
        Ok(list) if !list.is_empty() => Some(list),
        _ => cx.at(file.place, FILE).refuse(
            format!("no certificate in `{}`", file.value.display()),
            format!("`{key}` must be a PEM file with `-----BEGIN CERTIFICATE-----`"),
        ),
    }
}

fn private_key(
    file: &Spanned<PathBuf>,
    cx: &mut CompileContext<'_>,
) -> Option<PrivateKeyDer<'static>> {
    let bytes = read(file, cx)?;
    PrivateKeyDer::from_pem_slice(&bytes).ok().or_else(|| {
        cx.at(file.place, FILE).refuse(
            format!("no private key in `{}`", file.value.display()),
            "`key` must be a PEM file with `-----BEGIN PRIVATE KEY-----`, without a password",
        )
    })
}

fn read(file: &Spanned<PathBuf>, cx: &mut CompileContext<'_>) -> Option<Vec<u8>> {
    let path = cx.folder.join(&file.value);
    cx.referenced.missed(path.clone());
    let error = match named_file::read(&path, named_file::MAX_LEN) {
        Ok(bytes) => return Some(bytes),
        Err(error) => error,
    };
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    cx.at(file.place, FILE).refuse(
        format!("cannot read `{}`: {why}", file.value.display()),
        format!("searched at `{}`", path.display()),
    )
}

/// Returns a digest of the certificates and the key, each with its length before it.
fn digest(cas: &[CertificateDer<'static>], client: Option<&Client>) -> TrustDigest {
    let mut hasher = Hasher::new(&SHA256);
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    for certificate in cas {
        add(certificate);
    }
    add(&[]);
    if let Some(client) = client {
        client.chain.iter().for_each(|certificate| add(certificate));
        add(client.key.secret_der());
    }
    let digest = hasher.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::tests::{Bench, folder_of_certificates as folder, take};

    /// Returns the diagnostics of `tls` and `backends`; `DIR` stands for the folder.
    fn messages(folder: &TempDir, backends: &str, tls: &str) -> Vec<String> {
        let dir = folder.path().display().to_string();
        let tls = tls.replace("DIR", &dir);
        let yaml = format!("{{ backends: [{backends}], tls: {tls} }}");
        let (upstream, diagnostics) = Bench::new().try_compile(&yaml);
        assert_eq!(upstream.is_none(), diagnostics.has_errors());
        diagnostics
            .list()
            .iter()
            .map(|d| format!("{}: {}", d.code, d.message).replace(&dir, "DIR"))
            .collect()
    }

    #[test]
    fn complete_trust_settings_are_accepted() {
        let folder = folder();
        for (backends, tls) in [
            ("10.0.0.1:443", "{ name: api.internal, ca: DIR/ca.pem }"),
            (
                "10.0.0.1:443",
                "{ name: api.internal, ca: DIR/ca.pem, cert: DIR/client.pem, key: DIR/client.key }",
            ),
            (
                "'unix:/run/app.sock'",
                "{ name: api.internal, ca: DIR/ca.pem }",
            ),
            ("{ dns: 'api.internal:443' }", "{ ca: DIR/ca.pem }"),
            (
                "{ dns: 'api.internal:443' }, { dns: 'API.internal:8443' }",
                "{ ca: DIR/ca.pem }",
            ),
            ("10.0.0.1:443", "false"),
        ] {
            let messages = messages(&folder, backends, tls);
            assert_eq!(messages, [""; 0], "{backends} {tls}");
        }
    }

    #[test]
    fn missing_or_mismatched_trust_settings_are_reported() {
        let folder = folder();
        let name = |message: &str| format!("edgeway::upstream::tls_name: {message}");
        let file = |message: &str| format!("edgeway::upstream::tls_file: {message}");
        let pair = |message: &str| format!("edgeway::upstream::tls_pair: {message}");
        for (backends, tls, expected) in [
            (
                "10.0.0.1:443",
                "{ ca: DIR/ca.pem }",
                vec![name(
                    "`10.0.0.1:443` has no name to verify its certificate against",
                )],
            ),
            (
                "{ dns: 'a.internal:443' }, 'unix:/run/app.sock'",
                "{ ca: DIR/ca.pem }",
                vec![name(
                    "`unix:/run/app.sock` has no name to verify its certificate against",
                )],
            ),
            (
                "{ dns: 'a.internal:443' }, { dns: 'b.internal:443' }",
                "{ ca: DIR/ca.pem }",
                vec![name(
                    "the backends have several names: `a.internal`, `b.internal`",
                )],
            ),
            (
                "{ dns: 'my_app:443' }",
                "{ ca: DIR/ca.pem }",
                vec![name("invalid certificate name `my_app`")],
            ),
            (
                "10.0.0.1:443",
                "{ name: 10.0.0.1, ca: DIR/none.pem, key: DIR/client.key }",
                vec![
                    name("invalid certificate name `10.0.0.1`"),
                    file("cannot read `DIR/none.pem`: no such file"),
                    pair("`key` has no `cert`"),
                ],
            ),
            (
                "10.0.0.1:443",
                "{ name: '', ca: DIR/text }",
                vec![
                    name("invalid certificate name ``"),
                    file("no certificate in `DIR/text`"),
                ],
            ),
            (
                "10.0.0.1:443",
                "{ name: a, ca: DIR/ca.pem, cert: DIR/client.pem }",
                vec![pair("`cert` has no `key`")],
            ),
            (
                "10.0.0.1:443",
                "{ name: a, ca: DIR/ca.pem, cert: DIR/client.pem, key: DIR/other.key }",
                vec![pair("`DIR/other.key` is not the key of `DIR/client.pem`")],
            ),
            (
                "10.0.0.1:443",
                "{ name: a, ca: DIR/ca.pem, cert: DIR/client.key, key: DIR/client.pem }",
                vec![
                    file("no certificate in `DIR/client.key`"),
                    file("no private key in `DIR/client.pem`"),
                ],
            ),
        ] {
            assert_eq!(
                messages(&folder, backends, tls),
                expected,
                "{backends} {tls}"
            );
        }
    }

    #[test]
    fn the_contents_of_the_files_are_part_of_the_identity() {
        let (first, second) = (folder(), folder());
        let identity = |folder: &TempDir| {
            let dir = folder.path().display();
            let yaml =
                format!("{{ backends: [10.0.0.1:443], tls: {{ name: a, ca: {dir}/ca.pem }} }}");
            let upstream = Bench::new().upstream(&yaml);
            let lease = take(&upstream, &[]).unwrap();
            lease.backend.tls.as_ref().unwrap().identity.clone()
        };
        assert_eq!(identity(&first), identity(&first));
        assert_ne!(identity(&first), identity(&second));
    }
}
