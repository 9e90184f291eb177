//! Manages names: orders certificates when they are due, stores and serves them.

#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use edgeway_net::tasks::Tasks;
use instant_acme::Account;
use log::{debug, info, warn};
use smart_default::SmartDefault;
use tokio::{
    sync::{OwnedMutexGuard, Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{
    account::{CaClient, RequestedDelay, on_disk},
    certificate::Certificate,
    challenge::Tokens,
    managed::{ConfiguredName, ManagedName, OrderOutcome},
    order::{self, OrderError, OrderParameters},
    schedule,
    store::{NameState, Pem, Store, StoredCertificate, seconds},
};
use crate::{
    base::{clock::Clock, error::chain},
    zones::Zone,
};

/// Maximum number of orders in flight.
const MAX_ORDERS: usize = 4;
/// Time limit of a whole order.
const ORDER: Duration = Duration::from_mins(5);
/// The longest sleep, because the system clock may be set meanwhile, or the machine suspended.
const MAX_SLEEP: Duration = Duration::from_mins(10);
/// Delay before a retry while another process orders the name.
const LOCKED_RETRY: Duration = Duration::from_secs(10);
/// Shortest interval between fetches of renewal information, whatever the CA requests.
const MIN_WINDOW_REFRESH: Duration = Duration::from_hours(1);
const MAX_WINDOW_REFRESH: Duration = Duration::from_hours(24);
const WINDOW_AFTER_FAILURE: Duration = Duration::from_hours(6);

/// Configured state of a gateway that orders certificates.
#[derive(Debug)]
pub(super) struct Issuing {
    pub(super) ca: CaClient,
    pub(super) store: Store,
    pub(super) shared: Arc<IssuerState>,
    pub(super) clock: Clock,
}

/// State shared by all configurations: the zone of all names.
#[derive(Debug, SmartDefault)]
pub(super) struct IssuerState {
    pub(super) tokens: Arc<Tokens>,
    #[default(Arc::new(Semaphore::new(MAX_ORDERS)))]
    slots: Arc<Semaphore>,
    /// Ensures that one account is created, not one for each name.
    #[default(Arc::new(Semaphore::new(1)))]
    pub(super) making: Arc<Semaphore>,
    /// Orders in flight. They continue when the configuration that began them is replaced, because
    /// a CA counts abandoned orders.
    orders: Tasks,
}

impl Zone for IssuerState {}

impl Issuing {
    /// Manages `name` for as long as it is polled.
    pub(super) async fn keep(self: &Arc<Self>, name: &ConfiguredName) {
        let managed = &name.managed;
        loop {
            // Waits for an order of another configuration to complete.
            let alone = Arc::clone(&managed.alone).lock_owned().await;
            let now = self.clock.wall();
            let due = managed.due(&self.ca.directory, now);
            match due.duration_since(now) {
                Ok(wait) if !wait.is_zero() => {
                    drop(alone);
                    debug!(name = &*managed.name, seconds = wait.as_secs(); "certificate request postponed");
                    sleep(wait.min(MAX_SLEEP)).await;
                    self.ask_for_window(managed).await;
                }
                _ => self.renew(name, alone).await,
            }
        }
    }

    /// Orders a certificate. The order continues even if this future is dropped.
    async fn renew(self: &Arc<Self>, name: &ConfiguredName, alone: OwnedMutexGuard<()>) {
        let Ok(slot) = Arc::clone(&self.shared.slots).acquire_owned().await else {
            return sleep(LOCKED_RETRY).await;
        };
        let (over, is_over) = oneshot::channel();
        let (issuer, name) = (Arc::clone(self), name.clone());
        let title = format!("certificate for {}", name.managed.name);
        self.shared.orders.spawn(title, async move {
            let (_alone, _slot) = (alone, slot);
            let is_busy = match issuer.attempt(&name).await {
                Ok(is_done) => !is_done,
                Err(error) => {
                    issuer.failed(&name.managed, &error, None).await;
                    false
                }
            };
            // The receiver is gone: the configuration was replaced.
            let _replaced = over.send(is_busy);
        });
        if is_over.await.unwrap_or(true) {
            sleep(LOCKED_RETRY).await;
        }
    }

    /// Makes one attempt. False if another process is ordering, whose outcome is on disk later.
    async fn attempt(&self, name: &ConfiguredName) -> Result<bool, OrderError> {
        let managed = &name.managed;
        let store = self.store.clone();
        let of = Arc::clone(&managed.name);
        let lock = on_disk(move || store.lock(&of)).await?;
        if self.take_over(managed).await {
            return Ok(true);
        }
        let Some(_lock) = lock else {
            return Ok(false);
        };
        let delay = RequestedDelay::default();
        let ordered = timeout(ORDER, self.order(name, &delay)).await;
        match ordered.unwrap_or(Err(OrderError::TooLong)) {
            Ok((pem, certificate)) => self.issued(managed, pem, certificate).await,
            Err(error) => self.failed(managed, &error, delay.to_wait()).await,
        }
        Ok(true)
    }

    /// Loads a certificate that another process has put into the folder.
    async fn take_over(&self, managed: &ManagedName) -> bool {
        let store = self.store.clone();
        let of = Arc::clone(&managed.name);
        let Ok(Some(stored)) = on_disk(move || store.load(&of)).await else {
            return false;
        };
        // An older one on disk is one that we could not overwrite.
        let is_newer = |served| stored.certificate.until > served;
        if !managed.expires().is_none_or(is_newer) {
            return false;
        }
        info!(name = &*managed.name, serial = stored.certificate.serial.as_str(); "certificate renewed by another process");
        managed.serve(stored);
        true
    }

    async fn order(
        &self,
        name: &ConfiguredName,
        delay: &RequestedDelay,
    ) -> Result<(Pem, Certificate), OrderError> {
        let managed = &name.managed;
        let Some(challenge) = name.challenge() else {
            return Err(OrderError::NoChallenge(
                "challenge that a listener can respond to",
            ));
        };
        let wanted = OrderParameters {
            managed,
            challenge,
            replaces: managed.replaces(),
            tokens: &self.shared.tokens,
        };
        let account = |is_forgotten| {
            self.ca
                .account(&self.store, &self.clock, delay, is_forgotten)
        };
        let obtained = match order::obtain(&account(false).await?, &wanted).await {
            Err(OrderError::UnknownAccount) => {
                warn!(directory = self.ca.directory.as_str(); "the CA does not know our account, creating a new one");
                order::obtain(&account(true).await?, &wanted).await
            }
            obtained => obtained,
        };
        let pem = obtained?;
        let certificate =
            Certificate::read(&managed.name, pem.chain.as_bytes(), pem.key.as_bytes())?;
        Ok((pem, certificate))
    }

    async fn issued(&self, managed: &ManagedName, pem: Pem, certificate: Certificate) {
        let state = NameState {
            directory: self.ca.directory.clone(),
            obtained: seconds(self.clock.wall()),
            ..NameState::default()
        };
        let (store, of) = (self.store.clone(), Arc::clone(&managed.name));
        let saved_state = state.clone();
        let saved = on_disk(move || store.save(&of, &pem, &saved_state)).await;
        if let Err(error) = saved {
            // The certificate serves anyway. It has to be ordered again only after a restart.
            warn!(name = &*managed.name, error:% = chain(&error); "certificate issued but not stored");
        }
        info!(
            name = &*managed.name,
            serial = certificate.serial.as_str(),
            expires:% = shown(certificate.until);
            "certificate issued"
        );
        managed.count(OrderOutcome::Issued);
        managed.serve(StoredCertificate { certificate, state });
    }

    async fn failed(
        &self,
        managed: &ManagedName,
        error: &OrderError,
        retry_after: Option<Duration>,
    ) {
        if matches!(error, OrderError::Stopped) {
            return sleep(LOCKED_RETRY).await;
        }
        let outcome = error.outcome();
        let mut state = managed.state();
        if state.failing != self.ca.directory {
            state.failing.clone_from(&self.ca.directory);
            state.failures = 0;
        }
        state.failures = state.failures.saturating_add(1);
        let pause = schedule::pause(
            error.failure(),
            state.failures,
            retry_after,
            fastrand::f64(),
        );
        state.next_try = seconds(self.clock.wall() + pause).saturating_add(1);
        state.was_asked_to_wait = retry_after.is_some_and(|retry_after| retry_after >= pause);
        state.problem = Some(chain(error));
        warn!(
            name = &*managed.name,
            problem = state.problem.as_deref().unwrap_or_default(),
            failures = state.failures,
            again_in_seconds = pause.as_secs(),
            expires:% = managed.expires().map_or_else(|| "no certificate yet".to_owned(), shown);
            "certificate not issued"
        );
        managed.set_state(state.clone());
        let (store, of) = (self.store.clone(), Arc::clone(&managed.name));
        if let Err(error) = on_disk(move || store.save_state(&of, &state)).await {
            warn!(name = &*managed.name, error:% = chain(&error); "cannot store the outcome of an attempt");
        }
        managed.count(outcome);
    }

    /// Fetches the renewal window from the CA (RFC 9773), if that is due. Without a window the
    /// local schedule applies.
    async fn ask_for_window(&self, managed: &ManagedName) {
        let now = self.clock.wall();
        let Some(id) = managed.window_due(&self.ca.directory, now) else {
            return;
        };
        let account = self.ca.known_account(&self.store, &self.clock).await;
        let outcome = match account {
            Ok(Some(account)) => window(&account, &id).await,
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Some((window, again))) => {
                let again = again.clamp(MIN_WINDOW_REFRESH, MAX_WINDOW_REFRESH);
                managed.set_window(Some(window), now + again);
            }
            Ok(None) => managed.set_window(None, now + MAX_WINDOW_REFRESH),
            Err(error) => {
                debug!(name = &*managed.name, error:% = chain(&error); "the CA did not say when to renew");
                managed.set_window(None, now + WINDOW_AFTER_FAILURE);
            }
        }
    }
}

type Window = (Range<SystemTime>, Duration);

async fn window(
    account: &Account,
    id: &instant_acme::CertificateIdentifier<'_>,
) -> Result<Option<Window>, OrderError> {
    match account.renewal_info(id).await {
        Ok((info, again)) => {
            let window = info.suggested_window;
            Ok(Some((window.start.into()..window.end.into(), again)))
        }
        Err(instant_acme::Error::Unsupported(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn shown(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}
