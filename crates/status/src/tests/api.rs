//! Tests of the API below `/v1` with scripts, foreign pages and unauthorized clients.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::http::paths;

const JSON: &str = "Host: localhost\r\nContent-Type: application/json\r\n";
const DRAIN: &str = "/v1/upstreams/web/backends/127.0.0.1:3000/drain";

impl Admin {
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let response = self
            .send_over(&mut stream, method, path, headers, body)
            .await;
        let status = response[9..12].parse().unwrap();
        let body = response.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// Sends a request, and returns status and reason of its refusal.
    async fn refused(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String, String) {
        let (status, body) = self.ask(method, path, headers, body).await;
        assert_eq!(body["error"]["status"], status, "{body}");
        let text = |key: &str| body["error"][key].as_str().unwrap().to_owned();
        (status, text("reason"), text("message"))
    }

    pub(super) fn done(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.done.lock())
    }
}

/// Paths that need no proof: health, and the login with its style and script.
const OPEN: &[&str] = &[
    "/healthz",
    "/readyz",
    "/login",
    "/status/page.css",
    "/status/page.js",
    "/status/icon.svg",
];

/// Every method and path, filled in for one backend.
fn all_paths() -> Vec<(&'static str, String)> {
    let fill = |path: &str| {
        path.replace("{upstream}", "web")
            .replace("{address}", "127.0.0.1:3000")
    };
    let paths = paths().into_iter();
    paths.map(|(method, path)| (method, fill(path))).collect()
}

#[tokio::test]
async fn each_path_takes_the_methods_it_is_listed_with() {
    let admin = start();
    for (method, path) in all_paths() {
        // A stream has no end; other tests read it.
        let read = admin.ask(method, &path, JSON, "{}");
        let is_stream = path.ends_with("/stream");
        let (status, _) = if is_stream {
            (200, Value::Null)
        } else {
            read.await
        };
        assert!(![404, 405].contains(&status), "{method} {path}: {status}");
        let (status, _) = admin.ask("PATCH", &path, JSON, "{}").await;
        assert_eq!(status, 405, "{path}");
    }
}

#[tokio::test]
async fn actions_return_their_target() {
    let admin = start();
    let encoded = "/v1/upstreams/web/backends/unix%3A%2Frun%2Fapp.sock";
    for (method, path, body, done) in [
        ("POST", DRAIN, "", "drain web/127.0.0.1:3000 false"),
        (
            "POST",
            DRAIN,
            r#"{"force":true}"#,
            "drain web/127.0.0.1:3000 true",
        ),
        (
            "POST",
            &format!("{encoded}/undrain"),
            "{}",
            "undrain web/unix:/run/app.sock",
        ),
        (
            "POST",
            "/v1/upstreams/web/backends",
            r#"{"address":"127.0.0.1:3001"}"#,
            r#"add web NewMember { address: "127.0.0.1:3001", weight: 1, drained: false, release: None }"#,
        ),
        ("DELETE", encoded, "", "remove web/unix:/run/app.sock false"),
        (
            "DELETE",
            &format!("{encoded}?force=true"),
            "",
            "remove web/unix:/run/app.sock true",
        ),
    ] {
        let (status, body) = admin.ask(method, path, JSON, body).await;
        assert_eq!(status, 200, "{method} {path}: {body}");
        assert_eq!(body["upstream"], "web");
        assert_eq!(admin.done(), [done]);
    }
    let (status, _) = admin.ask("POST", DRAIN, LOCAL, "").await;
    assert_eq!(status, 200, "an empty body needs no type");
}

#[tokio::test]
async fn bans_are_listed_set_and_lifted() {
    let admin = start();
    let (status, body) = admin.ask("GET", "/v1/bans", LOCAL, "").await;
    assert_eq!(
        (status, &body["bans"][0]["address"]),
        (200, &"192.0.2.7".into())
    );
    for (method, path, body, done) in [
        (
            "POST",
            "/v1/bans",
            r#"{"address":"192.0.2.7"}"#,
            "ban 192.0.2.7 10min None",
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"address":"::1","for":"1h30m","reason":"x"}"#,
            r#"ban ::1 1h30min Some("x")"#,
        ),
        (
            "DELETE",
            "/v1/bans/2001:db8::%2F64",
            "",
            "unban 2001:db8::/64",
        ),
    ] {
        let (status, body) = admin.ask(method, path, JSON, body).await;
        assert_eq!(status, 200, "{method} {path}: {body}");
        assert_eq!(admin.done(), [done]);
    }
    let (status, reason, _) = admin.refused("POST", "/v1/bans", JSON, "{}").await;
    assert_eq!((status, reason.as_str()), (400, "body"));
}

#[tokio::test]
async fn unreadable_bodies_are_refused_in_json() {
    let admin = start();
    let form = "Host: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let long = format!(r#"{{"force":{}}}"#, " ".repeat(20_000));
    for (headers, body, expected) in [
        (JSON, "{", (400, "body")),
        (JSON, r#"{"forse":true}"#, (400, "body")),
        (JSON, r#"{"force":1}"#, (400, "body")),
        (JSON, &long, (413, "body")),
        (LOCAL, "{}", (415, "content_type")),
        (form, "force=true", (415, "content_type")),
        (form, "", (415, "content_type")),
    ] {
        let (status, reason, _) = admin.refused("POST", DRAIN, headers, body).await;
        assert_eq!((status, reason.as_str()), expected, "{body:.20}");
    }
    let path = "/v1/upstreams/web/backends/127.0.0.1:3000?force=maybe";
    let (status, reason, message) = admin.refused("DELETE", path, LOCAL, "").await;
    assert_eq!((status, reason.as_str()), (400, "path"), "{message}");
    let path = "/v1/upstreams/nowhere/backends/127.0.0.1:3000/drain";
    let (status, reason, message) = admin.refused("POST", path, LOCAL, "").await;
    assert_eq!((status, reason.as_str()), (404, "no_such_upstream"));
    assert_eq!(message, "there is none");
    assert!(admin.done().is_empty());
}

#[tokio::test]
async fn a_page_of_another_site_cannot_act() {
    let admin = start();
    for header in [
        "Origin: https://evil.test",
        "Origin: null",
        "Origin: http://localhost:3000",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        let headers = format!("{JSON}{header}\r\n");
        let (status, reason, _) = admin.refused("POST", DRAIN, &headers, "{}").await;
        assert_eq!((status, reason.as_str()), (403, "cross_site"), "{header}");
        // A read is no action, and the page cannot read the response.
        let (status, _) = admin.ask("GET", "/v1/status", &headers, "").await;
        assert_eq!(status, 200);
    }
    assert!(admin.done().is_empty());
    assert_eq!(
        *admin.fake.turned_away.lock(),
        [RejectionReason::CrossSite; 5]
    );
    let headers = format!("{JSON}Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n");
    let (status, _) = admin.ask("POST", DRAIN, &headers, "{}").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn with_a_token_only_health_is_open() {
    let admin = start_with(Fake {
        token: Some(Secret::new(TOKEN)),
        ..Fake::default()
    });
    for (method, path) in all_paths() {
        let response = admin.send(method, &path, LOCAL).await;
        // A form without a session leads to the login.
        let is_sent_away = response.contains("location: /login?why=session_missing\r\n");
        let is_refused = response.starts_with("HTTP/1.1 401 ");
        let is_denied = is_refused || is_sent_away;
        let is_open = OPEN.contains(&&*path) || path.starts_with("/readyz/upstreams/");
        assert_eq!(is_denied, !is_open, "{path}: {response}");
        assert_eq!(
            response.contains("www-authenticate: Bearer\r\n"),
            is_refused,
            "{response}"
        );
    }
    assert!(admin.done().is_empty());
    let wrong = format!("{LOCAL}Authorization: Bearer {TOKEN}x\r\n");
    let (status, reason, _) = admin.refused("POST", DRAIN, &wrong, "").await;
    assert_eq!((status, reason.as_str()), (401, "token_wrong"));
    let right = format!("{LOCAL}Authorization: Bearer {TOKEN}\r\n");
    let (status, _) = admin.ask("POST", DRAIN, &right, "").await;
    assert_eq!(status, 200);
    let last = admin.fake.turned_away.lock().last().copied();
    assert_eq!(last, Some(RejectionReason::TokenWrong));
}

/// Without a token, TCP allows only metrics and health, and no actions. The test uses the list that
/// the routes are built from, so it covers new routes as well.
#[tokio::test]
async fn without_a_token_only_metrics_and_health_are_open() {
    let admin = start_on("127.0.0.1:0", Fake::default());
    let mut paths = all_paths();
    let open: Vec<&str> = [&["/metrics"], OPEN].concat();
    let spelled = open.iter().map(|path| ("GET", path.to_string()));
    paths.extend(spelled.flat_map(|(method, path)| {
        let others = [
            format!("{path}/"),
            format!("/{path}"),
            format!("{path}/../v1/status"),
            path.replacen('e', "%65", 1),
        ];
        others.map(|path| (method, path))
    }));
    paths.push(("GET", "http://localhost/v1/status".to_owned()));
    paths.push(("GET", "/nothing".to_owned()));
    let mut expected = Vec::new();
    for (listed, path) in paths {
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", listed,
        ] {
            let headers = format!("{JSON}Authorization: Bearer {TOKEN}\r\n");
            let response = admin.send(method, &path, &headers).await;
            let is_refused = response.starts_with("HTTP/1.1 403 ");
            let is_sent_away = response.contains("location: /login?why=session_missing\r\n");
            assert_eq!(
                is_refused || is_sent_away,
                !open.contains(&&*path) && !path.starts_with("/readyz/upstreams/"),
                "{method} {path}: {response}"
            );
            if is_sent_away {
                expected.push(RejectionReason::SessionMissing);
            } else if is_refused {
                expected.push(RejectionReason::SocketOnly);
            } else if response.contains("location: /login?why=token_wrong\r\n") {
                expected.push(RejectionReason::TokenWrong);
            } else if response.contains("location: /login?why=login_rate\r\n") {
                expected.push(RejectionReason::LoginRate);
            }
        }
    }
    assert!(admin.done().is_empty());
    let refused = admin.fake.turned_away.lock();
    assert_eq!(*refused, expected);
}

#[tokio::test]
async fn what_others_can_reach_is_closed_without_a_token_and_takes_any_host_with_one() {
    let other_name = "Host: gateway.internal:9900\r\n";
    // The configuration refuses this, but the listener does not rely on it.
    let without = start_on("0.0.0.0:0", Fake::default());
    let (status, reason, _) = without.refused("GET", "/status", other_name, "").await;
    assert_eq!((status, reason.as_str()), (401, "token_missing"));
    let with = start_on(
        "0.0.0.0:0",
        Fake {
            token: Some(Secret::new(TOKEN)),
            ..Fake::default()
        },
    );
    let right = format!("{other_name}Authorization: Bearer {TOKEN}\r\n");
    let (status, _) = with.ask("GET", "/status", &right, "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn an_action_is_finished_though_its_client_left() {
    let admin = start_with(Fake {
        gate: Some(Semaphore::new(0)),
        ..Fake::default()
    });
    let mut stream = tokio::net::TcpStream::connect(admin.address).await.unwrap();
    let sending = admin.send_over(&mut stream, "POST", DRAIN, LOCAL, "");
    // The action waits behind the gate, so there is no response. Then the client disconnects.
    tokio::time::timeout(Duration::from_millis(100), sending)
        .await
        .unwrap_err();
    drop(stream);
    assert!(admin.done().is_empty());
    admin.fake.gate.as_ref().unwrap().add_permits(1);
    while admin.fake.done.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    // An end of the process in the middle is reported.
    let sending = admin.send("POST", DRAIN, LOCAL);
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        admin.actions.stop();
    };
    let (response, ()) = tokio::join!(sending, stop);
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains(r#""reason":"stopping""#), "{response}");
}

#[tokio::test]
async fn a_purge_gets_the_status_of_what_is_missing() {
    let admin = start();
    for (body, status) in [
        (r#"{"url":"/a"}"#, 200),
        (r#"{"tag":"a"}"#, 202),
        (r#"{"prefix":"/a"}"#, 503),
    ] {
        let (found, receipt) = admin.ask("POST", "/v1/purge", JSON, body).await;
        assert_eq!(found, status, "{receipt}");
        assert_eq!(receipt["gateway"], "a");
        let mut client = Client::new(Target::Address(admin.address));
        client.token = admin.shown.clone();
        let order = serde_json::from_str(body).unwrap();
        let receipt = client.purge(&order).await.unwrap();
        assert_eq!(receipt.is_over(), status == 200);
    }
    let wrong = r#"{"urls":["/a"]}"#;
    let (status, reason, message) = admin.refused("POST", "/v1/purge", JSON, wrong).await;
    assert_eq!((status, reason.as_str()), (422, "bad_purge"), "{message}");
    // Many long URLs are still accepted.
    let url = format!(r#"{{"url":"/{}"}}"#, "x".repeat(1000));
    let many = format!(r#"{{"purges":[{}]}}"#, vec![url; 200].join(","));
    let (status, _) = admin.ask("POST", "/v1/purge", JSON, &many).await;
    assert_eq!(status, 200);
    assert_eq!(admin.done().len(), 7);
}
