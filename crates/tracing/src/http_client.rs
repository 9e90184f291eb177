//! The gateway's own HTTP client as the one of the exporter.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, header};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use parking_lot::Mutex;

use crate::base::fetch::Fetch;

/// Longest response that is read. A collector sends a few bytes.
const LONGEST: usize = 64 * 1024;

/// Client for a collector.
#[derive(Debug)]
pub(super) struct Client {
    /// Headers of the configuration. Only those of the content stand beside them.
    pub(super) headers: HeaderMap,
    pub(super) fetch: Fetch,
    pub(super) timeout: Duration,
    /// Reason of the last failure, which the exporter's own message lacks.
    pub(super) failure: Arc<Mutex<Option<String>>>,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut headers = self.headers.clone();
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
            if let Some(value) = request.headers_mut().remove(&name) {
                headers.insert(name, value);
            }
        }
        *request.headers_mut() = headers;
        let sent = self.fetch.send_with_body(request, self.timeout, LONGEST);
        let outcome = sent.await;
        *self.failure.lock() = match &outcome {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("response with status {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        Ok(outcome?)
    }
}
