//! Connection to the CA: a client with deadlines, and our account there.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use edgeway_net::fetch::{self, Fetch, FetchError, Schemes, Trust};
use http::{HeaderValue, Request, header};
use http_body_util::BodyExt;
use instant_acme::{
    Account, AccountCredentials, BodyWrapper, BytesResponse, Error, HttpClient, NewAccount,
};
use log::info;
use parking_lot::Mutex;
use rustls::RootCertStore;
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    order::OrderError,
    store::{Store, StoreError, StoredAccount},
};
use crate::base::{clock::Clock, http_date};

/// Time limit of one exchange with the CA.
const EXCHANGE: Duration = Duration::from_secs(30);
/// Size limit of a response. A certificate chain is a few KiB.
const MAX_RESPONSE_LEN: usize = 1024 * 1024;

const USER_AGENT: &str = concat!("edgeway/", env!("CARGO_PKG_VERSION"), " instant-acme");

/// The CA that signs certificates for us.
#[derive(Debug)]
pub(super) struct CaClient {
    /// The URL of its ACME directory.
    pub(super) directory: String,
    /// CA certificates that verify the directory's own certificate. Defaults to the system's.
    pub(super) roots: Option<Arc<RootCertStore>>,
    pub(super) email: Option<String>,
    /// Ensures that one account is created, not one for each name.
    pub(super) making: Arc<Semaphore>,
}

/// Delay that the CA requested with its last refusal. `instant-acme` keeps problem documents, but
/// not their `Retry-After`.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestedDelay(Arc<Mutex<Option<Duration>>>);

impl RequestedDelay {
    pub(super) fn to_wait(&self) -> Option<Duration> {
        *self.0.lock()
    }
}

impl CaClient {
    /// Permit to create an account. Only one at a time, or two would be created.
    async fn alone(&self) -> Result<SemaphorePermit<'_>, OrderError> {
        self.making.acquire().await.map_err(|_| OrderError::Stopped)
    }

    /// Returns our account, and creates and stores it if there is none yet, or the CA has forgotten
    /// it. Each order gets its own
    /// client, because orders are weeks apart.
    pub(super) async fn account(
        &self,
        store: &Store,
        clock: &Clock,
        delay: &RequestedDelay,
        is_forgotten: bool,
    ) -> Result<Account, OrderError> {
        let _alone = self.alone().await?;
        let client = self.client(clock, delay).await?;
        match self.stored(store).await?.filter(|_| !is_forgotten) {
            Some(stored) => self.restore(client, store, stored).await,
            None => self.create(client, store).await,
        }
    }

    /// Returns our account if there is one, and creates none.
    pub(super) async fn known_account(
        &self,
        store: &Store,
        clock: &Clock,
    ) -> Result<Option<Account>, OrderError> {
        let Some(stored) = self.stored(store).await? else {
            return Ok(None);
        };
        let client = self.client(clock, &RequestedDelay::default()).await?;
        let credentials = read(&stored)?;
        let builder = Account::builder_with_http(Box::new(client));
        Ok(Some(builder.from_credentials(credentials).await?))
    }

    async fn restore(
        &self,
        client: AcmeHttpClient,
        store: &Store,
        mut stored: StoredAccount,
    ) -> Result<Account, OrderError> {
        let credentials = read(&stored)?;
        let builder = Account::builder_with_http(Box::new(client));
        let account = builder.from_credentials(credentials).await?;
        if stored.email == self.email {
            return Ok(account);
        }
        let contact = self.contact();
        match account.update_contacts(contact.as_deref().as_slice()).await {
            Ok(()) => {}
            // The order will fail for the same reason and create another account.
            Err(error) if is_problem(&error, "accountDoesNotExist") => return Ok(account),
            Err(error) => return Err(error.into()),
        }
        stored.email.clone_from(&self.email);
        let store = store.clone();
        on_disk(move || store.save_account(&stored)).await?;
        info!(directory = self.directory.as_str(); "ACME account address updated");
        Ok(account)
    }

    async fn stored(&self, store: &Store) -> Result<Option<StoredAccount>, OrderError> {
        let (store, directory) = (store.clone(), self.directory.clone());
        on_disk(move || Ok(store.account(&directory))).await
    }

    /// Creates an account. Configuring the CA counts as agreement to its terms.
    async fn create(&self, client: AcmeHttpClient, store: &Store) -> Result<Account, OrderError> {
        let contact = self.contact();
        let contact = contact.as_deref();
        let wanted = NewAccount {
            contact: contact.as_slice(),
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let builder = Account::builder_with_http(Box::new(client));
        let (account, credentials) = builder
            .create(&wanted, self.directory.clone(), None)
            .await?;
        let stored = StoredAccount {
            directory: self.directory.clone(),
            email: self.email.clone(),
            credentials: serde_json::to_value(&credentials).map_err(Error::Json)?,
        };
        let store = store.clone();
        on_disk(move || store.save_account(&stored)).await?;
        info!(directory = self.directory.as_str(), account = account.id(); "ACME account created");
        Ok(account)
    }

    fn contact(&self) -> Option<String> {
        let email = self.email.as_ref()?;
        Some(format!("mailto:{email}"))
    }

    async fn client(
        &self,
        clock: &Clock,
        delay: &RequestedDelay,
    ) -> Result<AcmeHttpClient, OrderError> {
        let trust = self.roots.clone().map_or(Trust::System, Trust::Roots);
        // Plain HTTP is for directories on loopback. An HTTPS directory must not lead to it.
        let schemes = if self.directory.starts_with("https:") {
            Schemes::HttpsOnly
        } else {
            Schemes::HttpAndHttps
        };
        // The system's CA certificates are read from files.
        let tls = tokio::task::spawn_blocking(move || fetch::tls(&trust)).await;
        let tls = tls.map_err(|_| OrderError::Stopped)?;
        Ok(AcmeHttpClient {
            fetch: Fetch::with_tls(tls.map_err(OrderError::Tls)?, schemes),
            clock: clock.clone(),
            delay: delay.clone(),
        })
    }
}

/// Returns true if the CA refused with this problem type (RFC 8555, 6.7).
pub(super) fn is_problem(error: &Error, kind: &str) -> bool {
    matches!(error, Error::Api(problem) if problem.r#type.as_deref().is_some_and(|urn| {
        urn.strip_prefix("urn:ietf:params:acme:error:") == Some(kind)
    }))
}

/// Runs blocking work on a thread of its own.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, OrderError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| OrderError::Stopped)??)
}

fn read(stored: &StoredAccount) -> Result<AccountCredentials, OrderError> {
    let read = AccountCredentials::deserialize(&stored.credentials);
    read.map_err(OrderError::Account)
}

/// HTTP client for the CA, with deadlines and size limits.
#[derive(Clone)]
struct AcmeHttpClient {
    fetch: Fetch,
    clock: Clock,
    delay: RequestedDelay,
}

type Exchange = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl HttpClient for AcmeHttpClient {
    fn request(&self, mut request: Request<BodyWrapper<Bytes>>) -> Exchange {
        let agent = HeaderValue::from_static(USER_AGENT);
        request.headers_mut().insert(header::USER_AGENT, agent);
        let client = self.clone();
        Box::pin(async move {
            let other = |error: FetchError| Error::Other(Box::new(error));
            let (parts, body) = request.into_parts();
            // The body is in memory, so that reading it cannot fail.
            let body = body.collect().await.unwrap_or_default().to_bytes();
            let request = Request::from_parts(parts, body);
            let sent = client
                .fetch
                .send_with_body(request, EXCHANGE, MAX_RESPONSE_LEN);
            let (parts, body) = sent.await.map_err(other)?.into_parts();
            if parts.status.is_client_error() || parts.status.is_server_error() {
                let value = parts.headers.get(header::RETRY_AFTER);
                *client.delay.0.lock() =
                    value.and_then(|value| wait_of(value, client.clock.wall()));
            }
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}

/// Parses `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn wait_of(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    match text.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => http_date::parse(text.as_bytes())?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |text: &str| wait_of(&HeaderValue::from_str(text).unwrap(), UNIX_EPOCH);
        assert_eq!(wait("120"), Some(Duration::from_mins(2)));
        assert_eq!(
            wait("Thu, 01 Jan 1970 00:10:00 GMT"),
            Some(Duration::from_mins(10))
        );
        for bad in ["", "soon", "-1", "99999999999999999999"] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }
}
