//! Origin with numbered responses, so that a test can identify each.

use std::{collections::HashMap, io, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Exchange, Origin, Serve, Then};
use crate::support::wait::pass;

/// Serves each path as configured, with `PATH #N` for the N-th response of that path.
pub(crate) struct NumberedOrigin {
    paths: Mutex<HashMap<String, Path>>,
}

#[derive(Clone, Default)]
struct Path {
    status: u16,
    headers: Vec<(String, String)>,
    delay: Duration,
    pad: usize,
    requests: u32,
    in_flight: u32,
    most: u32,
}

impl NumberedOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self {
            paths: Mutex::default(),
        })
        .await
    }

    /// Sets the response for `path` (without its query) from now on. With an `ETag` among the
    /// headers, a request with that tag gets 304.
    pub(crate) fn tell(&self, path: &str, status: u16, headers: &[(&str, &str)]) {
        let mut paths = self.paths.lock();
        let state = paths.entry(path.to_owned()).or_default();
        state.status = status;
        state.headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
    }

    /// Delays each response of `path`.
    pub(crate) fn slow(&self, path: &str, delay: Duration) {
        self.paths.lock().entry(path.to_owned()).or_default().delay = delay;
    }

    /// Makes each response of `path` longer by this many bytes.
    pub(crate) fn pad(&self, path: &str, bytes: usize) {
        self.paths.lock().entry(path.to_owned()).or_default().pad = bytes;
    }

    /// Returns the number of requests for `path`.
    pub(crate) fn requests(&self, path: &str) -> u32 {
        self.paths
            .lock()
            .get(path)
            .map_or(0, |state| state.requests)
    }

    /// Returns the maximum number of requests for `path` in flight at once.
    pub(crate) fn most(&self, path: &str) -> u32 {
        self.paths.lock().get(path).map_or(0, |state| state.most)
    }
}

#[async_trait]
impl Serve for NumberedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let target = exchange.request.target.clone();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let state = {
            let mut paths = self.paths.lock();
            let state = paths.entry(path.clone()).or_default();
            state.requests += 1;
            state.in_flight += 1;
            state.most = state.most.max(state.in_flight);
            state.clone()
        };
        if !state.delay.is_zero() {
            pass(state.delay).await;
        }
        if let Some(state) = self.paths.lock().get_mut(&path) {
            state.in_flight -= 1;
        }
        let tag = state.headers.iter().find(|(name, _)| name == "etag");
        let is_unchanged = tag
            .is_some_and(|(_, tag)| exchange.request.header("if-none-match") == Some(tag.as_str()));
        let status = match state.status {
            0 => 200,
            _ if is_unchanged => 304,
            status => status,
        };
        let body = format!("{path} #{}{}", state.requests, "x".repeat(state.pad));
        let mut response = format!("HTTP/1.1 {status} As Set\r\n");
        for (name, value) in &state.headers {
            response.push_str(&format!("{name}: {value}\r\n"));
        }
        if status == 304 {
            response.push_str("\r\n");
        } else {
            response.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
            if exchange.request.method != "HEAD" {
                response.push_str(&body);
            }
        }
        exchange.write(response.as_bytes()).await?;
        Ok(Then::Keep)
    }
}
