//! A gateway that leaves ACME to another one: it forwards challenges to the issuer and serves
//! certificates from the shared folder.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use log::warn;
use tokio::{sync::Semaphore, time::timeout};

use super::PREFIX;

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
    address: String,
    client: Client<HttpConnector, Empty<Bytes>>,
    slots: Semaphore,
}

/// Response of the issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IssuerResponse {
    Answer(Bytes),
    /// The issuer does not know this token.
    Nothing,
    Failed,
}

impl Issuer {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            // No connection is kept: weeks may pass before the next request.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build_http(),
            slots: Semaphore::new(MAX_IN_FLIGHT),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Requests the key authorization of `token` from the issuer, for the host of the CA's request.
    pub(super) async fn ask(&self, token: &str, host: Option<&HeaderValue>) -> IssuerResponse {
        let Ok(_slot) = self.slots.try_acquire() else {
            return IssuerResponse::Failed;
        };
        match timeout(RESPONSE_TIMEOUT, self.fetch(token, host)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => {
                let error = crate::base::error::chain(&*error);
                warn!(issuer = self.address.as_str(), error:%; "the certificate issuer is unreachable");
                IssuerResponse::Failed
            }
            Err(_) => {
                warn!(issuer = self.address.as_str(); "the certificate issuer took too long to respond");
                IssuerResponse::Failed
            }
        }
    }

    async fn fetch(
        &self,
        token: &str,
        host: Option<&HeaderValue>,
    ) -> Result<IssuerResponse, Box<dyn std::error::Error + Send + Sync>> {
        let mut request = Request::get(format!("http://{}{PREFIX}{token}", self.address))
            .header(&FORWARDED, HeaderValue::from_static("1"))
            .header(header::CONNECTION, HeaderValue::from_static("close"))
            .body(Empty::new())?;
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        let response = self.client.request(request).await?;
        if response.status() != StatusCode::OK {
            return Ok(IssuerResponse::Nothing);
        }
        let body = Limited::new(response.into_body(), MAX_RESPONSE_LEN);
        Ok(IssuerResponse::Answer(body.collect().await?.to_bytes()))
    }
}
