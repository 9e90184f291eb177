//! Certificates from a CA by ACME (RFC 8555): ordered, stored on disk, served and renewed without a
//! restart.
//!
//! The issuer (`issuer`) is the one gateway that orders certificates. Gateways that share its names
//! are followers (`follower`): they forward challenges to it and serve what appears in the folder.
//!
//! The state of a name outlives a configuration (`managed`), and so does an order in flight:
//! however often a gateway reloads, nothing is ordered twice.

mod account;
mod certificate;
mod challenge;
mod config;
mod follower;
mod issuer;
mod managed;
mod order;
mod schedule;
mod store;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use log::{error, info, warn};
use tokio::{task::JoinSet, time::sleep};

pub use self::{
    config::{ListenerUse, ListenerUses},
    follower::FORWARDED,
    managed::CertificateStatus,
};
use self::{
    follower::Issuer,
    issuer::Issuing,
    managed::{ConfiguredName, ManagedName},
    store::Store,
};
use crate::{
    base::{clock::rfc3339, error::chain, metrics::Series},
    files::Stamps,
};

/// Path prefix of HTTP-01 challenge requests (RFC 8555, 8.3).
pub const PREFIX: &str = "/.well-known/acme-challenge/";

/// Interval at which a follower checks the folder.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// ACME for the names of this gateway.
#[derive(Debug)]
pub struct Acme {
    role: Role,
    names: Vec<ConfiguredName>,
}

#[derive(Debug)]
enum Role {
    Issues(Arc<Issuing>),
    Follows { issuer: Box<Issuer>, store: Store },
}

/// Outcome of a request below [`PREFIX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengeOutcome {
    /// The key authorization.
    Known(Bytes),
    /// Unknown token. The app behind the gateway may know it.
    Unknown,
    /// A request forwarded by another gateway, for a token that is unknown here too.
    NotFound,
    /// The issuer does not respond.
    NoIssuer,
}

impl Acme {
    /// Returns true if a CA may send challenge requests now: while an order is in flight, or at any
    /// time when another gateway may have one.
    #[inline]
    pub fn is_asked(&self) -> bool {
        match &self.role {
            Role::Issues(issuing) => !issuing.shared.tokens.is_empty(),
            Role::Follows { .. } => true,
        }
    }

    /// Looks up `token`, the part of the path after [`PREFIX`].
    pub async fn respond(
        &self,
        token: &str,
        host: Option<&HeaderValue>,
        is_forwarded: bool,
    ) -> ChallengeOutcome {
        let unknown = if is_forwarded {
            ChallengeOutcome::NotFound
        } else {
            ChallengeOutcome::Unknown
        };
        if !challenge::is_token(token) {
            return unknown;
        }
        match &self.role {
            Role::Issues(issuing) => {
                let known = issuing.shared.tokens.get(token);
                known.map_or(unknown, ChallengeOutcome::Known)
            }
            Role::Follows { .. } if is_forwarded => ChallengeOutcome::NotFound,
            Role::Follows { issuer, .. } => issuer.ask(token, host).await,
        }
    }

    /// Returns true if a series has no managed name, or the name is managed here.
    pub fn has_series(acme: Option<&Self>, series: Series<'_>) -> bool {
        let Some(name) = managed::name_of(series) else {
            return true;
        };
        acme.is_some_and(|acme| acme.names.iter().any(|known| *known.managed.name == *name))
    }

    /// Status of each name.
    pub fn status(&self) -> Vec<CertificateStatus> {
        self.names
            .iter()
            .map(|name| self.status_of(&name.managed))
            .collect()
    }

    fn status_of(&self, managed: &ManagedName) -> CertificateStatus {
        let state = managed.state();
        CertificateStatus {
            name: managed.name.to_string(),
            expires: managed.expires().map(rfc3339),
            next: match &self.role {
                Role::Issues(issuing) => {
                    let now = issuing.clock.wall();
                    Some(rfc3339(managed.due(&issuing.ca.directory, now)))
                }
                Role::Follows { .. } => None,
            },
            failures: state.failures,
            problem: state.problem,
        }
    }

    /// Manages the names for as long as it is polled. Orders in flight continue after that, because
    /// the next configuration usually has the same names.
    pub async fn supervise(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        match &self.role {
            Role::Issues(issuing) => {
                for name in &self.names {
                    let (issuing, name) = (Arc::clone(issuing), name.clone());
                    tasks.spawn(async move { issuing.keep(&name).await });
                }
            }
            Role::Follows { .. } => {
                let issuer = Arc::clone(&self);
                tasks.spawn(async move { issuer.watch().await });
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(problem) = ended {
                error!(error:% = problem; "ACME task ended");
            }
        }
    }

    /// Serves the certificates that appear in the folder.
    async fn watch(self: Arc<Self>) {
        let mut seen = vec![<(Stamps, bool)>::default(); self.names.len()];
        loop {
            let issuer = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                issuer.look(&mut seen);
                seen
            });
            match looked.await {
                Ok(now_seen) => seen = now_seen,
                Err(problem) => {
                    error!(error:% = problem; "ACME folder no longer watched");
                    return;
                }
            }
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Loads what has changed since `seen`. Blocks.
    fn look(&self, seen: &mut [(Stamps, bool)]) {
        let Role::Follows { store, issuer } = &self.role else {
            return;
        };
        for (ConfiguredName { managed, .. }, seen) in self.names.iter().zip(seen) {
            let stamp = store.stamps(&managed.name);
            if *seen == (stamp.clone(), false) {
                continue;
            }
            // Loaded again until it succeeds: no stamp changes when files can be opened again.
            let is_new = std::mem::replace(&mut seen.0, stamp.clone()) != stamp;
            let loaded = store.load(&managed.name);
            seen.1 = loaded.is_err();
            match loaded {
                Ok(Some(stored))
                    if managed.serial().as_ref() == Some(&stored.certificate.serial) => {}
                Ok(Some(stored)) => {
                    info!(name = &*managed.name, serial = stored.certificate.serial.as_str(); "certificate of the issuer loaded");
                    managed.serve(stored);
                }
                Ok(None) => {}
                // The pair may be half written: the other half changes the stamp.
                Err(_) if !is_new => {}
                Err(problem) => {
                    warn!(name = &*managed.name, issuer = &*issuer.address, error:% = chain(&problem); "certificate of the issuer unusable");
                }
            }
        }
    }
}
