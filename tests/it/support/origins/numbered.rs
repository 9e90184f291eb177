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
    answers: u32,
    under_way: u32,
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
        let told = paths.entry(path.to_owned()).or_default();
        told.status = status;
        told.headers = headers
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
    pub(crate) fn answers(&self, path: &str) -> u32 {
        self.paths.lock().get(path).map_or(0, |told| told.answers)
    }

    /// Returns the maximum number of requests for `path` in flight at once.
    pub(crate) fn most(&self, path: &str) -> u32 {
        self.paths.lock().get(path).map_or(0, |told| told.most)
    }
}

#[async_trait]
impl Serve for NumberedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let target = exchange.request.target.clone();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let told = {
            let mut paths = self.paths.lock();
            let told = paths.entry(path.clone()).or_default();
            told.answers += 1;
            told.under_way += 1;
            told.most = told.most.max(told.under_way);
            told.clone()
        };
        if !told.delay.is_zero() {
            pass(told.delay).await;
        }
        if let Some(told) = self.paths.lock().get_mut(&path) {
            told.under_way -= 1;
        }
        let tag = told.headers.iter().find(|(name, _)| name == "etag");
        let is_known = tag
            .is_some_and(|(_, tag)| exchange.request.header("if-none-match") == Some(tag.as_str()));
        let status = match told.status {
            0 => 200,
            _ if is_known => 304,
            status => status,
        };
        let body = format!("{path} #{}{}", told.answers, "x".repeat(told.pad));
        let mut answer = format!("HTTP/1.1 {status} As told\r\n");
        for (name, value) in &told.headers {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        if status == 304 {
            answer.push_str("\r\n");
        } else {
            answer.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
            if exchange.request.method != "HEAD" {
                answer.push_str(&body);
            }
        }
        exchange.write(answer.as_bytes()).await?;
        Ok(Then::Keep)
    }
}
