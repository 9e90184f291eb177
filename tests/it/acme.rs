//! Certificates by ACME, from Pebble, Let's Encrypt's own test CA: from an empty folder to a served
//! certificate, renewal, restart, refusal, and several gateways.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use edgeway_base::clock::Clock;
use serde_json::Value;

use crate::support::{
    client::{self, get as request},
    gateway::Gateway,
    pebble::{self, Pebble, get_when_trusted, local, put_ageing, trusting},
    ports::free_port,
    wait::wait_for,
};

const ROUTES: &str = "routes:\n  - match: { path: /* }\n    respond: { status: 200, body: app }\n";

/// A gateway with the listeners `plain` and `tls` on these ports.
async fn gateway(plain: u16, tls: u16, names: &str, acme: &str) -> Gateway {
    Gateway::start(&yaml(plain, tls, names, acme)).await
}

fn yaml(plain: u16, tls: u16, names: &str, acme: &str) -> String {
    format!(
        "listeners:
  - {{ address: \"127.0.0.1:{plain}\", name: plain, redirect: https }}
  - address: \"127.0.0.1:{tls}\"
    name: tls
    tls: {{ acme: [{names}] }}
{acme}{ROUTES}"
    )
}

fn state(folder: &Path, name: &str) -> Value {
    let path = folder.join("certificates").join(name).join("state.json");
    let text = fs::read_to_string(path).expect("the state of a name is stored");
    serde_json::from_str(&text).expect("it is JSON")
}

fn is_private(folder: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            files += is_private(&path);
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
            files += 1;
        }
    }
    files
}

#[tokio::test]
async fn an_empty_folder_becomes_a_served_certificate_and_a_restart_asks_for_nothing() {
    let (plain, tls) = (free_port(), free_port());
    let pebble = Pebble::start(plain, free_port()).await;
    let folder = tempfile::tempdir().unwrap();
    let state_folder = folder.path().join("acme");
    let section = pebble.section(
        &state_folder,
        ", challenge: http-01, email: ops@example.com",
    );
    let names = "shop.test, WWW.shop.test";
    let mut first = gateway(plain, tls, names, &section).await;

    let trust = pebble.trust();
    let shop = get_when_trusted(tls, "shop.test", &trust).await;
    let www = get_when_trusted(tls, "www.shop.test", &trust).await;
    assert_eq!(shop.body, "app");
    assert_ne!(shop.serial(), www.serial());
    // The control: the certificate is valid for its name only.
    let other = pebble::get(local(tls), "other.test", &trust, "/").await;
    assert!(other.is_err(), "{other:?}");
    let issued = "edgeway_acme_orders_total{outcome=\"issued\"}";
    assert_eq!(first.count(issued).await, 2);
    assert_eq!(first.count("edgeway_acme_self_signed").await, 0);
    assert_eq!((pebble.orders(), pebble.accounts()), (2, 1));
    // Three files and a lock for each name, and the account.
    assert_eq!(is_private(&state_folder), 9);
    assert!(
        pebble.log().contains("validate w/ HTTP: "),
        "{}",
        pebble.log()
    );

    first.terminate(Duration::from_secs(10)).await;
    drop(first);
    let second = gateway(plain, tls, names, &section).await;
    let again = pebble::get(local(tls), "shop.test", &trust, "/")
        .await
        .unwrap();
    assert_eq!(again.serial(), shop.serial());
    assert_eq!(second.count("edgeway_acme_orders_total").await, 0);
    assert_eq!((pebble.orders(), pebble.accounts()), (2, 1));
}

#[tokio::test]
async fn a_tls_alpn_challenge_is_completed_in_the_handshake() {
    let (plain, tls) = (free_port(), free_port());
    // No listener accepts Pebble's HTTP validation.
    let pebble = Pebble::start(free_port(), tls).await;
    let folder = tempfile::tempdir().unwrap();
    // The configuration names no challenge type: this one comes first.
    let gateway = gateway(plain, tls, "shop.test", &pebble.section(folder.path(), "")).await;
    let shop = get_when_trusted(tls, "shop.test", &pebble.trust()).await;
    assert_eq!(shop.status, "HTTP/1.1 200 OK");
    assert!(
        !pebble.log().contains("validate w/ HTTP: "),
        "{}",
        pebble.log()
    );
    assert_eq!(pebble.orders(), 1);
    // A challenge path that belongs to no order is the app's.
    let path = "/.well-known/acme-challenge/of-an-app";
    let response = client::send(local(plain), &request(path)).await.unwrap();
    assert_eq!(response.text(), "app");
    assert_eq!(gateway.count("edgeway_acme_self_signed").await, 0);
}

#[tokio::test]
async fn a_certificate_is_renewed_while_it_is_served() {
    let (plain, tls) = (free_port(), free_port());
    let pebble = Pebble::start(plain, free_port()).await;
    let folder = tempfile::tempdir().unwrap();
    let after = Duration::from_secs(4);
    let old = put_ageing(folder.path(), "shop.test", &pebble.directory(), after);
    let section = pebble.section(folder.path(), ", challenge: http-01");
    let gateway = gateway(plain, tls, "shop.test", &section).await;

    let before = pebble::get(local(tls), "shop.test", &trusting(), "/").await;
    assert_eq!(before.unwrap().serial(), old);
    // The control: no order is made before the renewal is due.
    assert_eq!(pebble.orders(), 0);
    let renewed = get_when_trusted(tls, "shop.test", &pebble.trust()).await;
    assert_ne!(renewed.serial(), old);
    assert_eq!(pebble.orders(), 1);
    let saved = state(folder.path(), "shop.test");
    assert_eq!(saved["failures"], 0);
    assert_eq!(saved["next_try"], 0);
    let log = gateway.stderr();
    assert!(log.contains("certificate issued"), "{log}");
}

#[tokio::test]
async fn a_failed_challenge_leaves_the_stand_in_and_is_not_repeated() {
    let (plain, tls) = (free_port(), free_port());
    // Pebble validates at a port without a listener.
    let pebble = Pebble::start(free_port(), free_port()).await;
    let folder = tempfile::tempdir().unwrap();
    let section = pebble.section(folder.path(), ", challenge: http-01");
    let mut first = gateway(plain, tls, "shop.test", &section).await;
    let refused = "edgeway_acme_orders_total{name=\"shop.test\",outcome=\"refused\"}";
    wait_for(
        "the order has failed",
        Duration::from_secs(15),
        async || (first.count(refused).await == 1).then_some(()),
    )
    .await;

    let shown = pebble::get(local(tls), "shop.test", &trusting(), "/")
        .await
        .unwrap();
    assert_eq!(shown.body, "app");
    assert!(shown.names().1.contains("Edgeway stand-in"), "{shown:?}");
    let trusted = pebble::get(local(tls), "shop.test", &pebble.trust(), "/").await;
    assert!(trusted.is_err(), "{trusted:?}");
    assert_eq!(first.count("edgeway_acme_self_signed").await, 1);
    let saved = state(folder.path(), "shop.test");
    assert_eq!(saved["failures"], 1);
    let now = Clock::machine()
        .wall()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let wait = saved["next_try"].as_u64().unwrap() - now;
    assert!((100..140).contains(&wait), "{wait}");
    let status = first.admin_get("/status").await.json();
    let [certificate] = &status["certificates"].as_array().expect("a list")[..] else {
        unreachable!("one name is looked after: {status}");
    };
    assert_eq!(certificate["name"], "shop.test");
    assert_eq!(certificate["failures"], 1);
    assert_eq!(certificate["expires"], Value::Null);
    let log = first.stderr();
    assert!(log.contains("certificate not issued"), "{log}");
    assert!(log.contains("connection refused"), "what the CA saw: {log}");

    first.terminate(Duration::from_secs(10)).await;
    drop(first);
    let second = gateway(plain, tls, "shop.test", &section).await;
    let shown = pebble::get(local(tls), "shop.test", &trusting(), "/")
        .await
        .unwrap();
    assert!(shown.names().1.contains("Edgeway stand-in"), "{shown:?}");
    assert_eq!(second.count("edgeway_acme_orders_total").await, 0);
    assert_eq!(pebble.orders(), 1);
}

#[tokio::test]
async fn two_gateways_with_one_issuer_serve_one_certificate() {
    let [plain, tls, follower_plain, follower_tls] = [(); 4].map(|()| free_port());
    // The CA validates at the follower.
    let pebble = Pebble::start(follower_plain, free_port()).await;
    let folder = tempfile::tempdir().unwrap();
    let following = format!(", challenge: http-01, issuer: \"127.0.0.1:{plain}\"");
    let section = pebble.section(folder.path(), &following);
    let follower = gateway(follower_plain, follower_tls, "shop.test", &section).await;
    let path = "/.well-known/acme-challenge/token";
    let ask = async |port: u16| {
        let response = client::send(local(port), &request(path)).await.unwrap();
        (response.status(), response.text())
    };
    // Without an issuer no gateway can respond, and the refusal has its reason.
    assert_eq!(ask(follower_plain).await.0, 502);
    let refused = "edgeway_refused_total{reason=\"acme_no_issuer\"}";
    wait_for(
        "the refusal is counted",
        Duration::from_secs(5),
        async || (follower.count(refused).await == 1).then_some(()),
    )
    .await;
    let shown = pebble::get(local(follower_tls), "shop.test", &trusting(), "/").await;
    assert!(shown.unwrap().names().1.contains("Edgeway stand-in"));

    let section = pebble.section(folder.path(), ", challenge: http-01");
    let issuer = gateway(plain, tls, "shop.test", &section).await;
    let trust = pebble.trust();
    let of_issuer = get_when_trusted(tls, "shop.test", &trust).await;
    let of_follower = get_when_trusted(follower_tls, "shop.test", &trust).await;
    assert_eq!(of_issuer.serial(), of_follower.serial());
    assert_eq!(pebble.orders(), 1);
    assert_eq!(issuer.count("edgeway_acme_orders_total").await, 1);
    assert_eq!(follower.count("edgeway_acme_orders_total").await, 0);
    // A token that the issuer does not know may be the app's, on either gateway, however long the
    // page is that the issuer's app has for it.
    assert_eq!(ask(follower_plain).await, (200, "app".to_owned()));
    assert_eq!(ask(plain).await, (200, "app".to_owned()));
    for status in [404, 200] {
        let page = "x".repeat(2000);
        let response = format!("{{ status: {status}, body: {page} }}");
        let other = yaml(plain, tls, "shop.test", &section)
            .replace("{ status: 200, body: app }", &response);
        assert!(issuer.reload(&other).await);
        assert_eq!(ask(plain).await, (status, page));
        assert_eq!(ask(follower_plain).await, (200, "app".to_owned()));
    }
}
