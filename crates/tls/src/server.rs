//! Compiled TLS of a listener. Certificates are swapped one by one as their files change, and the
//! whole configuration when the CA certificates for clients change.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::Mutex;

use super::{
    Certificates, HandshakeError,
    certificates::Challenges,
    expiry::{self, Expiries, ExpiryWarning},
    files::{CertificateSource, Files, SourceProblem},
    handshakes::{self, Handshakes},
    pair::{Certificate, Ocsp, PairFile, PairPaths},
    policy::{self, Configs, Policy},
    sessions::Sessions,
    watch::{self, ClientCa, Watch},
};
use crate::{
    base::{clock::Clock, metrics::Series},
    chain::CompileContext,
    config::{
        model::{
            CertificateConfig, ClientCertificateConfig, Http2Config, TlsConfig, UnknownNamesConfig,
        },
        tree::Spanned,
    },
    zones::Zones,
};

/// TLS of one listener.
#[derive(Debug)]
pub struct Server {
    pub(super) configs: ArcSwap<Configs>,
    pub(super) sessions: Arc<Sessions>,
    /// Configuration for handshakes of an ACME challenge.
    pub(super) challenge: Option<Arc<ServerConfig>>,
    /// The certificates served to clients.
    pub certificates: Arc<Certificates>,
    pub(super) handshakes: Handshakes,
    pub(super) clock: Clock,
    pub handshake_timeout: Duration,
    /// True if clients are asked for certificates. The server name of the handshake must then be
    /// the host of their requests.
    pub asks_clients: bool,
    client_rules: AtomicU64,
    /// State of [`Server::supervise`], which may be stopped and begun again.
    pub(super) watch: Arc<Mutex<Watch>>,
}

impl Server {
    /// Compiles the TLS of the listener called `listener`. Files are read here, and watched by
    /// [`Server::supervise`].
    pub fn compile(
        listener: &Arc<str>,
        config: &Spanned<TlsConfig>,
        http2: &Http2Config,
        zones: &Arc<Zones>,
        cx: &mut CompileContext<'_>,
    ) -> Option<Arc<Self>> {
        super::install_provider();
        let config = &config.value;
        let is_bare = config.certificates.0.is_empty() && config.acme.is_empty();
        if is_bare && config.unknown_names == UnknownNamesConfig::Default {
            cx.here("edgeway::tls::no_certificates").error(
                "this listener has `tls` but no certificate",
                "write `certificates: { cert: FILE, key: FILE }`, `certificates: { dir: FOLDER \
                 }`, or `acme: [NAME]`",
            );
        }
        let names = config
            .acme
            .iter()
            .map(|name| name.value.to_ascii_lowercase());
        let certificates = Arc::new(Certificates::new(
            config.unknown_names,
            names.map(String::into_boxed_str).collect(),
            Expiries::new(cx.metrics, listener),
            cx.clock.clone(),
        ));
        let (places, entries): (Vec<_>, Vec<_>) = sources(config, cx).into_iter().unzip();
        let mut files = Files::new(places, Arc::clone(policy::provider()));
        certificates.set_files(&read(&mut files, &entries, cx));
        warn_of_double(config, &certificates, cx);
        let policy = Policy {
            min_version: config.min_version,
            http2: http2.enabled,
            certificates: Arc::clone(&certificates) as _,
        };
        let mut client_ca = client_ca(config, cx);
        let verifier = client_ca.as_mut().map(ClientCa::read).transpose();
        let verifier = verifier.unwrap_or_else(|error| {
            let place = config
                .client_ca
                .as_ref()
                .map_or(cx.place, |path| path.place);
            cx.at(place, "edgeway::tls::client_ca")
                .refuse(error.to_string(), error.help())
        });
        let now = expiry::seconds(cx.clock.wall());
        let sessions = match Sessions::open(zones, listener, now) {
            Ok(sessions) => sessions,
            Err(error) => {
                return cx
                    .here("edgeway::tls::tickets")
                    .refuse(error.to_string(), "try again");
            }
        };
        let unusable = |error: rustls::Error| error.to_string();
        let configs = policy
            .configs(&sessions, verifier.flatten().as_ref())
            .map_err(unusable);
        let challenge = (!config.acme.is_empty())
            .then(|| policy::challenge(Arc::new(Challenges(Arc::clone(&certificates)))))
            .transpose()
            .map_err(unusable);
        let (configs, challenge) = match (configs, challenge) {
            (Ok(configs), Ok(challenge)) => (configs, challenge),
            (Err(error), _) | (_, Err(error)) => {
                return cx
                    .here("edgeway::tls::policy")
                    .refuse(error, "this is a bug of Edgeway: report it");
            }
        };
        let client_rules = client_ca.as_ref().map_or(0, ClientCa::rules);
        let watch = Watch::new(listener, files, policy, client_ca, cx.metrics);
        Some(Arc::new(Self {
            configs: ArcSwap::from_pointee(configs),
            sessions,
            challenge,
            certificates,
            handshakes: Handshakes::new(cx.metrics, listener),
            clock: cx.clock.clone(),
            handshake_timeout: config.handshake_timeout.0,
            asks_clients: config.client_ca.is_some(),
            client_rules: client_rules.into(),
            watch: Arc::new(Mutex::new(watch)),
        }))
    }

    /// Replaces the configurations from the next handshake on, and the value of
    /// [`Server::client_rules`].
    pub(super) fn set_configs(&self, configs: Configs, client_rules: u64) {
        self.configs.store(Arc::new(configs));
        self.client_rules.store(client_rules, Ordering::Relaxed);
    }

    /// Returns a digest of the rules for certificates of clients: connections that were made under
    /// others keep none of their rights.
    pub fn client_rules(&self) -> u64 {
        self.client_rules.load(Ordering::Relaxed)
    }

    /// Counts a handshake that failed; `None` stands for one that exceeded its deadline.
    pub fn handshake_failed(&self, error: Option<&HandshakeError>) {
        self.handshakes.failed(error);
    }

    /// Current time in seconds since 1970.
    pub(super) fn now(&self) -> i64 {
        expiry::seconds(self.clock.wall())
    }

    /// Returns true if a series with this listener's name is unrelated to TLS, or describes one of
    /// its certificates.
    pub fn has_series(server: Option<&Self>, series: Series<'_>) -> bool {
        const OF_TLS: [&str; 3] = [expiry::NAME, watch::RELOAD_SUCCESS_METRIC, handshakes::NAME];
        server.map_or(!OF_TLS.contains(&series.family), |server| {
            server.certificates.expiries.has(series)
        })
    }

    /// Publishes the expiry metrics again, after a configuration that was refused has overwritten
    /// them.
    pub fn publish(&self) {
        self.certificates.expiries.publish();
    }

    /// Watches the files, rotates the ticket keys, and warns of certificates that expire, for as
    /// long as the listener lives. Before each check it awaits `rest` of a pause, which may
    /// take longer if nobody needs the result soon.
    pub async fn supervise<F>(self: Arc<Self>, rest: impl Fn(Duration) -> F)
    where
        F: Future<Output = ()>,
    {
        watch::run(&self, rest).await;
    }
}

/// The valid certificate sources, each with its entry.
fn sources<'c>(
    config: &'c TlsConfig,
    cx: &mut CompileContext<'_>,
) -> Vec<(CertificateSource, &'c Spanned<CertificateConfig>)> {
    let mut sources = Vec::new();
    for entry in &config.certificates.0 {
        let (written, ocsp) = (&entry.value, &entry.value.ocsp);
        let (message, help) = match (&written.cert, &written.key, &written.dir) {
            (Some(cert), Some(key), None) => {
                let paths = PairPaths {
                    cert: cx.folder.join(&cert.value),
                    key: cx.folder.join(&key.value),
                    ocsp: ocsp
                        .as_ref()
                        .map(|ocsp| Ocsp::Needed(cx.folder.join(&ocsp.value))),
                };
                sources.push((CertificateSource::Pair(paths), entry));
                continue;
            }
            (None, None, Some(dir)) if ocsp.is_none() => {
                sources.push((CertificateSource::Folder(cx.folder.join(&dir.value)), entry));
                continue;
            }
            (None, None, Some(_)) => (
                "`ocsp` is for one certificate, and `dir` may have many",
                "keep each response beside its certificate, as `NAME.ocsp`",
            ),
            (_, _, Some(_)) => (
                "`dir` stands beside `cert` or `key`",
                "write two entries: `- { dir: FOLDER }` and `- { cert: FILE, key: FILE }`",
            ),
            (Some(_), None, None) => ("a certificate without its key", "add `key: FILE`"),
            (None, Some(_), None) => ("a key without its certificate", "add `cert: FILE`"),
            (None, None, None) => (
                "neither a certificate nor a folder",
                "write `{ cert: FILE, key: FILE }` or `{ dir: FOLDER }`",
            ),
        };
        cx.at(entry.place, "edgeway::tls::certificates")
            .error(message, help);
    }
    sources
}

const CERTIFICATE: &str = "edgeway::tls::certificate";

/// Loads every certificate for the first time.
fn read(
    files: &mut Files,
    entries: &[&Spanned<CertificateConfig>],
    cx: &mut CompileContext<'_>,
) -> Vec<Arc<Certificate>> {
    let now = expiry::seconds(cx.clock.wall());
    let loaded = files.load(|index, trouble| {
        let entry = entries[index];
        let place =
            |path: &Option<Spanned<PathBuf>>| path.as_ref().map_or(entry.place, |p| p.place);
        match trouble {
            SourceProblem::Folder(error) => {
                let place = place(&entry.value.dir);
                cx.at(place, "edgeway::tls::folder")
                    .error(error.to_string(), error.help());
            }
            // A bad pair of one customer must not stop the certificates of the others.
            SourceProblem::Pair(error) if entry.value.dir.is_some() => {
                let message = format!("a pair is left out: {error}");
                cx.at(place(&entry.value.dir), CERTIFICATE)
                    .warn(message, error.help());
            }
            SourceProblem::Pair(error) => {
                let place = place(match error.part {
                    PairFile::Cert => &entry.value.cert,
                    PairFile::Key => &entry.value.key,
                    PairFile::Ocsp => &entry.value.ocsp,
                });
                cx.at(place, CERTIFICATE)
                    .error(error.to_string(), error.help());
            }
        }
    });
    for (index, certificate) in &loaded {
        if let Some(worry) = certificate.worry(now) {
            let entry = entries[*index];
            let path = entry.value.cert.as_ref().or(entry.value.dir.as_ref());
            let place = path.map_or(entry.place, |path| path.place);
            let title = certificate.title();
            cx.at(place, "edgeway::tls::expiry").warn(
                format!("the certificate for `{title}` {worry}"),
                match worry {
                    ExpiryWarning::NotYet => {
                        "keep one that is valid beside it, or look at the clock"
                    }
                    _ => "renew it; the new files are loaded while the gateway runs",
                },
            );
        }
    }
    loaded
        .into_iter()
        .map(|(_, certificate)| certificate)
        .collect()
}

/// Warns of ACME names that a certificate file already covers.
fn warn_of_double(config: &TlsConfig, certificates: &Certificates, cx: &mut CompileContext<'_>) {
    for name in &config.acme {
        if certificates.is_in_files(&name.value.to_ascii_lowercase()) {
            let message = format!(
                "a certificate from a file has the name `{}`: one by ACME would not be used",
                name.value
            );
            let help = "remove the name here, or the file";
            cx.at(name.place, "edgeway::tls::twice").warn(message, help);
        }
    }
}

/// CA certificates that clients' certificates must be signed by.
fn client_ca(config: &TlsConfig, cx: &mut CompileContext<'_>) -> Option<ClientCa> {
    match (&config.client_ca, &config.client_certificate) {
        (Some(path), mode) => {
            let mode = mode
                .as_ref()
                .map_or(ClientCertificateConfig::Required, |mode| mode.value);
            let path = cx.folder.join(&path.value);
            cx.referenced.missed(path.clone());
            Some(ClientCa::new(path, mode))
        }
        (None, Some(mode)) => cx
            .at(mode.place, "edgeway::tls::client_certificate")
            .refuse(
                "no CA is given for client certificates",
                "add `client_ca: FILE` with the CA certificates in PEM",
            ),
        (None, None) => None,
    }
}
