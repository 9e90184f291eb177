//! A gateway that leaves ACME to another one: it forwards challenges to the issuer and serves
//! certificates from the shared folder.

use std::time::Duration;

use edgeway_net::fetch::{Fetch, FetchError, Trust};
use http::{HeaderName, HeaderValue, Request, header};
use log::warn;
use tokio::sync::Semaphore;

use super::{ChallengeOutcome, PREFIX};
use crate::base::error;

/// Time limit of a response from the issuer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Size limit of a key authorization: a token, a full stop and a thumbprint.
const MAX_RESPONSE_LEN: usize = 1024;
/// Maximum number of requests in flight. A CA connects from a handful of places.
const MAX_IN_FLIGHT: usize = 32;

/// Header that marks a forwarded challenge request. It prevents loops, and keeps the issuer's apps
/// from responding in place of ours.
pub static FORWARDED: HeaderName = HeaderName::from_static("edgeway-acme-forwarded");

/// Client for the gateway that orders certificates.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) address: String,
    client: Fetch,
    slots: Semaphore,
}

impl Issuer {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            client: Fetch::new(&Trust::Plain).expect("without TLS nothing is loaded"),
            slots: Semaphore::new(MAX_IN_FLIGHT),
        }
    }

    /// Requests the key authorization of `token` from the issuer, for the host of the CA's request.
    pub(super) async fn ask(&self, token: &str, host: Option<&HeaderValue>) -> ChallengeOutcome {
        let Ok(_slot) = self.slots.try_acquire() else {
            return ChallengeOutcome::NoIssuer;
        };
        match self.fetch(token, host).await {
            Ok(response) => response,
            Err(error) => {
                warn!(issuer = self.address.as_str(), error:% = error::chain(&error); "the certificate issuer is unreachable");
                ChallengeOutcome::NoIssuer
            }
        }
    }

    async fn fetch(
        &self,
        token: &str,
        host: Option<&HeaderValue>,
    ) -> Result<ChallengeOutcome, FetchError> {
        let mut request = Request::new(());
        *request.uri_mut() = format!("http://{}{PREFIX}{token}", self.address)
            .parse()
            .map_err(|_| FetchError::Broken("the token is no part of a URL".to_owned()))?;
        let headers = request.headers_mut();
        headers.insert(&FORWARDED, HeaderValue::from_static("1"));
        // Weeks may pass before the next request.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some(host) = host {
            headers.insert(header::HOST, host.clone());
        }
        let response = self
            .client
            .send_for_ok(request, RESPONSE_TIMEOUT, MAX_RESPONSE_LEN);
        match response.await {
            Ok(Some(body)) => Ok(ChallengeOutcome::Known(body)),
            // A page of an app of the issuer: no key authorization is that long.
            Ok(None) | Err(FetchError::TooLong(_)) => Ok(ChallengeOutcome::Unknown),
            Err(error) => Err(error),
        }
    }
}
