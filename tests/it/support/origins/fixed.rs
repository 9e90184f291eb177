//! Origin with one response for all requests, which a test may change.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::{Exchange, Origin, Serve, Then};

/// Sends the same response to every request, until the test changes it.
pub(crate) struct FixedOrigin {
    response: Mutex<Vec<u8>>,
    /// Holds responses back while a test has it for writing.
    pub(crate) gate: RwLock<()>,
    /// Responses that were taken for a request, and may be held back.
    pub(crate) taken: AtomicU64,
}

impl FixedOrigin {
    pub(crate) async fn start(status: u16, headers: &[(&str, &str)], body: &str) -> Origin<Self> {
        let origin = Self {
            response: Mutex::default(),
            gate: RwLock::default(),
            taken: AtomicU64::default(),
        };
        origin.set(status, headers, body);
        Origin::listen(origin).await
    }

    pub(crate) fn set(&self, status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let mut response = format!("HTTP/1.1 {status} As Set\r\n");
        for (name, value) in headers {
            response.push_str(&format!("{name}: {value}\r\n"));
        }
        response.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        *self.response.lock() = [response.as_bytes(), body].concat();
    }
}

#[async_trait]
impl Serve for FixedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let response = self.response.lock().clone();
        self.taken.fetch_add(1, Ordering::SeqCst);
        let _open = self.gate.read().await;
        exchange.write(&response).await?;
        Ok(Then::Keep)
    }
}
