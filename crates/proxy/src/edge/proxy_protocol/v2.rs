//! Version 2: a binary header (2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ProxyHeaderError, ProxySource};

/// First bytes of every header.
pub(in crate::edge) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of signature, version and command, family, and length field.
pub(in crate::edge) const FIXED: usize = 16;
/// Length limit of addresses and extensions. A client certificate, the longest extension that load
/// balancers add, fits.
const MAX_LEN: usize = 4096;
/// Type of the checksum over the whole header (2.2.3: `PP2_TYPE_CRC32C`).
const TYPE_CRC32C: u8 = 3;

/// Returns the number of bytes after the fixed part.
pub(in crate::edge) fn length(fixed: &[u8]) -> Result<usize, ProxyHeaderError> {
    let &[.., high, low] = fixed else {
        return Err(ProxyHeaderError::Missing);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_LEN {
        return Err(ProxyHeaderError::Malformed("more than 4 KiB"));
    }
    Ok(length)
}

/// Parses a complete header.
pub(in crate::edge) fn parse(header: &[u8]) -> Result<ProxySource, ProxyHeaderError> {
    let Some((&[.., version_command, family, _, _], remainder)) = header.split_at_checked(FIXED)
    else {
        return Err(ProxyHeaderError::Missing);
    };
    match version_command {
        // 2.2: whatever follows must be ignored, the family as well.
        0x20 => return Ok(ProxySource::Peer),
        0x21 => {}
        _ => return Err(ProxyHeaderError::Malformed("an unknown version or command")),
    }
    let addresses = match family {
        0x00 => 0,
        // A client that uses UDP (HTTP/3 at the balancer) has an address too.
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(ProxyHeaderError::Malformed("an unknown address family")),
    };
    if addresses == 0 {
        // 2.2: the remainder must be ignored, whatever it is.
        return Ok(ProxySource::Peer);
    }
    let Some((addresses, extensions)) = remainder.split_at_checked(addresses) else {
        return Err(ProxyHeaderError::Malformed(
            "a length too short for its addresses",
        ));
    };
    check_extensions(header, extensions)?;
    let client = |ip: IpAddr, port: [u8; 2]| {
        let port = u16::from_be_bytes(port);
        Ok(ProxySource::Client(SocketAddr::new(ip, port)))
    };
    // Source and destination address, source and destination port.
    match *addresses {
        [a, b, c, d, _, _, _, _, high, low, _, _] => {
            client(Ipv4Addr::new(a, b, c, d).into(), [high, low])
        }
        [ref addresses @ .., high, low, _, _] if addresses.len() == 32 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&addresses[..16]);
            client(Ipv6Addr::from(octets).into(), [high, low])
        }
        // Unix sockets at the balancer, or unspecified addresses.
        _ => Ok(ProxySource::Peer),
    }
}

/// Checks the extensions after the addresses: type, length, value. Only the checksum is used, and
/// no extension may extend beyond the header.
fn check_extensions(header: &[u8], mut remainder: &[u8]) -> Result<(), ProxyHeaderError> {
    let truncated = || ProxyHeaderError::Malformed("a truncated extension");
    while let [kind, high, low, after @ ..] = remainder {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = after.split_at_checked(length).ok_or_else(truncated)?;
        if *kind == TYPE_CRC32C {
            let Ok(checksum) = <[u8; 4]>::try_from(value) else {
                return Err(ProxyHeaderError::Malformed("an invalid checksum"));
            };
            let start = header.len() - next.len() - checksum.len();
            if crc32c(header, start..start + checksum.len()) != u32::from_be_bytes(checksum) {
                return Err(ProxyHeaderError::Malformed("a wrong checksum"));
            }
        }
        remainder = next;
    }
    if remainder.is_empty() {
        Ok(())
    } else {
        Err(truncated())
    }
}

/// Computes CRC-32C (RFC 4960, appendix B) of `bytes`, with those at `blank` as zero. It works bit
/// by bit: a header is short, few have a checksum, and none is read more than once.
pub(super) fn crc32c(bytes: &[u8], blank: std::ops::Range<usize>) -> u32 {
    !bytes.iter().enumerate().fold(!0, |crc, (at, byte)| {
        let byte = if blank.contains(&at) { 0 } else { *byte };
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}
