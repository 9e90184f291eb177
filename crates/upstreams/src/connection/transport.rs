//! Transport to a backend: a socket, or TLS over it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use pingora::Result;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{secure::SecureStream, socket::Socket};
use crate::{
    client_tls::{BackendTls, TlsIdentity},
    target::Target,
};

#[derive(Debug)]
pub(crate) enum Transport {
    Plain(Socket),
    /// Boxed: most of it is rustls's state, and other connections must stay small.
    Tls(Box<SecureStream>),
}

/// Polls the same function of either kind.
macro_rules! poll_transport {
    ($transport:expr, $name:ident => $call:expr) => {
        match $transport.get_mut() {
            Self::Plain($name) => {
                let $name = Pin::new($name);
                $call
            }
            Self::Tls($name) => {
                let $name = Pin::new(&mut $name.stream);
                $call
            }
        }
    };
}

impl Transport {
    pub(super) async fn connect(target: &Target, tls: Option<&BackendTls>) -> Result<Self> {
        let socket = Socket::connect(target).await?;
        Ok(match tls {
            Some(tls) => Self::Tls(Box::new(SecureStream::handshake(tls, socket).await?)),
            None => Self::Plain(socket),
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Returns the settings that the connection was made under; `None` without TLS.
    pub(super) fn identity(&self) -> Option<&TlsIdentity> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.identity()),
        }
    }

    /// Returns false if TLS did not negotiate HTTP/2. Without TLS nothing is negotiated.
    pub(crate) fn may_speak_h2(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(stream) => stream.speaks_h2(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        poll_transport!(self, stream => stream.poll_read(cx, room))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_transport!(self, stream => stream.poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_transport!(self, stream => stream.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_transport!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_transport!(self, stream => stream.poll_shutdown(cx))
    }
}
