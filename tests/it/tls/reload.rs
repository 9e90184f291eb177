//! TLS across reloads and upgrades.

use std::{fs, path::Path, sync::Arc};

use rcgen::DnType;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Site;
use crate::support::{
    certificates::{Ca, Issued, Wanted},
    client::{Connection, get},
};

const NONE: &str = "{ certificates: { cert: a.pem, key: a.key } }";

fn prepare(ca: &Ca, folder: &Path) {
    ca.site(&["a.test"]).write(folder, "a");
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
}

fn client(
    site: &Site,
    own: &Issued,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let provider = rustls::crypto::ring::default_provider();
    let config = site.ca.trust_through(provider, &[version], Some(own));
    Arc::new(config)
}

async fn kind(site: &Site, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut open = site.connect("a.test", config).await.unwrap();
    // The ticket of TLS 1.3 arrives with the response.
    assert_eq!(open.send(&get("/")).await.unwrap().status(), 200);
    open.tls().handshake_kind().unwrap()
}

/// Reloads with `from` replaced by `to` in the configuration.
async fn reload(site: &Site, from: &str, to: &str) -> bool {
    let file = site.gateway.folder().join("edgeway.yaml");
    let yaml = fs::read_to_string(file).unwrap();
    assert!(yaml.contains(from), "{yaml}");
    site.gateway.reload(&yaml.replace(from, to)).await
}

#[tokio::test]
async fn sessions_go_on_over_reloads_until_clients_are_asked_for_certificates() {
    let site = Site::start(NONE, prepare).await;
    let own = site
        .ca
        .issue(&Wanted::client(&[(DnType::CommonName, "ann")]));
    let clients = [&version::TLS12, &version::TLS13].map(|version| client(&site, &own, version));
    for config in &clients {
        assert_eq!(kind(&site, config).await, HandshakeKind::Full);
    }
    for _ in 0..3 {
        assert!(reload(&site, "name: web, tls:", "name: web,  tls:").await);
        assert!(reload(&site, "name: web,  tls:", "name: web, tls:").await);
        for config in &clients {
            assert_eq!(kind(&site, config).await, HandshakeKind::Resumed);
        }
    }
    assert!(reload(&site, "key: a.key }", "key: a.key }, client_ca: ca.pem").await);
    for config in clients.iter().chain(&clients) {
        assert_eq!(kind(&site, config).await, HandshakeKind::Full);
    }
}

#[tokio::test]
#[cfg_attr(edgeway_portable, ignore = "upgrades need Linux")]
async fn sessions_go_on_over_upgrades() {
    let mut site = Site::start(NONE, prepare).await;
    let own = site
        .ca
        .issue(&Wanted::client(&[(DnType::CommonName, "ann")]));
    let config = client(&site, &own, &version::TLS13);
    assert_eq!(kind(&site, &config).await, HandshakeKind::Full);
    for _ in 0..2 {
        site.gateway.upgrade().await;
        assert_eq!(kind(&site, &config).await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn a_pair_that_is_half_written_is_refused_and_changes_nothing() {
    let site = Site::start("{ certificates: { cert: a.pem, key: a.key } }", prepare).await;
    let other = site.ca.site(&["a.test"]);
    other.write(site.gateway.folder(), "b");
    let half = fs::read(site.gateway.folder().join("b.pem")).unwrap();
    fs::write(site.gateway.folder().join("b.pem"), &half[..half.len() / 2]).unwrap();
    let (before, after) = ("cert: a.pem, key: a.key", "cert: b.pem, key: b.key");
    assert!(!reload(&site, before, after).await);
    site.connect("a.test", &site.trust()).await.unwrap();
    fs::write(site.gateway.folder().join("b.pem"), &half).unwrap();
    // The file has the new names by now.
    assert!(reload(&site, after, after).await);
    site.connect("a.test", &site.trust()).await.unwrap();
}

/// A listener's `tls`, and the rule for certificates of clients that it makes.
const RULES: [(&str, &str); 4] = [
    ("", "none"),
    (
        ", tls: { certificates: { cert: a.pem, key: a.key } }",
        "none",
    ),
    (
        ", tls: { certificates: { cert: a.pem, key: a.key }, client_ca: ca.pem }",
        "required",
    ),
    (
        ", tls: { certificates: { cert: a.pem, key: a.key }, client_ca: ca.pem, \
         client_certificate: optional }",
        "optional",
    ),
];

async fn set(site: &Site, tls: &str) {
    let file = site.gateway.folder().join("edgeway.yaml");
    let yaml = fs::read_to_string(file).unwrap();
    let written = yaml.lines().find(|line| line.contains("name: web"));
    let line = format!("  - {{ address: \"127.0.0.1:0\", name: web{tls} }}");
    let yaml = yaml.replace(written.unwrap(), &line);
    assert!(site.gateway.reload(&yaml).await, "{tls}");
}

/// Returns the status of the second of two requests, before which the listener gets another `tls`, and
/// true if it is the last of the connection.
async fn second<S>(site: &Site, mut open: Connection<S>, tls: &str) -> (u16, bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = get("/").header("host", "a.test");
    assert_eq!(open.send(&request).await.unwrap().status(), 200);
    set(site, tls).await;
    let response = open.send(&request).await.unwrap();
    (
        response.status(),
        response.header("connection") == Some("close"),
    )
}

#[tokio::test]
async fn a_connection_has_no_rights_under_other_rules_for_certificates_of_clients() {
    let site = Site::start(NONE, prepare).await;
    let own = site
        .ca
        .issue(&Wanted::client(&[(DnType::CommonName, "ann")]));
    let config = Arc::new(site.ca.trust_with(Some(&own)));
    for (before, rule) in RULES {
        for (after, later) in RULES {
            set(&site, before).await;
            let seen = if before.is_empty() {
                let open = Connection::open(site.gateway.address()).await.unwrap();
                second(&site, open, after).await
            } else {
                let open = site.connect("a.test", &config).await.unwrap();
                second(&site, open, after).await
            };
            let expected = if rule == later {
                (200, false)
            } else {
                (421, true)
            };
            assert_eq!(seen, expected, "`{before}`, then `{after}`");
        }
    }
}
