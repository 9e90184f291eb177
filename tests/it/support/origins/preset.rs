//! Origin whose response for each path is set before each request.

use std::{collections::HashMap, io};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Exchange, Origin, Received, Serve, Then};

/// Field that numbers a response. A 304 has none, since it refers to another response.
pub(crate) const NUMBER: &str = "response-number";

/// Serves each path (without its query) as configured, with `PATH #N` as the N-th body.
#[derive(Default)]
pub(crate) struct PresetOrigin {
    paths: Mutex<HashMap<String, Path>>,
    released: Notify,
}

#[derive(Default)]
struct Path {
    status: u16,
    headers: Vec<(String, String)>,
    asked: Vec<Received>,
    is_held: bool,
}

impl PresetOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self::default()).await
    }

    /// Sets the response for `path` from now on, whatever the request is.
    pub(crate) fn tell(&self, path: &str, status: u16, headers: Vec<(String, String)>) {
        let mut paths = self.paths.lock();
        let state = paths.entry(path.to_owned()).or_default();
        state.status = status;
        state.headers = headers;
    }

    /// Holds back the last half of each body of `path`, now in chunks, until it is released.
    pub(crate) fn hold(&self, path: &str) {
        self.paths
            .lock()
            .entry(path.to_owned())
            .or_default()
            .is_held = true;
    }

    pub(crate) fn release(&self, path: &str) {
        if let Some(state) = self.paths.lock().get_mut(path) {
            state.is_held = false;
        }
        self.released.notify_waiters();
    }

    /// Returns the requests for `path` so far.
    pub(crate) fn asked(&self, path: &str) -> Vec<Received> {
        let paths = self.paths.lock();
        paths
            .get(path)
            .map_or_else(Vec::new, |state| state.asked.clone())
    }

    async fn is_released(&self, path: &str) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self
                .paths
                .lock()
                .get(path)
                .is_none_or(|state| !state.is_held)
            {
                return;
            }
            released.await;
        }
    }
}

#[async_trait]
impl Serve for PresetOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let target = exchange.request.target.clone();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let (status, headers, number, is_held) = {
            let mut paths = self.paths.lock();
            let state = paths.entry(path.clone()).or_default();
            state.asked.push(exchange.request.clone());
            let number = state.asked.len();
            (state.status, state.headers.clone(), number, state.is_held)
        };
        let mut head = format!("HTTP/1.1 {status} As Set\r\n");
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if status != 304 {
            head.push_str(&format!("{NUMBER}: {number}\r\n"));
        }
        if matches!(status, 204 | 304) {
            exchange.write(format!("{head}\r\n").as_bytes()).await?;
            return Ok(Then::Keep);
        }
        let body = format!("{path} #{number}");
        // Pingora sends nothing of a body of known length until it has collected some of it.
        let in_chunks = format!("{head}transfer-encoding: chunked\r\n\r\n");
        let head = format!("{head}content-length: {}\r\n\r\n", body.len());
        if exchange.request.method == "HEAD" {
            exchange.write(head.as_bytes()).await?;
            return Ok(Then::Keep);
        }
        if !is_held {
            exchange.write(format!("{head}{body}").as_bytes()).await?;
            return Ok(Then::Keep);
        }
        let (first, last) = body.split_at(body.len() / 2);
        exchange.begin_with(&in_chunks).await?;
        exchange.chunk(first.as_bytes()).await?;
        self.is_released(&path).await;
        exchange.chunk(last.as_bytes()).await?;
        exchange.end().await
    }
}
