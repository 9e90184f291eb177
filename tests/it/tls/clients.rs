//! Client certificates.

use std::{fs, path::Path, sync::Arc};

use rcgen::DnType;
use rustls::{ClientConfig, HandshakeKind, version};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Site, Tls, WATCHED};
use crate::support::{
    certificates::{Ca, Issued, Wanted, replace},
    client::{ClientError, Response, get},
    http2,
    wait::wait_for,
};

const REQUIRED: &str = "{ certificates: { dir: sites }, client_ca: ca.pem }";
const OPTIONAL: &str =
    "{ certificates: { dir: sites }, client_ca: ca.pem, client_certificate: optional }";
const NONE: &str = "{ certificates: { dir: sites } }";

fn prepare(ca: &Ca, folder: &Path) {
    fs::create_dir(folder.join("sites")).unwrap();
    let names = ["a.test", "b.test"];
    ca.site(&names).write(&folder.join("sites"), "a");
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
}

fn ann(ca: &Ca) -> Issued {
    ca.issue(&Wanted::client(&[
        (DnType::CountryName, "DE"),
        (DnType::OrganizationName, "Müller, Söhne & Co"),
        (DnType::CommonName, "ann"),
    ]))
}

const ANN: &str = "CN=ann,O=M\\C3\\BCller\\, S\\C3\\B6hne & Co,C=DE";

fn with(site: &Site, own: &Issued) -> Arc<ClientConfig> {
    Arc::new(site.ca.trust_with(Some(own)))
}

/// Returns the headers about the client's certificate that the origin received.
fn client_headers(response: &Response) -> [Value; 3] {
    let echo = response.json();
    // As pairs, in their order.
    let headers = echo["headers"].as_array().expect("a list").clone();
    let value = |name: &str| {
        let mut found = headers.iter().filter(|pair| pair[0] == name);
        let first = found.next().map_or(Value::Null, |pair| pair[1].clone());
        assert_eq!(found.next(), None, "`{name}` stands there twice");
        first
    };
    [
        "x-client-verify",
        "x-client-cert-subject",
        "x-client-cert-fingerprint",
    ]
    .map(value)
}

pub(super) fn fingerprint(own: &Issued) -> String {
    let (chain, _) = own.ders();
    let hash = ring::digest::digest(&ring::digest::SHA256, &chain[0]);
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Sends a request; in TLS 1.3 a client learns of its refusal when it reads.
async fn exchange(open: Result<Tls, ClientError>) -> Result<Response, ClientError> {
    let lie = get("/")
        .header("x-client-verify", "SUCCESS")
        .header("X-Client-Cert-Subject", "CN=root")
        .header("x-client-cert-fingerprint", "00");
    open?.send(&lie).await
}

#[tokio::test]
async fn a_certificate_is_required_and_its_holder_is_forwarded() {
    let site = Site::start(REQUIRED, prepare).await;
    let own = ann(&site.ca);
    let response = exchange(site.connect("a.test", &with(&site, &own)).await).await;
    let expected = ["SUCCESS".to_owned(), ANN.to_owned(), fingerprint(&own)];
    assert_eq!(
        client_headers(&response.unwrap()),
        expected.map(Value::from)
    );

    // No certificate, one of another CA, an expired one, and one for a site.
    let stranger = ann(&Ca::new());
    let old = Wanted::client(&[(DnType::CommonName, "old")]).days(-20, -10);
    let old = site.ca.issue(&old);
    let wrong = site.ca.site(&["c.test"]);
    let refused = [
        site.trust(),
        with(&site, &stranger),
        with(&site, &old),
        with(&site, &wrong),
    ];
    let count = refused.len() as u64;
    for config in refused {
        let response = exchange(site.connect("a.test", &config).await).await;
        assert!(response.is_err(), "{response:?}");
    }
    site.refuses("tls_handshake", count).await;
}

#[tokio::test]
async fn a_certificate_may_be_optional() {
    let site = Site::start(OPTIONAL, prepare).await;
    let response = exchange(site.connect("a.test", &site.trust()).await).await;
    let expected = [Value::from("NONE"), Value::Null, Value::Null];
    assert_eq!(client_headers(&response.unwrap()), expected);
    let own = ann(&site.ca);
    let response = exchange(site.connect("a.test", &with(&site, &own)).await).await;
    assert_eq!(client_headers(&response.unwrap())[1], ANN);
    let stranger = ann(&Ca::new());
    let response = exchange(site.connect("a.test", &with(&site, &stranger)).await).await;
    assert!(response.is_err(), "{response:?}");
}

#[tokio::test]
async fn no_certificate_is_forwarded_where_none_is_requested() {
    let site = Site::start(NONE, prepare).await;
    let own = ann(&site.ca);
    let response = exchange(site.connect("a.test", &with(&site, &own)).await).await;
    assert_eq!(
        client_headers(&response.unwrap()),
        [Value::Null, Value::Null, Value::Null]
    );
}

#[tokio::test]
async fn a_certificate_is_verified_with_each_connection() {
    let site = Site::start(REQUIRED, prepare).await;
    let own = ann(&site.ca);
    for version in [&version::TLS12, &version::TLS13] {
        let provider = rustls::crypto::ring::default_provider();
        let config = site.ca.trust_through(provider, &[version], Some(&own));
        let config = Arc::new(config);
        for _ in 0..2 {
            let open = site.connect("a.test", &config).await.unwrap();
            let met = open.tls().handshake_kind();
            let response = exchange(Ok(open)).await.unwrap();
            assert_eq!(client_headers(&response)[1], ANN);
            assert_eq!(met, Some(HandshakeKind::Full), "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_session_opens_no_listener_but_its_own() {
    let site = Site::start_with(&[("open", NONE), ("closed", REQUIRED)], prepare).await;
    for version in [&version::TLS12, &version::TLS13] {
        let provider = rustls::crypto::ring::default_provider();
        let config = site.ca.trust_through(provider, &[version], None);
        let config = Arc::new(config);
        let open = site.connect_to("open", "a.test", &config).await;
        exchange(open).await.unwrap();
        // The control: the listener that issued the ticket accepts it, and issues another.
        let open = site.connect_to("open", "a.test", &config).await.unwrap();
        assert_eq!(open.tls().handshake_kind(), Some(HandshakeKind::Resumed));
        exchange(Ok(open)).await.unwrap();
        let open = site.connect_to("closed", "a.test", &config).await;
        let response = exchange(open).await;
        assert!(response.is_err(), "{version:?}: {response:?}");
    }
}

#[tokio::test]
async fn clients_of_old_cas_are_refused_from_their_next_request() {
    let site = Site::start(REQUIRED, prepare).await;
    let own = ann(&site.ca);
    let config = with(&site, &own);
    let mut kept = site.connect("a.test", &config).await.unwrap();
    let control = kept.send(&get("/").header("host", "a.test")).await.unwrap();
    assert_ne!(control.header("connection"), Some("close"));
    let mut tls = ClientConfig::clone(&config);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(site.gateway.address()).await.unwrap();
    let name = "a.test".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, socket);
    let stream = stream.await.unwrap();
    let many = http2::Client::over(stream, &mut h2::client::Builder::new()).await;
    let request = || http::Request::builder().uri("https://a.test/");
    assert_eq!(many.send(request(), "").await.unwrap().status(), 200);
    let other = Ca::new();
    replace(&site.gateway.folder().join("ca.pem"), other.pem());
    wait_for("the client is a stranger", WATCHED, async || {
        exchange(site.connect("a.test", &config).await).await.err()
    })
    .await;
    // What is open already serves no more requests.
    let last = kept.send(&get("/").header("host", "a.test")).await.unwrap();
    assert_eq!(last.status(), 421);
    assert_eq!(last.header("connection"), Some("close"));
    wait_for("the connection of HTTP/2 ends", WATCHED, async || {
        let sent = many.send(request(), "").await;
        sent.map_err(drop)
            .inspect(|response| assert_eq!(response.status(), 421))
            .err()
    })
    .await;
    // The control: clients of the new CA are admitted.
    let bob = other.issue(&Wanted::client(&[(DnType::CommonName, "bob")]));
    let response = exchange(site.connect("a.test", &with(&site, &bob)).await).await;
    assert_eq!(client_headers(&response.unwrap())[1], "CN=bob");
}

#[tokio::test]
async fn the_host_must_be_the_name_that_was_asked_for() {
    let site = Site::start_with(&[("web", OPTIONAL), ("open", NONE)], prepare).await;
    let mut open = site.connect("a.test", &site.trust()).await.unwrap();
    let mut status = async |host: &str| {
        let response = open.send(&get("/").header("host", host)).await.unwrap();
        response.status()
    };
    assert_eq!(status("b.test").await, 421);
    // The same connection continues.
    for host in ["a.test", "A.Test", "a.test:8443", "a.test."] {
        assert_eq!(status(host).await, 200, "{host}");
    }
    assert_eq!(status("127.0.0.1").await, 421);
    site.refuses("wrong_name", 2).await;
    // A client without SNI may only use an address as host.
    let nameless = Arc::new(super::without_names(site.ca.trust()));
    let mut open = site.connect("a.test", &nameless).await.unwrap();
    for (host, expected) in [("127.0.0.1", 200), ("[::1]:443", 200), ("a.test", 421)] {
        let response = open.send(&get("/").header("host", host)).await.unwrap();
        assert_eq!(response.status(), expected, "{host}");
    }
    // The control: on the other listener, a connection may be used for any host.
    let mut open = site
        .connect_to("open", "a.test", &site.trust())
        .await
        .unwrap();
    let response = open.send(&get("/").header("host", "b.test")).await.unwrap();
    assert_eq!(response.status(), 200);
}
