//! Background work of a listener's TLS: loads changed files, rotates the ticket keys, warns of
//! certificates that expire.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use log::{error, info, warn};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use x509_parser::time::ASN1Time;

use super::{
    Server,
    files::{Files, FilesEvent, ReadDecision, ReadSchedule, Stamps},
    pair,
    policy::{self, ClientCaError, Policy},
};
use crate::{
    base::metrics::{IntGauge, Metrics},
    config::model::ClientCertificateConfig,
};

/// Interval between checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Ratio of pause to check duration. It matters when a check is slow, as with thousands of files or
/// over a network.
const PAUSE_RATIO: u32 = 50;
/// Interval between warnings about certificates that expire.
const WARNING_INTERVAL: Duration = Duration::from_hours(24);

/// Metric of listeners with TLS.
pub(super) const RELOAD_SUCCESS_METRIC: &str = "edgeway_certificate_last_reload_success";

/// The files of a listener's TLS, and the state that is rebuilt when they change.
#[derive(Debug)]
pub(super) struct Watch {
    listener: Arc<str>,
    files: Files,
    policy: Policy,
    client_ca: Option<ClientCa>,
    is_well: IntGauge,
}

/// The file with the CA certificates for clients.
#[derive(Debug)]
pub(super) struct ClientCa {
    path: PathBuf,
    mode: ClientCertificateConfig,
    turn: ReadSchedule,
    current: Vec<CertificateDer<'static>>,
    problem: Option<String>,
}

impl ClientCa {
    pub(super) fn new(path: PathBuf, mode: ClientCertificateConfig) -> Self {
        Self {
            turn: ReadSchedule::after(Stamps::read([&*path])),
            path,
            mode,
            current: Vec::new(),
            problem: None,
        }
    }

    /// Returns a digest of what is demanded of clients: of the CAs, and the mode as the lowest bit.
    pub(super) fn rules(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.current.hash(&mut hasher);
        hasher.finish() << 1 | u64::from(self.mode == ClientCertificateConfig::Required)
    }

    /// Reads the file. Returns `None` if its contents are the same as before.
    pub(super) fn read(&mut self) -> Result<Option<Arc<dyn ClientCertVerifier>>, ClientCaError> {
        let cas = pair::chain(&self.path)?;
        if cas == self.current {
            return Ok(None);
        }
        let verifier = policy::verifier(&cas, self.mode)?;
        self.current = cas;
        Ok(Some(verifier))
    }

    /// The new verifier, if the file has changed and is usable.
    fn look(&mut self, events: &mut Vec<FilesEvent>) -> Option<Arc<dyn ClientCertVerifier>> {
        let due = self.turn.due(Stamps::read([&*self.path]));
        // What failed may have been the reading: no stamp changes when files can be opened again.
        if due == ReadDecision::Nothing && self.problem.is_none() {
            return None;
        }
        match self.read() {
            Ok(verifier) => {
                self.problem = None;
                verifier
            }
            Err(error) => {
                let why = error.to_string();
                if due != ReadDecision::Changed && self.problem.as_ref() != Some(&why) {
                    let path = self.path.clone();
                    self.problem = Some(why.clone());
                    events.push(FilesEvent::Trouble { path, why });
                }
                None
            }
        }
    }
}

/// Checks the files and rotates keys, for ever.
pub(super) async fn run<F>(server: &Arc<Server>, rest: impl Fn(Duration) -> F)
where
    F: Future<Output = ()>,
{
    let clock = server.clock.clone();
    // The start has logged these warnings already.
    let mut remind_at = clock.now() + WARNING_INTERVAL;
    let mut pause = CHECK_INTERVAL;
    loop {
        rest(pause).await;
        if let Err(error) = server.sessions.turn(server.now()) {
            warn!(error:%; "session ticket key not rotated");
        }
        let began = clock.now();
        let mut held = Arc::clone(&server.watch).lock_owned().await;
        let changing = Arc::clone(server);
        // With the result: a check goes on if this task is stopped meanwhile.
        let looked = tokio::task::spawn_blocking(move || {
            held.look(&changing);
            held
        });
        let Ok(held) = looked.await else {
            error!("certificate files no longer watched");
            return;
        };
        pause = CHECK_INTERVAL.max((clock.now() - began) * PAUSE_RATIO);
        if clock.now() >= remind_at {
            held.remind(server.now());
            remind_at = clock.now() + WARNING_INTERVAL;
        }
    }
}

impl Watch {
    pub(super) fn new(
        listener: &Arc<str>,
        files: Files,
        policy: Policy,
        client_ca: Option<ClientCa>,
        metrics: &Metrics,
    ) -> Self {
        let is_well = metrics.gauge(
            RELOAD_SUCCESS_METRIC,
            "1 if every certificate on disk is in use, 0 if one is unusable.",
            &[("listener", listener)],
        );
        is_well.set(i64::from(files.is_well()));
        Self {
            listener: Arc::clone(listener),
            files,
            policy,
            client_ca,
            is_well,
        }
    }

    /// Reads changed files, and lets `server` use them.
    fn look(&mut self, server: &Server) {
        let mut look = self.files.look(server.now());
        let mut verifier = None;
        if let Some(ca) = &mut self.client_ca {
            verifier = ca.look(&mut look.events);
            look.is_well &= ca.problem.is_none();
        }
        // Before the log: who reads there that a certificate is unusable may look at the metric.
        self.is_well.set(i64::from(look.is_well));
        for event in &look.events {
            self.report(event);
        }
        if let Some(certificates) = look.certificates {
            server.certificates.set_files(&certificates);
        }
        if let Some(verifier) = verifier {
            self.set_verifier(&verifier, server);
        }
    }

    fn set_verifier(&self, verifier: &Arc<dyn ClientCertVerifier>, server: &Server) {
        let listener = &*self.listener;
        match self.policy.configs(&server.sessions, Some(verifier)) {
            Ok(configs) => {
                let rules = self.client_ca.as_ref().map_or(0, ClientCa::rules);
                server.set_configs(configs, rules);
                info!(listener; "client CA certificates reloaded");
            }
            Err(error) => {
                warn!(listener, error:%; "client CA certificates not reloaded, keeping the previous ones");
            }
        }
    }

    fn report(&self, event: &FilesEvent) {
        let listener = &*self.listener;
        match event {
            FilesEvent::Loaded(certificate, paths) => info!(
                listener,
                name = certificate.title(),
                serial = &*certificate.serial,
                file:? = paths.cert,
                expires = expiry(certificate.not_after);
                "certificate loaded"
            ),
            FilesEvent::Gone(paths) => info!(listener, file:? = paths.cert; "certificate removed"),
            FilesEvent::Trouble { path, why } => warn!(
                listener,
                file:? = path,
                error = why.as_str();
                "changed certificate unusable, keeping the previous one"
            ),
        }
    }

    fn remind(&self, now: i64) {
        for certificate in self.files.certificates() {
            if let Some(worry) = certificate.worry(now) {
                warn!(
                    listener = &*self.listener,
                    name = certificate.title(),
                    serial = &*certificate.serial;
                    "certificate {worry}"
                );
            }
        }
    }
}

/// Returns a time in seconds since 1970 as text.
fn expiry(time: i64) -> String {
    ASN1Time::from_timestamp(time).map_or_else(|_| "never".to_owned(), |time| time.to_string())
}
