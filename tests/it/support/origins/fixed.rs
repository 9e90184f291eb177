//! Origin with one response for all requests, which a test may change.

use std::io;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Exchange, Origin, Serve, Then};

/// Sends the same response to every request, until the test changes it.
pub(crate) struct FixedOrigin {
    response: Mutex<String>,
}

impl FixedOrigin {
    pub(crate) async fn start(status: u16, headers: &[(&str, &str)], body: &str) -> Origin<Self> {
        let origin = Self {
            response: Mutex::default(),
        };
        origin.set(status, headers, body);
        Origin::listen(origin).await
    }

    pub(crate) fn set(&self, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut response = format!("HTTP/1.1 {status} As Set\r\n");
        for (name, value) in headers {
            response.push_str(&format!("{name}: {value}\r\n"));
        }
        response.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        *self.response.lock() = response;
    }
}

#[async_trait]
impl Serve for FixedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let response = self.response.lock().clone();
        exchange.write(response.as_bytes()).await?;
        Ok(Then::Keep)
    }
}
