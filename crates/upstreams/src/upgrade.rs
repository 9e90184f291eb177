//! Connection to a backend for one upgrade (RFC 9110, 7.8), whose response is read only after
//! Pingora has ended the request.
//!
//! Pingora 0.9.1 passes the end of a request without a body as a message to the loop that talks to
//! the backend. If that loop reads the 101 first, it takes the message for the end of the tunnel
//! (`proxy_h1.rs`: `send_body_to1`, and `was_upgraded` after it), and a backend on the same machine
//! is often that fast. With the message comes a flush: until then nothing is read here.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::{
    Result,
    connectors::L4Connect,
    protocols::l4::{
        ext::{connect, connect_uds, set_tcp_keepalive},
        socket::SocketAddr as PingoraAddress,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// Everything passes: before the request, and once it has ended.
const OPEN: u8 = 0;
/// The request is being sent.
const CLOSED: u8 = 1;
/// The end of the request is on its way to the loop that talks to the backend.
const ENDING: u8 = 2;

/// Gate that holds back the response to an upgrade until it may be read.
///
/// Goes from open to closed, to ending and to open again, each by one party: `close` and
/// `request_ended` are called for the request, the flush comes from its connection.
#[derive(Debug, Default)]
pub struct UpgradeGate {
    state: AtomicU8,
    /// Reader that waits for the gate to open.
    reader: Mutex<Option<Waker>>,
    socket: OnceLock<UpgradeSocket>,
}

/// Socket to a backend by descriptor, and its local address.
#[derive(Clone, Copy, Debug)]
pub struct UpgradeSocket {
    pub fd: RawFd,
    pub local: Option<SocketAddr>,
}

impl UpgradeGate {
    /// Holds back the response until the request has ended; called once the connection exists.
    pub fn close(&self) {
        self.state.store(CLOSED, Ordering::SeqCst);
    }

    /// Marks the end of the request; Pingora receives it next.
    pub fn request_ended(&self) {
        self.pass(CLOSED, ENDING);
    }

    /// Returns the socket, once it is connected. Pingora has none: it sees a virtual one.
    pub fn socket(&self) -> Option<UpgradeSocket> {
        self.socket.get().copied()
    }

    fn flushed(&self) {
        if self.pass(ENDING, OPEN)
            && let Some(reader) = self.reader.lock().take()
        {
            reader.wake();
        }
    }

    fn pass(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if self.state.load(Ordering::SeqCst) == OPEN {
            return Poll::Ready(());
        }
        *self.reader.lock() = Some(cx.waker().clone());
        // The gate may have opened in between.
        if self.state.load(Ordering::SeqCst) == OPEN {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Connector that connects as Pingora would, and puts the gate before reads.
#[derive(Debug)]
pub(super) struct UpgradeConnector {
    pub(super) gate: Arc<UpgradeGate>,
}

#[async_trait]
impl L4Connect for UpgradeConnector {
    async fn connect(&self, address: &PingoraAddress) -> Result<Stream> {
        let socket = match address {
            PingoraAddress::Inet(address) => UpgradeStream::Tcp(connect(address, None).await?),
            PingoraAddress::Unix(address) => {
                let path = address.as_pathname().unwrap_or("".as_ref());
                UpgradeStream::Unix(connect_uds(path).await?)
            }
        };
        // Each peer connects once.
        let _first = self.gate.socket.set(socket.known());
        let gate = Arc::clone(&self.gate);
        let gated = Box::new(GatedSocket { socket, gate });
        Ok(Stream::from(VirtualSocketStream::new(gated)))
    }
}

#[derive(Debug)]
enum UpgradeStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl UpgradeStream {
    fn known(&self) -> UpgradeSocket {
        match self {
            Self::Tcp(socket) => UpgradeSocket {
                fd: socket.as_raw_fd(),
                local: socket.local_addr().ok(),
            },
            Self::Unix(socket) => UpgradeSocket {
                fd: socket.as_raw_fd(),
                local: None,
            },
        }
    }
}

#[derive(Debug)]
struct GatedSocket {
    socket: UpgradeStream,
    gate: Arc<UpgradeGate>,
}

impl VirtualSocket for GatedSocket {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        let UpgradeStream::Tcp(socket) = &self.socket else {
            return Ok(());
        };
        match option {
            VirtualSockOpt::NoDelay => socket.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keep_alive) => {
                set_tcp_keepalive(socket, &keep_alive).map_err(io::Error::other)
            }
            _ => Ok(()),
        }
    }
}

impl AsyncRead for GatedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(cx));
        match &mut self.socket {
            UpgradeStream::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            UpgradeStream::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for GatedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            UpgradeStream::Tcp(socket) => Pin::new(socket).poll_write(cx, data),
            UpgradeStream::Unix(socket) => Pin::new(socket).poll_write(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match &mut self.socket {
            UpgradeStream::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            UpgradeStream::Unix(socket) => Pin::new(socket).poll_flush(cx),
        })?;
        self.gate.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            UpgradeStream::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            UpgradeStream::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn gated() -> (Arc<UpgradeGate>, GatedSocket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let gate = Arc::<UpgradeGate>::default();
        let socket = UpgradeStream::Unix(ours);
        let io = GatedSocket {
            socket,
            gate: Arc::clone(&gate),
        };
        (gate, io, theirs)
    }

    /// Returns true if an available byte is read.
    async fn reads(io: &mut GatedSocket) -> bool {
        let read = tokio::time::timeout(std::time::Duration::from_millis(50), io.read_u8());
        read.await.is_ok()
    }

    #[tokio::test]
    async fn a_response_is_read_behind_the_flush_that_follows_the_requests_end() {
        let (gate, mut io, mut backend) = gated();
        backend.write_all(b"abcd").await.unwrap();
        assert!(reads(&mut io).await, "before the request, such as for TLS");
        gate.close();
        io.flush().await.unwrap();
        assert!(!reads(&mut io).await, "the head's own flush opens nothing");
        gate.request_ended();
        assert!(!reads(&mut io).await);
        io.flush().await.unwrap();
        assert!(reads(&mut io).await);
        // An end of request within the tunnel closes nothing.
        gate.request_ended();
        assert!(reads(&mut io).await);
    }

    #[tokio::test]
    async fn a_waiter_at_the_gate_is_woken() {
        let (gate, io, mut backend) = gated();
        gate.close();
        backend.write_all(b"a").await.unwrap();
        let (mut read, mut write) = tokio::io::split(io);
        let mut reader = tokio::task::JoinSet::new();
        reader.spawn(async move { read.read_u8().await });
        tokio::task::yield_now().await;
        gate.request_ended();
        write.flush().await.unwrap();
        let byte = reader.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(byte, b'a');
    }
}
