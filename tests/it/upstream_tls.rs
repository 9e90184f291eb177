//! TLS to backends: trusted and untrusted certificates, the logged causes, and connections that are
//! never used with other trust settings.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

use std::{collections::HashMap, iter, time::Duration};

use rcgen::DnType;
use tempfile::TempDir;

use crate::support::{
    certificates::{Ca, Issued, Wanted, replace},
    client::{Response, get},
    front::Front,
    gateway::Gateway,
    origins::SecureOrigin,
    server::bridge,
    wait::wait_for,
};

const NAME: &str = "api.test";
const WITHIN: Duration = Duration::from_secs(10);

/// CA whose certificate is in a file.
struct CaFolder {
    ca: Ca,
    folder: TempDir,
}

impl CaFolder {
    fn new() -> Self {
        let trusted = Self {
            ca: Ca::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        trusted.file("ca.pem", trusted.ca.pem());
        trusted
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        replace(&path, text);
        path.display().to_string()
    }

    fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

fn gateway_certificate() -> Wanted {
    Wanted::client(&[(DnType::CommonName, "gateway.test")])
}

/// Starts a gateway with one upstream with this `tls`, without health checks.
async fn gateway(origin: &SecureOrigin, tls: &str) -> Gateway {
    let address = origin.address();
    Front::to(address)
        .upstream(&format!("tls: {tls}"))
        .start()
        .await
}

/// Checks that the gateway responds with 502 because of TLS, and logs `why`.
async fn refused(gateway: &Gateway, why: &str) -> Response {
    let response = gateway.get("/").await;
    assert_eq!(response.status(), 502, "{}", response.text());
    let line = gateway.log_lines(1).await.remove(0);
    assert_eq!(line["reason"], "upstream_tls", "{line}");
    gateway.refuses("upstream_tls", 1).await;
    let log = gateway.stderr();
    assert!(log.contains("TLS handshake with a backend failed"), "{log}");
    assert!(log.contains(why), "not `{why}`: {log}");
    response
}

#[tokio::test]
async fn a_backend_with_a_valid_certificate_is_used() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&trusted.ca.site(&[NAME])).await;
    let gateway = gateway(
        &origin,
        &format!("{{ name: {NAME}, ca: '{}' }}", trusted.ca_file()),
    )
    .await;
    let seen = gateway
        .send(&get("/").header("host", "shop.example.com"))
        .await;
    let seen = seen.json();
    assert_eq!(seen["sni"], NAME);
    assert_eq!(seen["alpn"], "http/1.1", "nothing else is offered");
    assert_eq!(seen["tls"], "TLSv1_3");
    assert_eq!(seen["client"], false);
    // The host of the client's request, not the name of the backend.
    assert_eq!(seen["host"], "shop.example.com");
    assert_eq!(seen["proto"], "http");

    // The app may redirect to its own name, which clients cannot reach: the gateway repairs it.
    let port = origin.port().to_string();
    let moved = get("/elsewhere")
        .header("host", "shop.example.com")
        .header("x-test-port", &port);
    let moved = gateway.send(&moved).await;
    assert_eq!(
        moved.header("location"),
        Some("http://shop.example.com/there")
    );

    let status = gateway.admin_get("/status").await.json();
    assert_eq!(status["upstreams"][0]["tls"], NAME);
    assert_eq!(status["upstreams"][0]["protocol"], "http1");
}

#[tokio::test]
async fn a_backend_of_another_ca_is_refused() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&Ca::new().site(&[NAME])).await;
    let gateway = gateway(
        &origin,
        &format!("{{ name: {NAME}, ca: '{}' }}", trusted.ca_file()),
    )
    .await;
    refused(&gateway, "unknown issuer").await;
    assert_eq!(origin.counts().handshakes(), 0);
}

#[tokio::test]
async fn a_backend_of_another_name_is_refused() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&trusted.ca.site(&["other.test"])).await;
    let gateway = gateway(
        &origin,
        &format!("{{ name: {NAME}, ca: '{}' }}", trusted.ca_file()),
    )
    .await;
    refused(&gateway, "name mismatch").await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let trusted = CaFolder::new();
    let old = trusted.ca.issue(&Wanted::site(&[NAME]).days(-90, -1));
    let origin = SecureOrigin::start(&old).await;
    let gateway = gateway(
        &origin,
        &format!("{{ name: {NAME}, ca: '{}' }}", trusted.ca_file()),
    )
    .await;
    refused(&gateway, "expired certificate").await;
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_unless_it_is_the_ca() {
    let trusted = CaFolder::new();
    let identity = Issued::self_signed(&Wanted::site(&[NAME]));
    let origin = SecureOrigin::start(&identity).await;
    let stranger = gateway(
        &origin,
        &format!("{{ name: {NAME}, ca: '{}' }}", trusted.ca_file()),
    )
    .await;
    refused(&stranger, "unknown issuer").await;
    // Small setups trust a single self-signed certificate.
    let file = trusted.file("self.pem", &identity.cert);
    let friend = gateway(&origin, &format!("{{ name: {NAME}, ca: '{file}' }}")).await;
    assert_eq!(friend.get("/").await.status(), 200);
}

#[tokio::test]
async fn the_system_cas_are_trusted_where_none_are_configured() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&trusted.ca.site(&[NAME])).await;
    let tls = format!("{{ name: {NAME} }}");
    let stranger = gateway(&origin, &tls).await;
    refused(&stranger, "unknown issuer").await;
    // The control: a system that trusts the CA.
    let yaml = Front::to(&origin).upstream(&format!("tls: {tls}")).yaml();
    let environment = [
        ("SSL_CERT_FILE", trusted.ca_file()),
        ("SSL_CERT_DIR", String::new()),
    ];
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, &**value));
    let system = Gateway::start_with(&yaml, &environment).await;
    assert_eq!(system.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_machine_without_cas_serves_upstreams_that_need_none() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&trusted.ca.site(&[NAME])).await;
    let empty = trusted.folder.path().display().to_string();
    let yaml = format!(
        "upstreams:
  own:
    backends: ['{0}']
    tls: {{ name: {NAME}, ca: '{1}' }}
    health: {{ path: /health, interval: 100ms, start_down: true }}
  system:
    backends: ['{0}']
    health: {{ interval: 100ms }}
    tls: {{ name: {NAME} }}
routes:
  - match: {{ path: /own }}
    upstream: own
  - match: {{ path: /system }}
    upstream: system
",
        origin.address(),
        trusted.ca_file()
    );
    let full = format!("listeners: [{{ address: '127.0.0.1:8080' }}]\n{yaml}");
    let file = trusted.file("edgeway.yaml", &full);
    // First an unreadable path; then a machine without CA certificates.
    for (path, folder, why) in [
        ("/nowhere/at/all", "/nowhere", "cannot be used"),
        ("/dev/null", &*empty, "has no CA certificates"),
    ] {
        let environment = [("SSL_CERT_FILE", path), ("SSL_CERT_DIR", folder)];
        let gateway = Gateway::start_with(&yaml, &environment).await;
        assert_eq!(gateway.get("/own").await.status(), 200);
        assert_eq!(gateway.get("/system").await.status(), 502);

        let check = std::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(["check", "-c", &file])
            .envs(environment)
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&check.stderr).into_owned()
            + &String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "a warning only: {report}");
        assert!(report.contains("tls_no_ca_certificates"), "{report}");
        assert!(report.contains(why), "{report}");
    }
}

#[tokio::test]
async fn a_backend_that_asks_for_a_certificate_gets_ours() {
    let trusted = CaFolder::new();
    let clients = Ca::new();
    let identity = trusted.ca.site(&[NAME]);
    let origin = SecureOrigin::start_with(&identity, Some(clients.roots())).await;
    let show = |identity: &Issued, name: &str| {
        let cert = trusted.file(&format!("{name}.pem"), &identity.cert);
        let key = trusted.file(&format!("{name}.key"), &identity.key);
        format!(
            "{{ name: {NAME}, ca: '{}', cert: '{cert}', key: '{key}' }}",
            trusted.ca_file()
        )
    };
    let ours = show(&clients.issue(&gateway_certificate()), "ours");
    let friend = gateway(&origin, &ours).await;
    assert_eq!(friend.get("/").await.json()["client"], true);

    let strange = show(&Ca::new().issue(&gateway_certificate()), "strange");
    let stranger = gateway(&origin, &strange).await;
    refused(&stranger, "the backend").await;
    let nobody = gateway(
        &origin,
        &format!("{{ name: {NAME}, ca: '{}' }}", trusted.ca_file()),
    )
    .await;
    refused(&nobody, "the backend asks for a client certificate").await;
}

#[tokio::test]
async fn upstreams_of_one_address_never_share_a_connection() {
    let trusted = CaFolder::new();
    let clients = Ca::new();
    let both = trusted.ca.site(&[NAME, "second.test"]);
    let origin = SecureOrigin::start(&both).await;
    let more = trusted.file(
        "more.pem",
        &format!("{}{}", trusted.ca.pem(), clients.pem()),
    );
    let identity = clients.issue(&gateway_certificate());
    let cert = trusted.file("client.pem", &identity.cert);
    let key = trusted.file("client.key", &identity.key);
    let ca = trusted.ca_file();
    let trusts = [
        format!("{{ name: {NAME}, ca: '{ca}' }}"),
        format!("{{ name: second.test, ca: '{ca}' }}"),
        format!("{{ name: {NAME}, ca: '{more}' }}"),
        format!("{{ name: {NAME}, ca: '{ca}', cert: '{cert}', key: '{key}' }}"),
        // The same settings as the first, in another upstream.
        format!("{{ name: {NAME}, ca: '{ca}' }}"),
    ];
    let address = origin.address();
    let upstreams = trusts.iter().enumerate().map(|(index, tls)| {
        format!("  u{index}: {{ backends: ['{address}'], health: false, pool: {{ idle: 60s }}, tls: {tls} }}")
    });
    let routes = (0..trusts.len())
        .map(|index| format!("  - {{ match: {{ path: /u{index} }}, upstream: u{index} }}"));
    let lines: Vec<String> = iter::once("upstreams:".to_owned())
        .chain(upstreams)
        .chain(iter::once("routes:".to_owned()))
        .chain(routes)
        .collect();
    let yaml = lines.join("\n");
    let gateway = Gateway::start(&yaml).await;
    let mut owners = HashMap::new();
    for _ in 0..10 {
        for index in 0..trusts.len() {
            let seen = gateway.get(&format!("/u{index}")).await.json();
            let name = if index == 1 { "second.test" } else { NAME };
            assert_eq!(seen["sni"], name, "{index}");
            let owner = *owners.entry(seen["connection"].as_u64()).or_insert(index);
            assert_eq!(owner, index, "the other's connection");
        }
    }
    // The control: connections were reused by their own upstream. (Occasionally Pingora finds a
    // pooled connection that is not free yet, and opens another.)
    let handshakes = origin.counts().handshakes();
    assert!(
        (5..25).contains(&handshakes),
        "{handshakes} for 50 requests"
    );
}

#[tokio::test]
async fn health_checks_trust_the_same_cas_as_requests() {
    let trusted = CaFolder::new();
    let good = SecureOrigin::start(&trusted.ca.site(&[NAME])).await;
    let bad = SecureOrigin::start(&trusted.ca.site(&["other.test"])).await;
    let tls = format!("{{ name: {NAME}, ca: '{}' }}", trusted.ca_file());
    for health in [
        "{ path: /health, interval: 50ms, interval_down: 50ms, fall: 1 }",
        "{ interval: 50ms, interval_down: 50ms, fall: 1 }",
    ] {
        let gateway = Front::to_all(&format!("['{}', '{}']", good.address(), bad.address()))
            .upstream(&format!("health: {health}, tls: {tls}"))
            .start()
            .await;
        let backend = async |index: usize| {
            let status = gateway.admin_get("/status").await.json();
            status["upstreams"][0]["backends"][index].clone()
        };
        wait_for("the wrong name is found out", WITHIN, async || {
            (backend(1).await["state"] == "down").then_some(())
        })
        .await;
        assert_eq!(backend(1).await["probe"]["text"], "TLS: name mismatch");
        wait_for("the right name passes", WITHIN, async || {
            (backend(0).await["probe"]["passed"] == true).then_some(())
        })
        .await;
        for _ in 0..6 {
            assert_eq!(gateway.get("/").await.status(), 200);
        }
    }
}

#[tokio::test]
async fn a_backend_with_a_bad_certificate_leaves_rotation_until_it_has_a_good_one() {
    let trusted = CaFolder::new();
    let good = SecureOrigin::start(&trusted.ca.site(&[NAME])).await;
    let bad = SecureOrigin::start(&Issued::self_signed(&Wanted::site(&[NAME]))).await;
    let gateway = Gateway::start(&format!(
        "upstreams:
  app:
    backends: ['{}', '{}']
    balance: round_robin
    tls: {{ name: {NAME}, ca: '{}' }}
    eject: {{ errors: 3, for: 60s }}
routes:
  - match: {{ path: /* }}
    upstream: app
",
        good.address(),
        bad.address(),
        trusted.ca_file()
    ))
    .await;
    // Each attempt at the bad backend is retried: nothing was sent yet.
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
    let status = gateway.admin_get("/status").await.json();
    let out = &status["upstreams"][0]["backends"][1];
    assert_eq!(out["state"], "ejected", "{out}");
    assert_eq!(out["ejected_because"], "refused");
    // The health check speaks TLS too: a TCP connect would have returned it to rotation.
    wait_for("it was looked at", WITHIN, async || {
        let status = gateway.admin_get("/status").await.json();
        let probe = &status["upstreams"][0]["backends"][1]["probe"];
        (probe["text"] == "TLS: unknown issuer").then_some(())
    })
    .await;
    let log = gateway.stderr();
    let lines = log.matches("TLS handshake with a backend failed").count();
    assert_eq!(lines, 1, "once in ten seconds: {log}");
}

#[tokio::test]
async fn a_silent_handshake_is_bounded_by_the_connect_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let trusted = CaFolder::new();
    let gateway = Front::to(address).upstream(&format!("tls: {{ name: {NAME}, ca: '{}' }}, timeouts: {{ connect: 300ms }}, retry: {{ attempts: 1 }}", trusted.ca_file())).start()
    .await;
    let response = tokio::time::timeout(Duration::from_secs(5), gateway.get("/")).await;
    assert_eq!(response.expect("long before").status(), 502);
    assert_eq!(gateway.log_lines(1).await[0]["reason"], "upstream_connect");
    drop(listener);
}

#[tokio::test]
async fn backends_on_unix_sockets_speak_tls_under_a_name() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&trusted.ca.site(&[NAME])).await;
    let path = trusted.folder.path().join("app.sock");
    let bridge = bridge(&path, origin.address());
    let gateway = Front::to(format!("unix:{}", path.display()))
        .upstream(&format!(
            "tls: {{ name: {NAME}, ca: '{}' }}",
            trusted.ca_file()
        ))
        .start()
        .await;
    assert_eq!(gateway.get("/").await.json()["sni"], NAME);
    drop(bridge);
}

/// Returns a configuration with one upstream with these options.
fn one_upstream(origin: &SecureOrigin, options: &str) -> String {
    Front::to(origin).upstream(options).yaml()
}

#[tokio::test]
async fn a_connection_that_is_made_again_resumes_its_session() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&trusted.ca.site(&[NAME])).await;
    let options = format!(
        "pool: {{ idle: 0s }}, tls: {{ name: {NAME}, ca: '{}' }}",
        trusted.ca_file()
    );
    let gateway = Gateway::start(&one_upstream(&origin, &options)).await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
    let counts = origin.counts();
    assert_eq!((counts.handshakes(), counts.resumed()), (4, 3));
}

#[tokio::test]
async fn a_reload_keeps_connections_under_the_same_trust_only() {
    let trusted = CaFolder::new();
    let origin = SecureOrigin::start(&trusted.ca.site(&[NAME, "second.test"])).await;
    let more = trusted.file(
        "more.pem",
        &format!("{}{}", trusted.ca.pem(), Ca::new().pem()),
    );
    let ca = trusted.ca_file();
    let of = |name: &str, ca: &str| {
        let options = format!("pool: {{ idle: 60s }}, tls: {{ name: {name}, ca: '{ca}' }}");
        one_upstream(&origin, &options)
    };
    let gateway = Gateway::start(&of(NAME, &ca)).await;
    let connection = async || {
        let seen = gateway.get("/").await.json();
        (seen["sni"].clone(), seen["connection"].clone())
    };
    let first = connection().await;
    assert_eq!(connection().await, first, "the control: it is used again");
    assert!(gateway.reload(&(of(NAME, &ca) + "# the same\n")).await);
    assert_eq!(connection().await, first);
    assert!(gateway.reload(&of("second.test", &ca)).await);
    let second = connection().await;
    assert_eq!(second.0, "second.test");
    assert_ne!(second.1, first.1);
    assert!(gateway.reload(&of(NAME, &more)).await);
    let third = connection().await;
    assert!(third.1 != first.1 && third.1 != second.1, "{third:?}");
}
