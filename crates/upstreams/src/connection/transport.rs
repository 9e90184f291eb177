//! Transport to a backend: a socket, or TLS over it.

use pingora::Result;
use tokio::io::{AsyncRead, AsyncWrite};

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

/// Calls the same function of either kind.
macro_rules! on_transport {
    ($transport:expr, $name:ident => $call:expr) => {
        match $transport {
            Self::Plain($name) => $call,
            Self::Tls(secure) => {
                let $name = &mut secure.stream;
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
            Self::Tls(stream) => Some(&stream.identity),
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
    edgeway_base::inner_stream!(on_transport!: poll_read);
}

impl AsyncWrite for Transport {
    edgeway_base::inner_stream!(
        on_transport!: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown
    );
}
