//! The requests of `edgeway warm`.

use std::time::Duration;

use edgeway_net::fetch::{Fetch, FetchError};
use http::{HeaderMap, HeaderValue, Request, Uri, header};

/// Client and settings of all requests.
pub(super) struct Fetcher {
    pub(super) client: Fetch,
    pub(super) headers: HeaderMap,
    /// Deadline of a response with all of its body.
    pub(super) deadline: Duration,
}

/// Result of a request.
pub(super) struct WarmResponse {
    pub(super) status: u16,
    /// Value of `X-Cache-Status`.
    pub(super) cache: Option<String>,
    pub(super) bytes: u64,
}

impl Fetcher {
    /// Fetches a URL and reads the whole response.
    pub(super) async fn get(
        &self,
        url: &Uri,
        encoding: &HeaderValue,
    ) -> Result<WarmResponse, FetchError> {
        let mut request = Request::new(());
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT_ENCODING, encoding.clone());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        let response = self.client.measure(request, self.deadline).await?;
        let cache = response.headers().get("x-cache-status");
        Ok(WarmResponse {
            status: response.status().as_u16(),
            cache: cache.and_then(|value| Some(value.to_str().ok()?.to_owned())),
            bytes: *response.body(),
        })
    }
}
