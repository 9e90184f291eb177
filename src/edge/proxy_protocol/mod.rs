//! The PROXY protocol, versions 1 and 2: what a balancer says before the client's first byte
//! (haproxy's proxy-protocol.txt, the section numbers below).
//!
//! Nothing beyond the header is taken off the socket, so TLS or HTTP begins where it should.

mod v1;
mod v2;

use std::{io, net::SocketAddr, ops::ControlFlow};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::transport::Socket;

/// Whose connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The balancer's own, such as a health check, or one whose client it does not tell.
    Peer,
    Client(SocketAddr),
}

/// Why a connection does not begin as it must.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error("no PROXY protocol header")]
    Missing,
    #[error("the PROXY protocol header has {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Both versions begin with at least as many bytes.
const START: usize = 12;

/// Reads the header, and no byte more.
pub(super) async fn read(socket: &mut Socket) -> Result<Source, Unread> {
    let mut start = [0; START];
    let mut filled = 0;
    while filled < START {
        let count = socket.read(&mut start[filled..]).await?;
        if count == 0 {
            return Err(Unread::Missing);
        }
        filled += count;
        // Whoever begins in another way is told at once.
        let seen = &start[..filled];
        if !v2::SIGNATURE.starts_with(seen) && !is_prefix(v1::START, seen) {
            return Err(Unread::Missing);
        }
    }
    if start == v2::SIGNATURE {
        read_v2(socket).await
    } else {
        read_v1(socket, &start).await
    }
}

/// Whether one of the two is the beginning of the other.
fn is_prefix(one: &[u8], other: &[u8]) -> bool {
    let length = one.len().min(other.len());
    one[..length] == other[..length]
}

/// A line whose length is not known: looked at first, then taken as far as it is its own.
async fn read_v1(socket: &mut Socket, start: &[u8]) -> Result<Source, Unread> {
    let mut line = [0; v1::LONGEST];
    line[..start.len()].copy_from_slice(start);
    let mut filled = start.len();
    loop {
        match v1::parse(&line[..filled])? {
            ControlFlow::Break(source) => return Ok(source),
            ControlFlow::Continue(()) => {}
        }
        let count = socket.peek(&mut line[filled..]).await?;
        let come = &line[filled..filled + count];
        let own = come.iter().position(|byte| *byte == b'\n');
        let own = own.map_or(count, |end| end + 1);
        if own == 0 {
            return Err(Unread::Missing);
        }
        socket.read_exact(&mut line[filled..filled + own]).await?;
        filled += own;
    }
}

async fn read_v2(socket: &mut (impl AsyncRead + Unpin)) -> Result<Source, Unread> {
    let mut header = [0; v2::FIXED];
    header[..START].copy_from_slice(&v2::SIGNATURE);
    socket.read_exact(&mut header[START..]).await?;
    let mut header = header.to_vec();
    header.resize(v2::FIXED + v2::length(&header)?, 0);
    socket.read_exact(&mut header[v2::FIXED..]).await?;
    v2::parse(&header)
}

/// What the fuzz target and its seeds check: no bytes are too odd, what is taken for a line is
/// one and no more, and a client is one that both versions can tell.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(data: &[u8]) {
    let line = &data[..data.len().min(v1::LONGEST)];
    if let Ok(ControlFlow::Break(_)) = v1::parse(line) {
        assert!(line.starts_with(v1::START) && line.ends_with(b"\r\n"));
    }
    // The signature was seen before either is called.
    if data.starts_with(&v2::SIGNATURE)
        && let Some(fixed) = data.get(..v2::FIXED)
        && let Ok(length) = v2::length(fixed)
        && let Some(header) = data.get(..v2::FIXED + length)
        && let Ok(Source::Client(client)) = v2::parse(header)
    {
        // Version 1 has no length to be wrong about, and says the same of this client.
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!(
            "PROXY {family} {ip} {ip} {} 1\r\n",
            client.port(),
            ip = client.ip()
        );
        let read = v1::parse(line.as_bytes());
        assert!(matches!(read, Ok(ControlFlow::Break(Source::Client(same))) if same == client));
    }
}

#[cfg(test)]
mod tests;
