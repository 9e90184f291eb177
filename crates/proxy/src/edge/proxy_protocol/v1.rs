//! Version 1: a line of text (2.1).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::ControlFlow,
    str,
};

use super::{ProxyHeaderError, ProxySource};

/// First bytes of every line.
pub(in crate::edge) const START: &[u8] = b"PROXY ";
/// Length of the longest line, its end included (2.1: 107 bytes).
pub(in crate::edge) const MAX_LEN: usize = 107;

/// Parses `line` as far as it has arrived. Returns [`ControlFlow::Continue`] if its end is missing.
pub(in crate::edge) fn parse(line: &[u8]) -> Result<ControlFlow<ProxySource>, ProxyHeaderError> {
    let Some(text) = line.strip_suffix(b"\n") else {
        if line.len() >= MAX_LEN {
            return Err(ProxyHeaderError::Malformed("a line without an end"));
        }
        return Ok(ControlFlow::Continue(()));
    };
    let text = text.strip_suffix(b"\r");
    let text = text.ok_or(ProxyHeaderError::Malformed(
        "a line that does not end in CRLF",
    ))?;
    let text = text.strip_prefix(START).ok_or(ProxyHeaderError::Missing)?;
    let text = str::from_utf8(text)
        .map_err(|_| ProxyHeaderError::Malformed("bytes that are not UTF-8"))?;
    let mut words = text.split(' ');
    let source = match words.next() {
        // The rest of the line must be ignored.
        Some("UNKNOWN") => return Ok(ControlFlow::Break(ProxySource::Peer)),
        Some("TCP4") => addresses(words, |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4)),
        Some("TCP6") => addresses(words, |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6)),
        _ => return Err(ProxyHeaderError::Malformed("an unknown protocol")),
    };
    source.map(|client| ControlFlow::Break(ProxySource::Client(client)))
}

/// Parses source address, destination address, source port, destination port.
fn addresses<'t>(
    words: impl Iterator<Item = &'t str>,
    address: impl Fn(&str) -> Option<IpAddr>,
) -> Result<SocketAddr, ProxyHeaderError> {
    let words: Vec<&str> = words.take(5).collect();
    let [source, destination, source_port, destination_port] = words[..] else {
        return Err(ProxyHeaderError::Malformed("too few or too many words"));
    };
    let wrong = ProxyHeaderError::Malformed("an invalid address");
    let (Some(source), Some(_)) = (address(source), address(destination)) else {
        return Err(wrong);
    };
    let wrong = ProxyHeaderError::Malformed("an invalid port");
    match (port(source_port), port(destination_port)) {
        (Some(port), Some(_)) => Ok(SocketAddr::new(source, port)),
        _ => Err(wrong),
    }
}

/// Parses digits without leading zeros (2.1).
fn port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit());
    (is_plain && (word == "0" || !word.starts_with('0')))
        .then(|| word.parse().ok())
        .flatten()
}
