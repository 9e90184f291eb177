//! PROXY protocol, versions 1 and 2: the header that a load balancer sends before the client's
//! first byte (haproxy's proxy-protocol.txt, the section numbers below).
//!
//! It reads nothing beyond the header from the socket, so TLS or HTTP begins at the right byte.

pub(super) mod v1;
pub(super) mod v2;

use std::{io, net::SocketAddr, ops::ControlFlow};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::transport::Socket;

/// Source of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxySource {
    /// The load balancer itself, such as for a health check, or without information on the client.
    Peer,
    Client(SocketAddr),
    /// A peer that left without a byte, such as a load balancer that checks the port.
    Nobody,
}

/// Reason why a connection does not begin with a valid header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyHeaderError {
    #[error("no PROXY protocol header")]
    Missing,
    #[error("the PROXY protocol header has {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Both versions are at least this long.
const START: usize = 12;

/// Reads the header, and not one byte more.
pub(super) async fn read(socket: &mut Socket) -> Result<ProxySource, ProxyHeaderError> {
    let mut start = [0; START];
    let mut filled = 0;
    while filled < START {
        filled += match socket.read(&mut start[filled..]).await {
            Ok(count @ 1..) => count,
            Ok(_) | Err(_) if filled == 0 => return Ok(ProxySource::Nobody),
            Ok(_) => return Err(ProxyHeaderError::Missing),
            Err(error) => return Err(error.into()),
        };
        // A client that begins in another way is refused at once.
        let seen = &start[..filled];
        if !v2::SIGNATURE.starts_with(seen) && !is_prefix(v1::START, seen) {
            return Err(ProxyHeaderError::Missing);
        }
    }
    if start == v2::SIGNATURE {
        read_v2(socket).await
    } else {
        read_v1(socket, &start).await
    }
}

/// Returns true if one of the two is the beginning of the other.
fn is_prefix(one: &[u8], other: &[u8]) -> bool {
    let length = one.len().min(other.len());
    one[..length] == other[..length]
}

/// Reads a line of unknown length: it peeks first, and then reads only the bytes of the line.
async fn read_v1(socket: &mut Socket, start: &[u8]) -> Result<ProxySource, ProxyHeaderError> {
    let mut line = [0; v1::MAX_LEN];
    line[..start.len()].copy_from_slice(start);
    let mut filled = start.len();
    loop {
        match v1::parse(&line[..filled])? {
            ControlFlow::Break(source) => return Ok(source),
            ControlFlow::Continue(()) => {}
        }
        let count = socket.peek(&mut line[filled..]).await?;
        let come = &line[filled..filled + count];
        let len = come.iter().position(|byte| *byte == b'\n');
        let len = len.map_or(count, |end| end + 1);
        if len == 0 {
            return Err(ProxyHeaderError::Missing);
        }
        socket.read_exact(&mut line[filled..filled + len]).await?;
        filled += len;
    }
}

async fn read_v2(socket: &mut (impl AsyncRead + Unpin)) -> Result<ProxySource, ProxyHeaderError> {
    let mut header = [0; v2::FIXED];
    header[..START].copy_from_slice(&v2::SIGNATURE);
    socket.read_exact(&mut header[START..]).await?;
    let mut header = header.to_vec();
    header.resize(v2::FIXED + v2::length(&header)?, 0);
    socket.read_exact(&mut header[v2::FIXED..]).await?;
    v2::parse(&header)
}

#[cfg(test)]
mod tests;
