//! Headers as load balancers write them, and as attackers do.

use std::net::IpAddr;

use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, net::UnixStream};

use super::*;

/// Returns a header of version 2 from command, family, and the remainder.
fn v2(version_command: u8, family: u8, remainder: &[u8]) -> Vec<u8> {
    let mut header = v2::SIGNATURE.to_vec();
    header.extend([version_command, family]);
    header.extend(u16::try_from(remainder.len()).unwrap().to_be_bytes());
    header.extend(remainder);
    header
}

const INET: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x1f, 0x90, 1, 0xbb];

/// Returns `header` with a checksum at its end.
fn with_checksum(header: &[u8]) -> Vec<u8> {
    let mut remainder = header[v2::FIXED..].to_vec();
    remainder.extend([3, 0, 4, 0, 0, 0, 0]);
    let mut header = v2(header[12], header[13], &remainder);
    let at = header.len() - 4;
    let checksum = v2::crc32c(&header, 0..0);
    header[at..].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// Reads `bytes`, written in pieces of `piece`. Returns the result and the bytes left on the
/// socket.
async fn read_in(bytes: &[u8], piece: usize) -> (Result<ProxySource, ProxyHeaderError>, Vec<u8>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut socket = Socket::unix(ours);
    let writer = async {
        for piece in bytes.chunks(piece) {
            theirs.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(theirs);
    };
    let reader = async {
        let source = read(&mut socket).await;
        let mut left = Vec::new();
        socket.read_to_end(&mut left).await.unwrap();
        (source, left)
    };
    tokio::join!(reader, writer).0
}

/// Checks that the header gives `expected`, and that the bytes after it stay in place, for pieces
/// of any size.
#[track_caller]
fn check(header: &[u8], expected: Option<ProxySource>) {
    const AFTER: &[u8] = b"\nPROXY GET / HTTP/1.1\r\n";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let bytes = [header, AFTER].concat();
    for piece in [1, 5, 12, 16, 17, 50, 107, bytes.len()] {
        let (source, left) = runtime.block_on(read_in(&bytes, piece));
        assert_eq!(
            source.as_ref().ok(),
            expected.as_ref(),
            "{piece}: {source:?}"
        );
        if expected.is_some() {
            assert_eq!(left, AFTER, "{piece}");
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "what `check` expects may be nothing"
)]
fn client(address: &str) -> Option<ProxySource> {
    Some(ProxySource::Client(address.parse().unwrap()))
}

const PEER: Option<ProxySource> = Some(ProxySource::Peer);

#[test]
fn a_line_names_the_client() {
    check(
        b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n",
        client("192.0.2.7:8080"),
    );
    check(
        b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n",
        client("[2001:db8::7]:0"),
    );
    // The longest possible line (2.1).
    let longest = b"PROXY UNKNOWN ffff:f...f:ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ff 65535 6\r\n";
    assert_eq!(longest.len(), v1::MAX_LEN);
    check(longest, PEER);
    check(b"PROXY UNKNOWN\r\n", PEER);
}

#[test]
fn a_line_that_is_not_exact_is_refused() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 8080 443\r\n",
        "PROXY TCP4 192.0.2.7  198.51.100.1 8080 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 8080 443 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 8080\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 8080 443 1\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 8080 443\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 8080 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 08080 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 8080 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +80 443\r\n",
        "PROXY TCP4 ::1 ::1 8080 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 8080 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 8080 443\r\n",
        "PROXY TCP4\r\n",
        "PROXY \r\n      ",
        "proxy TCP4 192.0.2.7 198.51.100.1 8080 443\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\n\0\r\nQUIT\r",
        "PROXZ",
        "PROXY TCP4 192.0.2.7 198.51.100.1 8080 443",
        "",
    ] {
        check(line.as_bytes(), None);
    }
    let mut endless = b"PROXY UNKNOWN ".to_vec();
    endless.resize(v1::MAX_LEN - 1, b'x');
    endless.extend(b"\r\n");
    check(&endless, None);
}

#[test]
fn a_binary_header_names_the_client() {
    check(&v2(0x21, 0x11, &INET), client("192.0.2.7:8080"));
    check(&v2(0x21, 0x12, &INET), client("192.0.2.7:8080"));
    let mut inet6 = [0; 36];
    inet6[..2].copy_from_slice(&[0x20, 0x01]);
    inet6[15] = 9;
    inet6[32..].copy_from_slice(&[0, 80, 1, 0xbb]);
    check(&v2(0x21, 0x21, &inet6), client("[2001::9]:80"));
    // Connections of the balancer itself, and those without information on the client.
    check(&v2(0x20, 0x00, b""), PEER);
    check(&v2(0x20, 0x11, &INET), PEER);
    check(&v2(0x20, 0x99, &INET), PEER);
    check(&v2(0x21, 0x00, b""), PEER);
    check(&v2(0x21, 0x00, b"what it likes"), PEER);
    check(&v2(0x21, 0x31, &[0; 216]), PEER);
}

#[test]
fn extensions_are_passed_over_within_their_bounds() {
    let with = |extensions: &[u8]| v2(0x21, 0x11, &[&INET, extensions].concat());
    let found = client("192.0.2.7:8080");
    // The server name that the client asked for, and a no-op.
    check(&with(b"\x02\x00\x05a.com\x04\x00\x00"), found);
    check(
        &with(&[&[0xe0, 0x0f, 0xf1][..], &[0; 4081]].concat()),
        found,
    );
    for truncated in [
        &b"\x02"[..],
        b"\x02\x00",
        b"\x02\x00\x05a.co",
        b"\x04\x00\x00\x00",
    ] {
        check(&with(truncated), None);
    }
    check(&with(&[&[0xe0, 0x0f, 0xf2][..], &[0; 4082]].concat()), None);
}

#[test]
fn a_checksum_must_be_right() {
    // RFC 3720, B.4: 32 bytes of zeros.
    assert_eq!(v2::crc32c(&[0; 32], 0..0), 0x8a91_36aa);
    let header = with_checksum(&v2(0x21, 0x11, &INET));
    check(&header, client("192.0.2.7:8080"));
    for at in v2::FIXED..header.len() {
        let mut bent = header.clone();
        bent[at] ^= 1;
        let outcome = v2::parse(&bent);
        // A changed type or length makes it another extension, or one that is truncated.
        let is_type = at == header.len() - 7;
        assert!(outcome.is_err() || is_type, "{at}: {outcome:?}");
    }
}

#[test]
fn a_binary_header_that_is_not_exact_is_refused() {
    check(&v2(0x11, 0x11, &INET), None);
    check(&v2(0x22, 0x11, &INET), None);
    check(&v2(0x21, 0x13, &INET), None);
    check(&v2(0x21, 0x41, &INET), None);
    check(&v2(0x21, 0x11, &INET[..11]), None);
    check(&v2(0x21, 0x21, &INET), None);
    check(&v2(0x21, 0x31, &INET), None);
}

proptest! {
    #[test]
    fn a_written_address_is_parsed_back(ip: IpAddr, port: u16, to: u16) {
        let written = SocketAddr::new(ip, port);
        let family = if ip.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {ip} {ip} {port} {to}\r\n");
        let source = ProxySource::Client(written);
        prop_assert_eq!(v1::parse(line.as_bytes()).unwrap(), ControlFlow::Break(source));

        let (family, octets) = match ip {
            IpAddr::V4(ip) => (0x11, ip.octets().to_vec()),
            IpAddr::V6(ip) => (0x21, ip.octets().to_vec()),
        };
        let ports = [port.to_be_bytes(), to.to_be_bytes()].concat();
        let header = v2(0x21, family, &[&octets[..], &octets[..], &ports].concat());
        prop_assert_eq!(v2::parse(&header).unwrap(), ProxySource::Client(written));
        prop_assert_eq!(v2::parse(&with_checksum(&header)).unwrap(), ProxySource::Client(written));
    }

    #[test]
    fn no_bytes_are_too_odd(line in "(PROXY )?[ -~]{0,110}(\r\n)?", remainder: Vec<u8>, fixed: [u8; 2]) {
        // Accepted or refused, but unambiguous: every accepted line ends in CRLF.
        if let Ok(ControlFlow::Break(_)) = v1::parse(line.as_bytes()) {
            prop_assert!(line.len() <= 120 && line.ends_with("\r\n"));
        }
        let header = v2(fixed[0], fixed[1], &remainder);
        if v2::parse(&header).is_ok() {
            prop_assert!(fixed[0] == 0x20 || fixed[0] == 0x21);
        }
        drop(v2::parse(&remainder));
        drop(v1::parse(&remainder));
    }
}
