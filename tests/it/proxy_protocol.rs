//! The PROXY protocol in front of plain and TLS listeners: the effective client address, and the
//! peers that may set it.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::UnixStream, time::Instant};
use tokio_rustls::TlsConnector;

use crate::support::{
    certificates::Ca,
    client::{Connection, get},
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, Origin},
    wait::{pass, wait_for},
};

async fn front(origin: &Origin<EchoOrigin>, listener: &str) -> Gateway {
    Front::to(origin)
        .listener(listener)
        .with("trusted_proxies: ['192.0.2.200/32']")
        .start()
        .await
}

const LOOPBACK: &str = "proxy_protocol: [127.0.0.1/32]";

/// Returns the value of a header as the origin got it.
fn header<'j>(echo: &'j Value, name: &str) -> &'j str {
    let headers = echo["headers"].as_array().expect("the origin lists them");
    let found = headers.iter().find(|header| header[0] == name);
    found
        .and_then(|header| header[1].as_str())
        .unwrap_or_default()
}

/// Returns the request that reaches the origin when a connection begins with `header`.
async fn seen(gateway: &Gateway, header: &[u8]) -> Value {
    let mut connection = gateway.connect().await;
    connection.write(header).await.expect("it takes bytes");
    let request = get("/").header("x-forwarded-for", "203.0.113.9");
    let response = connection.send(&request).await.expect("it is served");
    response.json()
}

fn v2(version_command: u8, family: u8, remainder: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([version_command, family]);
    header.extend(u16::try_from(remainder.len()).expect("short").to_be_bytes());
    header.extend(remainder);
    header
}

fn inet6() -> Vec<u8> {
    let mut remainder = [0; 36];
    remainder[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    remainder[15] = 7;
    v2(0x21, 0x21, &remainder)
}

fn inet(last: u8, extensions: &[u8]) -> Vec<u8> {
    let mut remainder = vec![192, 0, 2, last, 198, 51, 100, 1, 0x1f, 0x90, 1, 0xbb];
    remainder.extend(extensions);
    v2(0x21, 0x11, &remainder)
}

#[tokio::test]
async fn the_header_names_the_client_in_both_versions() {
    let origin = EchoOrigin::start().await;
    let gateway = front(&origin, LOOPBACK).await;
    for (header, client) in [
        (
            b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n".to_vec(),
            "192.0.2.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 ::1 8080 443\r\n".to_vec(),
            "2001:db8::7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (inet(7, b""), "192.0.2.7"),
        (inet(8, b"\x02\x00\x05a.com\x04\x00\x02\0\0"), "192.0.2.8"),
        (inet6(), "2001:db8::7"),
        (v2(0x20, 0x00, b""), "127.0.0.1"),
    ] {
        let echo = seen(&gateway, &header).await;
        assert_eq!(self::header(&echo, "x-real-ip"), client, "{echo}");
        // The header of an untrusted client is not passed on.
        assert_eq!(self::header(&echo, "x-forwarded-for"), client, "{echo}");
    }
    // A trusted proxy in front of the balancer is trusted; the balancer itself need not be.
    let echo = seen(&gateway, &inet(200, b"")).await;
    assert_eq!(header(&echo, "x-real-ip"), "203.0.113.9", "{echo}");
    let lines = gateway.log_lines(8).await;
    // Each thread of the gateway has its own order.
    let named = lines.iter().filter(|line| line["client"] == "192.0.2.7");
    assert_eq!(named.count(), 2, "{lines:?}");
}

#[tokio::test]
async fn a_header_in_pieces_and_a_request_in_the_same_segment_are_separated() {
    let origin = EchoOrigin::start().await;
    let gateway = front(&origin, LOOPBACK).await;
    for header in [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n".to_vec(),
        inet(7, b"\x02\x00\x05a.com"),
    ] {
        for end in [1, 5, 12, 15, 17, header.len() - 1] {
            let mut connection = gateway.connect().await;
            connection.write(&header[..end]).await.unwrap();
            pass(Duration::from_millis(20)).await;
            let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let remainder = [&header[end..], request].concat();
            connection.write(&remainder).await.unwrap();
            let head = connection.read_headers().await.expect("it is served");
            let response = connection.finish(head).await.unwrap().json();
            assert_eq!(self::header(&response, "x-real-ip"), "192.0.2.7", "{end}");
        }
    }
}

#[tokio::test]
async fn without_a_proper_header_nothing_is_served() {
    let origin = EchoOrigin::start().await;
    let gateway = front(&origin, LOOPBACK).await;
    let odd = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 8080\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\n".to_vec(),
        v2(0x21, 0x11, b"short"),
        inet(7, b"\x02\x00\x05a"),
        inet(7, b"\x03\x00\x04\0\0\0\0"),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
    ];
    for bytes in &odd {
        let mut connection = gateway.connect().await;
        connection.write(bytes).await.unwrap();
        // The connection may be closed before this is written.
        drop(connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await);
        assert!(connection.is_closed().await, "{bytes:?}");
    }
    gateway.refuses("proxy_protocol", odd.len() as u64).await;

    // A header that never arrives completely has a deadline.
    let started = Instant::now();
    let mut silent = gateway.connect().await;
    silent.write("PROXY TCP4 192").await.unwrap();
    assert!(silent.is_closed().await);
    let took = started.elapsed();
    let expected = Duration::from_millis(2900)..Duration::from_secs(20);
    assert!(expected.contains(&took), "{took:?}");
    gateway.refuses("proxy_protocol_timeout", 1).await;
    assert_eq!(origin.counts().requests(), 0);
    // The control.
    let echo = seen(&gateway, &inet(7, b"")).await;
    assert_eq!(header(&echo, "x-real-ip"), "192.0.2.7");
}

#[tokio::test]
async fn only_the_balancers_may_connect() {
    let origin = EchoOrigin::start().await;
    let gateway = front(&origin, "proxy_protocol: [127.0.0.2/32]").await;
    let mut stranger = gateway.connect().await;
    // The connection may be closed before this is written.
    drop(stranger.write(inet(7, b"")).await);
    assert!(stranger.is_closed().await);
    gateway.refuses("proxy_protocol_peer", 1).await;
    assert_eq!(origin.counts().requests(), 0);
    // The control: the same bytes from the balancer.
    let balancer = "127.0.0.2".parse().unwrap();
    let mut connection = Connection::open_from(balancer, gateway.address())
        .await
        .unwrap();
    connection.write(inet(7, b"")).await.unwrap();
    assert_eq!(connection.send(&get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn clients_are_counted_by_the_address_in_the_header() {
    let origin = EchoOrigin::start().await;
    let limited = format!("{LOOPBACK}, limits: {{ connections_per_ip: 1 }}");
    let gateway = front(&origin, &limited).await;
    let open = async |last: u8| {
        let mut connection = gateway.connect().await;
        connection.write(inet(last, b"")).await.unwrap();
        let response = connection.send(&get("/")).await;
        response.is_ok().then_some(connection)
    };
    let first = open(7).await.expect("there is room");
    assert!(open(7).await.is_none());
    gateway.refuses("connections_per_ip", 1).await;
    // Another client behind the same balancer.
    assert!(open(8).await.is_some());
    drop(first);
    wait_for("there is room again", Duration::from_secs(5), async || {
        open(7).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let origin = EchoOrigin::start().await;
    let authority = Ca::new();
    let yaml = format!(
        "
listeners:
  - address: 127.0.0.1:0
    name: web
    proxy_protocol: [127.0.0.1/32]
    tls: {{ certificates: {{ cert: site.pem, key: site.key }} }}
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes:
  - match: {{ path: /* }}
    upstream: app
",
        origin.address()
    );
    let prepare = |folder: &std::path::Path| authority.site(&["a.example"]).write(folder, "site");
    let gateway = Gateway::start_in(&yaml, prepare).await;
    let connector = TlsConnector::from(Arc::new(authority.trust()));
    let name = ServerName::try_from("a.example").unwrap();
    for header in [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n".to_vec(),
        inet(7, b"\x04\x00\x00"),
    ] {
        let mut stream = gateway.connect().await.into_stream();
        stream.write_all(&header).await.unwrap();
        let stream = connector.connect(name.clone(), stream).await.unwrap();
        let mut connection = Connection::over(stream, "a.example".to_owned());
        let echo = connection.send(&get("/")).await.unwrap().json();
        assert_eq!(self::header(&echo, "x-real-ip"), "192.0.2.7", "{echo}");
        assert_eq!(self::header(&echo, "x-forwarded-proto"), "https", "{echo}");
    }
    // Balancers check the port: with their own header, with a client's, or with nothing.
    for check in [v2(0x20, 0, b""), inet(7, b""), Vec::new()] {
        for is_reset in [false, true] {
            let mut stream = gateway.connect().await.into_stream();
            stream.write_all(&check).await.unwrap();
            if is_reset {
                stream.set_zero_linger().unwrap();
            }
        }
    }
    gateway
        .counts("edgeway_connections_accepted_total", 8)
        .await;
    gateway.counts("edgeway_connections", 0).await;
    // The control: without the header the handshake does not begin.
    let stream = gateway.connect().await.into_stream();
    assert!(connector.connect(name, stream).await.is_err());
    gateway.counts("edgeway_refused_total", 1).await;
    let failed = "edgeway_tls_handshakes_total{outcome=\"failed\"}";
    assert_eq!(gateway.count(failed).await, 0);
}

#[tokio::test]
async fn a_balancer_may_come_by_a_unix_socket() {
    let origin = EchoOrigin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let _gateway = Front::to(&origin)
        .with(&format!(
            "listeners: [{{ address: 'unix:{}', name: web, proxy_protocol: {{ from: [] }} }}]",
            path.display()
        ))
        .start()
        .await;
    for (header, client) in [
        (
            b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n".to_vec(),
            "192.0.2.7",
        ),
        (inet6(), "2001:db8::7"),
        (v2(0x20, 0x00, b""), "127.0.0.1"),
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let mut connection = Connection::over(stream, "a.example".to_owned());
        let echo = connection.send(&get("/")).await.unwrap().json();
        assert_eq!(self::header(&echo, "x-real-ip"), client, "{echo}");
    }
}
