//! Limits of admin connections: their number, their lifetime and their input size.
//!
//! The HTTP library that axum drives here waits for request headers without a deadline, and for
//! hundreds of kilobytes of them, so any client that can connect could hold connections for ever.
//! An action may take longer than a read, so its connection gets more time once the request has
//! arrived.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use edgeway_base::units::whole_millis;
use smart_default::SmartDefault;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, Sleep},
};

/// Maximum number of connections. More wait in the kernel's queue.
const CONNECTIONS: usize = 128;

/// Lifetime of a connection, longer than any read takes over loopback.
const MAX_LIFETIME: Duration = Duration::from_secs(15);

/// Bytes that a connection may send before its header section is complete: the longest header
/// section, and the read-ahead beyond its end.
const MAX_READ: usize = super::guard::MAX_HEAD + 64 * 1024;

/// Time limit of actions, longer than two upgrades in a row that wait for their new processes.
pub(super) const ACTION: Duration = Duration::from_mins(2);

/// Connections of an admin listener: limited in number, and awaited when it closes. Cloning shares
/// them.
#[derive(Clone, Debug, SmartDefault)]
pub struct Connections {
    #[default(Arc::new(Semaphore::new(CONNECTIONS)))]
    permits: Arc<Semaphore>,
    #[default(watch::Sender::new(false))]
    is_closed: watch::Sender<bool>,
}

impl Connections {
    /// Closes the listener, without waiting for pending requests. Streams of responses end.
    pub fn shut(&self) {
        self.is_closed.send_replace(true);
    }

    /// Closes the listener, and waits until pending requests have responses.
    ///
    /// Dropping the server instead would also end connections that have not sent a request yet.
    pub async fn close(&self) {
        self.shut();
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        drop(self.permits.acquire_many(all).await);
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.is_closed.borrow()
    }

    /// Waits until the listener is closed.
    pub(super) async fn closed(&self) {
        let mut is_closed = self.is_closed.subscribe();
        // The sender is a field of `self`, so it outlives this.
        drop(is_closed.wait_for(|closed| *closed).await);
    }
}

/// A listener whose connections are limited in number and lifetime.
pub(super) struct BoundedListener<L> {
    /// `None` once it was closed.
    inner: Option<L>,
    open: Connections,
}

impl<L> BoundedListener<L> {
    pub(super) fn new(inner: L, open: &Connections) -> Self {
        Self {
            inner: Some(inner),
            open: open.clone(),
        }
    }
}

impl<L: Listener> Listener for BoundedListener<L> {
    type Io = BoundedConnection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let accepted = async {
            let permit = Arc::clone(&self.open.permits)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match &mut self.inner {
                Some(inner) => (inner.accept().await, permit),
                None => std::future::pending().await,
            }
        };
        let accepted = tokio::select! {
            biased;
            () = self.open.closed() => None,
            accepted = accepted => Some(accepted),
        };
        let Some(((inner, address), permit)) = accepted else {
            self.inner = None;
            return std::future::pending().await;
        };
        let life = ConnectionLifetime::new(MAX_LIFETIME);
        let short = BoundedConnection {
            inner,
            end: Box::pin(tokio::time::sleep_until(life.end())),
            life: Arc::new(life),
            open: self.open.clone(),
            read: 0,
            _permit: permit,
        };
        (short, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        match &self.inner {
            Some(inner) => inner.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Lifetime of a connection.
#[derive(Debug)]
pub(super) struct ConnectionLifetime {
    began: Instant,
    millis: AtomicU64,
    has_head: AtomicBool,
}

impl ConnectionLifetime {
    fn new(span: Duration) -> Self {
        Self {
            began: Instant::now(),
            millis: AtomicU64::new(whole_millis(span)),
            has_head: AtomicBool::new(false),
        }
    }

    /// Marks the header section as complete. A body may follow, which has a limit of its own.
    pub(super) fn take_body(&self) {
        self.has_head.store(true, Ordering::Relaxed);
    }

    /// Extends the lifetime to at least `span` from now.
    pub(super) fn allow(&self, span: Duration) {
        let least = whole_millis(self.began.elapsed() + span);
        self.millis.fetch_max(least, Ordering::Relaxed);
    }

    fn end(&self) -> Instant {
        self.began + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// A connection that fails once its lifetime is over.
pub(super) struct BoundedConnection<T> {
    inner: T,
    pub(super) life: Arc<ConnectionLifetime>,
    open: Connections,
    /// Timer for the end at the time when it was set. When it fires, `life` is checked again.
    end: Pin<Box<Sleep>>,
    /// Number of bytes received.
    read: usize,
    _permit: OwnedSemaphorePermit,
}

impl<T> BoundedConnection<T> {
    pub(super) fn inner(&self) -> &T {
        &self.inner
    }

    /// Returns all connections of the listener.
    pub(super) fn open(&self) -> &Connections {
        &self.open
    }

    /// Returns `Err` once the lifetime is over. Otherwise the task is woken at its end.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.end.as_mut().poll(cx).is_ready() {
            let end = self.life.end();
            if end <= Instant::now() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.end.as_mut().reset(end);
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for BoundedConnection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if self.read > MAX_READ && !self.life.has_head.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.read = self.read.saturating_add(buffer.filled().len() - before);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for BoundedConnection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = BoundedListener::new(listener, &Connections::default());
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        assert_eq!(bounded.open.permits.available_permits(), CONNECTIONS - 1);
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(connection);
        assert_eq!(bounded.open.permits.available_permits(), CONNECTIONS);
    }

    #[tokio::test]
    async fn a_client_that_sends_too_much_is_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = BoundedListener::new(listener, &Connections::default());
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let sending = async move {
            let mut client = client;
            // The connection is closed in the middle.
            drop(tokio::io::AsyncWriteExt::write_all(&mut client, &vec![b'x'; 3 * MAX_READ]).await);
        };
        let mut all = Vec::new();
        let reading = async {
            let read = connection.read_to_end(&mut all).await;
            drop(connection);
            read
        };
        let (read, ()) = tokio::join!(reading, sending);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(all.len() < 2 * MAX_READ, "{}", all.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_action_has_more_time_and_an_end_as_well() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = BoundedListener::new(listener, &Connections::default());
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let began = Instant::now();
        connection.life.allow(ACTION);
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= ACTION && began.elapsed() < 2 * ACTION);
    }
}
