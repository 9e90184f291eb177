//! A name managed by ACME: the certificate served for it, and the result of its last attempts.

use std::{
    ops::Range,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use instant_acme::CertificateIdentifier;
use log::{info, warn};
use parking_lot::Mutex;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    certificate::{self, Certificate},
    schedule::{self, ScheduleInputs},
    store::{NameState, Store, StoredCertificate},
};
use crate::{
    Certificates,
    base::{
        error::chain,
        metrics::{Metrics, Series},
    },
    config::model::ChallengeConfig,
    zones::Zone,
};

/// A name as configured.
#[derive(Clone, Debug)]
pub(super) struct ConfiguredName {
    pub(super) managed: Arc<ManagedName>,
    /// Challenges that can be served, the likeliest first. Empty for a follower.
    pub(super) challenges: Arc<[ChallengeConfig]>,
}

/// A name and its state, shared by all configurations that have it: its zone.
#[derive(Debug)]
pub(super) struct ManagedName {
    pub(super) name: Arc<str>,
    /// Held while a certificate is being ordered.
    pub(super) alone: Arc<AsyncMutex<()>>,
    shown: Mutex<ServedCertificates>,
    served: Mutex<ServedCertificate>,
    metrics: NameMetrics,
}

/// Certificates served to clients and CAs, and the listeners that serve them.
#[derive(Debug, Default)]
struct ServedCertificates {
    /// Listeners of every configuration that is still alive: the current one, one that is being
    /// compiled, and replaced ones. Each lives as long as its configuration.
    listeners: Vec<Weak<Certificates>>,
    /// A certificate, or its stand-in.
    key: Option<Arc<CertifiedKey>>,
    challenge: Option<Arc<CertifiedKey>>,
}

impl ServedCertificates {
    fn each(&mut self, show: impl Fn(&Certificates)) {
        self.listeners.retain(|listener| match listener.upgrade() {
            Some(listener) => {
                show(&listener);
                true
            }
            None => false,
        });
    }
}

impl Zone for ManagedName {}

#[derive(Debug, Default)]
struct ServedCertificate {
    /// `None` while a stand-in is served.
    certificate: Option<Certificate>,
    state: NameState,
    /// Renewal window suggested by the CA, and when to fetch it again.
    window: Option<Range<SystemTime>>,
    window_asked: Option<SystemTime>,
}

edgeway_base::metric_handles! {
    #[derive(Debug)]
    struct NameMetrics(name) {
        orders: [IntCounter; outcome: OrderOutcome::label] = "edgeway_acme_orders_total",
            "Certificates requested by ACME, by outcome.";
        stand_in: IntGauge = "edgeway_acme_self_signed",
            "1 while a self-signed certificate stands in for one that is not issued yet.";
    }
}

/// Name that an ACME series belongs to.
pub(super) fn name_of(series: Series<'_>) -> Option<&str> {
    let is_ours = NameMetrics::FAMILIES.contains(&series.family);
    is_ours.then(|| series.get("name"))?
}

edgeway_base::enum_table! {
    /// Outcome of an order, and its label.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum OrderOutcome => label {
        Issued = "issued",
        Refused = "refused",
        Unanswered = "unanswered",
        /// Failed on our side.
        Failed = "failed",
    }
}

/// A certificate managed by ACME.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    pub name: String,
    /// RFC 3339, UTC; `None` while a self-signed certificate stands in.
    pub expires: Option<String>,
    /// Time of the next order; `None` if another gateway orders.
    pub next: Option<String>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// Why the last attempt failed.
    pub problem: Option<String>,
}

impl ConfiguredName {
    /// Next challenge to attempt. It changes after a failure, since a proxy in front of us may
    /// block one of them.
    pub(super) fn challenge(&self) -> Option<ChallengeConfig> {
        let failures = self.managed.served.lock().state.failures;
        let failures = usize::try_from(failures).unwrap_or(0);
        let count = self.challenges.len().max(1);
        self.challenges.get(failures % count).copied()
    }
}

impl ManagedName {
    pub(super) fn new(name: Arc<str>, metrics: &Metrics) -> Self {
        Self {
            metrics: NameMetrics::new(metrics, &name),
            name,
            alone: Arc::default(),
            shown: Mutex::default(),
            served: Mutex::default(),
        }
    }

    /// Serves the stored certificate or a stand-in, unless something is served already. Blocks.
    pub(super) fn begin(&self, store: &Store, now: SystemTime) {
        if self.shown.lock().key.is_some() {
            return;
        }
        let stored = store.load(&self.name).unwrap_or_else(|error| {
            warn!(name = &*self.name, error:% = chain(&error); "stored certificate unusable");
            None
        });
        if let Some(stored) = stored {
            self.serve(stored);
        } else {
            self.served.lock().state = store.state(&self.name);
            self.serve_stand_in(now);
        }
        let mut served = self.served.lock();
        if let Some(next) = served.state.next_try() {
            let was_asked = served.state.was_asked_to_wait;
            let next = schedule::after_restart(next, now, was_asked);
            served.state.next_try = super::store::seconds(next);
        }
    }

    /// Adds a listener, which serves this name and its challenges for as long as it lives.
    pub(super) fn add(&self, listener: &Arc<Certificates>) {
        let mut shown = self.shown.lock();
        if let Some(key) = &shown.key {
            listener.set_managed(&self.name, Arc::clone(key));
        }
        if let Some(challenge) = &shown.challenge {
            listener.set_challenge(&self.name, Some(Arc::clone(challenge)));
        }
        // Removes the listeners that are gone.
        shown.each(|_| {});
        shown.listeners.push(Arc::downgrade(listener));
    }

    /// Serves a TLS-ALPN-01 challenge certificate to the CA. `None` ends it.
    pub(super) fn show_challenge(&self, challenge: Option<Arc<CertifiedKey>>) {
        let mut shown = self.shown.lock();
        shown.each(|listener| listener.set_challenge(&self.name, challenge.clone()));
        shown.challenge = challenge;
    }

    fn show(&self, key: Arc<CertifiedKey>) {
        let mut shown = self.shown.lock();
        shown.each(|listener| listener.set_managed(&self.name, Arc::clone(&key)));
        shown.key = Some(key);
    }

    /// Serves a certificate from the next handshake on.
    pub(super) fn serve(&self, stored: StoredCertificate) {
        let StoredCertificate { certificate, state } = stored;
        self.show(Arc::clone(&certificate.key));
        self.metrics.stand_in.set(0);
        let mut served = self.served.lock();
        *served = ServedCertificate {
            certificate: Some(certificate),
            state,
            ..ServedCertificate::default()
        };
    }

    fn serve_stand_in(&self, now: SystemTime) {
        match certificate::stand_in(&self.name, now) {
            Ok(key) => {
                self.show(key);
                self.metrics.stand_in.set(1);
                info!(name = &*self.name; "a self-signed certificate stands in until one is issued");
            }
            Err(error) => {
                warn!(name = &*self.name, error:% = chain(&error); "cannot create a stand-in certificate");
            }
        }
    }

    /// Returns when to order a certificate from the CA with this directory.
    pub(super) fn due(&self, directory: &str, now: SystemTime) -> SystemTime {
        let served = self.served.lock();
        let due = match &served.certificate {
            Some(certificate) if served.state.directory == directory => ScheduleInputs {
                validity: certificate.from..certificate.until,
                obtained: served.state.obtained(),
                dice: certificate.dice(),
                window: served.window.clone(),
            }
            .renewal(),
            // There is none, or it is from a CA that was configured before.
            _ => now,
        };
        // Another CA has refused nothing yet.
        let next = { served.state.next_try() }.filter(|_| served.state.failing == directory);
        next.map_or(due, |next| due.max(next))
    }

    /// The serial number of the served certificate, unless that is a stand-in.
    pub(super) fn serial(&self) -> Option<String> {
        let served = self.served.lock();
        served.certificate.as_ref().map(|c| c.serial.clone())
    }

    /// Identifier of the certificate that the next one replaces, if the CA tracks renewals. `None`
    /// after a failure, because the identifier may have caused it.
    pub(super) fn replaces(&self) -> Option<CertificateIdentifier<'static>> {
        let served = self.served.lock();
        if served.window.is_none() || served.state.failures > 0 {
            return None;
        }
        served.certificate.as_ref()?.identifier()
    }

    /// The certificate to fetch renewal information for, if that is due.
    pub(super) fn window_due(
        &self,
        directory: &str,
        now: SystemTime,
    ) -> Option<CertificateIdentifier<'static>> {
        let mut served = self.served.lock();
        let certificate = served.certificate.as_ref()?;
        if served.state.directory != directory {
            return None;
        }
        let first = now + FIRST_WINDOW.mul_f64(0.5 + certificate.dice());
        let due = *served.window_asked.get_or_insert(first);
        if now < due {
            return None;
        }
        served.certificate.as_ref()?.identifier()
    }

    /// Records the renewal window, and when to fetch it again.
    pub(super) fn set_window(&self, window: Option<Range<SystemTime>>, ask_again: SystemTime) {
        let mut served = self.served.lock();
        if let Some(window) = window {
            served.window = Some(window);
        }
        served.window_asked = Some(ask_again);
    }

    /// Counts the outcome of an order.
    pub(super) fn count(&self, outcome: OrderOutcome) {
        self.metrics.orders[outcome].inc();
    }

    pub(super) fn state(&self) -> NameState {
        self.served.lock().state.clone()
    }

    pub(super) fn set_state(&self, state: NameState) {
        self.served.lock().state = state;
    }

    pub(super) fn expires(&self) -> Option<SystemTime> {
        let served = self.served.lock();
        served.certificate.as_ref().map(|c| c.until)
    }
}

/// Delay before the first fetch of renewal information. After a start, a CA that was contacted
/// before is left alone for at least half an hour.
const FIRST_WINDOW: Duration = Duration::from_hours(1);

impl Certificate {
    /// Spreads renewals. The value stays the same for the life of a certificate.
    fn dice(&self) -> f64 {
        schedule::dice(&self.serial)
    }
}
