//! Origin whose content changes when a test says so.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Exchange, Origin, Serve, Then};
use crate::support::{client::Response, wait::pass};

/// Length of a response: a small memory does not hold a hundred.
const LENGTH: usize = 16 * 1024;

/// Serves `/7/…` with the version of item 7, the time at which it was read, and filler; every
/// response of an item has the tag `item-7`. Half of the responses then take a while.
pub(crate) struct VersionedOrigin {
    versions: Vec<AtomicU64>,
    began: Instant,
    slowest: Duration,
}

/// Content of a response, wherever it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) number: u64,
    /// Time as [`VersionedOrigin::now`] returns it.
    pub(crate) read_at: Duration,
}

impl VersionedOrigin {
    pub(crate) async fn start(items: usize, slowest: Duration) -> Origin<Self> {
        Origin::listen(Self {
            versions: (0..items).map(|_| AtomicU64::new(1)).collect(),
            began: Instant::now(),
            slowest,
        })
        .await
    }

    /// Changes an item; returns its new version.
    pub(crate) fn change(&self, item: usize) -> u64 {
        self.versions[item].fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Version {
    pub(crate) fn of(response: &Response) -> Option<Self> {
        let text = response.text();
        let mut words = text.split(' ');
        let (number, read_at) = (words.next()?, words.next()?);
        Some(Self {
            number: number.parse().ok()?,
            read_at: Duration::from_micros(read_at.parse().ok()?),
        })
    }
}

#[async_trait]
impl Serve for VersionedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let item = exchange.request.target.split('/').nth(1);
        let item: usize = item.and_then(|item| item.parse().ok()).unwrap_or_default();
        let (read_at, number) = (self.now(), self.versions[item].load(Ordering::SeqCst));
        if fastrand::bool() {
            pass(self.slowest.mul_f64(fastrand::f64())).await;
        }
        let more = "x".repeat(LENGTH);
        let body = format!("{number} {} {more}", read_at.as_micros());
        let response = format!(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncache-tag: item-{item}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange.write(response.as_bytes()).await?;
        Ok(Then::Keep)
    }
}
