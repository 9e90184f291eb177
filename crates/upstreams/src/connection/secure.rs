//! TLS connection to a backend.

use std::{
    io::{self, Write},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::socket::Socket;
use crate::{
    Protocol,
    client_tls::{BackendTls, TlsIdentity},
};

/// Room for one read of encrypted bytes: a whole record (RFC 8446, 5.2) and the header of the next.
const RECORD_ROOM: usize = 17 * 1024;
/// Room for what an idle backend sends, such as a session ticket.
const IDLE_ROOM: usize = 1024;

/// TLS connection after its handshake.
#[derive(Debug)]
pub(crate) struct SecureStream {
    pub(super) stream: TlsStream<RecordSocket>,
    pub(super) identity: TlsIdentity,
}

impl SecureStream {
    pub(super) async fn handshake(tls: &BackendTls, socket: Socket) -> Result<Self> {
        let socket = RecordSocket {
            socket,
            ahead: BytesMut::new(),
        };
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let connected = connector.connect(tls.name.clone(), socket).await;
        let stream = connected.map_err(|error| {
            let why = format!("TLS handshake with a backend as {}", tls.identity.name());
            Error::because(ErrorType::TLSHandshakeFailure, why, error)
        })?;
        Ok(Self {
            stream,
            identity: tls.identity.clone(),
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.stream.get_ref().0.socket
    }

    /// Returns true if the handshake chose HTTP/2.
    pub(super) fn speaks_h2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(Protocol::H2.alpn())
    }

    /// Returns true if the backend has neither ended the connection nor sent any content. Session
    /// tickets and new keys may come at any time (RFC 8446, 4.6), and are no reason to close.
    pub(super) fn is_quiet(&mut self) -> bool {
        let (socket, session) = self.stream.get_mut();
        loop {
            // False once content or the backend's `close_notify` was received.
            if !session.wants_read() {
                return false;
            }
            let mut room = [0; IDLE_ROOM];
            let mut came = match socket.try_read(&mut room) {
                Ok(count @ 1..) => &room[..count],
                Ok(0) => return false,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            };
            while !came.is_empty() {
                let is_taken = session.read_tls(&mut came).is_ok_and(|count| count > 0);
                if !is_taken || session.process_new_packets().is_err() {
                    return false;
                }
            }
        }
    }

    /// Waits until there may be content to read, without a buffer for it.
    pub(super) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let filled = Pin::new(&mut self.stream).poll_fill_buf(cx);
        filled.map_ok(|_| ())
    }

    /// Frees memory that an idle connection does not need.
    pub(super) fn idle(&mut self) {
        let ahead = &mut self.stream.get_mut().0.ahead;
        if ahead.is_empty() {
            *ahead = BytesMut::new();
        }
    }
}

impl Drop for SecureStream {
    /// Ends TLS in order (RFC 8446, 6.1) if the socket accepts the bytes at once: nobody waits for
    /// a backend that reads nothing.
    fn drop(&mut self) {
        let (socket, session) = self.stream.get_mut();
        session.send_close_notify();
        if let Err(error) = session.write_tls(&mut AtOnce(&socket.socket)) {
            log::debug!(error:%; "TLS connection to a backend not closed properly");
        }
    }
}

/// Writer that never waits.
struct AtOnce<'a>(&'a Socket);

impl Write for AtOnce<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Socket below TLS, read by whole records: rustls asks for 4 KiB at a time, which would take up to
/// five system calls for each.
#[derive(Debug)]
pub(super) struct RecordSocket {
    socket: Socket,
    /// Bytes that were read and that rustls has not asked for yet.
    ahead: BytesMut,
}

impl RecordSocket {
    fn try_read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return self.socket.try_read(room);
        }
        let count = room.len().min(self.ahead.len());
        self.ahead.copy_to_slice(&mut room[..count]);
        Ok(count)
    }
}

impl AsyncRead for RecordSocket {
    #[expect(
        clippy::large_stack_arrays,
        reason = "a record is that long, and no connection should hold the room"
    )]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            let mut record = [const { MaybeUninit::uninit() }; RECORD_ROOM];
            let mut record = ReadBuf::uninit(&mut record);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut record))?;
            let came = record.filled();
            let (wanted, more) = came.split_at(came.len().min(room.remaining()));
            room.put_slice(wanted);
            this.ahead.extend_from_slice(more);
        } else {
            let count = room.remaining().min(this.ahead.len());
            room.put_slice(&this.ahead[..count]);
            this.ahead.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RecordSocket {
    edgeway_base::inner_stream!(
        self.socket: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown
    );
}
