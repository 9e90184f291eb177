//! `edgeway warm`: the first client finds the fetched responses stored.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    cli::{Ran, edgeway_fed},
    support::{
        certificates::Ca,
        client::get,
        gateway::Gateway,
        origins::{NumberedOrigin, Origin},
    },
};

const PATHS: [&str; 3] = ["/api/products", "/api/deals", "/api/categories"];

async fn origin() -> Origin<NumberedOrigin> {
    let origin = NumberedOrigin::start().await;
    let headers = [
        ("cache-control", "max-age=60"),
        ("content-type", "application/json"),
    ];
    for path in PATHS {
        origin.settings().tell(path, 200, &headers);
    }
    origin
}

fn yaml(origin: SocketAddr) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\n\
         upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}\n\
         routes: [{{ name: app, match: {{ path: '/*' }}, upstream: app, cache: {{}} }}]\n"
    )
}

/// Runs `edgeway warm` with this list on standard input.
async fn warm(arguments: &[&str], list: &str) -> Ran {
    let mut all = vec!["warm".to_owned(), "-".to_owned()];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let list = list.to_owned();
    let ran = tokio::task::spawn_blocking(move || {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        edgeway_fed(&all, &list)
    });
    ran.await.expect("it ends")
}

#[tokio::test]
async fn the_first_client_hits_warmed_responses_in_both_encodings() {
    let origin = origin().await;
    let gateway = Gateway::start(&yaml(origin.address())).await;
    let base = format!("http://{}", gateway.address());
    let list = format!("# the shop\n\n{}\n", PATHS.join("\n"));
    let ran = warm(&["--base", &base, "--json"], &list).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let summary: Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    assert_eq!(
        (&summary["urls"], &summary["requests"]),
        (&3.into(), &6.into())
    );
    assert_eq!(summary["results"]["MISS"], 3, "{summary}");
    assert_eq!(summary["results"]["HIT"], 3, "{summary}");
    assert_eq!(summary["failures"], serde_json::json!([]));
    for path in PATHS {
        for encoding in ["identity", "zstd, br, gzip"] {
            let asked = get(path).header("accept-encoding", encoding);
            let response = gateway.send(&asked).await;
            assert_eq!(response.header("x-cache-status"), Some("HIT"), "{path}");
        }
        assert_eq!(origin.settings().requests(path), 1);
    }
}

#[tokio::test]
async fn each_encoding_of_an_origin_that_compresses_is_fetched() {
    let origin = NumberedOrigin::start().await;
    let headers = [("cache-control", "max-age=60"), ("vary", "x-form")];
    origin.settings().tell("/a", 200, &headers);
    let gateway = Gateway::start(&yaml(origin.address())).await;
    let url = format!("http://{}/a", gateway.address());
    let ran = warm(&["--encoding", "identity", "-H", "X-Form: b"], &url).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let first = ran.stdout.lines().next().unwrap_or_default();
    assert!(
        first.starts_with("1 request for 1 URL, 5 bytes in "),
        "{first}"
    );
    let response = gateway.send(&get("/a").header("x-form", "b")).await;
    assert_eq!(response.header("x-cache-status"), Some("HIT"));
    assert_eq!(
        gateway.get("/a").await.header("x-cache-status"),
        Some("MISS")
    );
}

#[tokio::test]
async fn failed_targets_are_reported_with_their_reason() {
    let origin = origin().await;
    origin.settings().tell("/broken", 500, &[]);
    let gateway = Gateway::start(&yaml(origin.address())).await;
    let at = gateway.address();
    let list = format!("http://{at}/broken\nhttp://{at}/api/deals\nhttp://127.0.0.1:1/x\n");
    let ran = warm(&["--encoding", "identity"], &list).await;
    assert_eq!(ran.status, 1);
    let has = |line: &str| ran.stdout.lines().any(|it| it.trim() == line);
    assert!(has("failed       2"), "{}", ran.stdout);
    assert!(
        has(&format!("http://{at}/broken (identity): status 500")),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout
            .contains("http://127.0.0.1:1/x (identity): cannot connect: "),
        "{}",
        ran.stdout
    );
    let ran = warm(&[], "a.test\n").await;
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert!(
        ran.stderr
            .contains("-: line 1: `a.test` is not an http or https URL"),
        "{}",
        ran.stderr
    );
    let ran = warm(&[], "# nothing\n").await;
    assert_eq!(ran.status, 1);
}

#[tokio::test]
async fn a_local_listener_is_asked_for_a_public_name_over_tls() {
    let origin = origin().await;
    let ca = Ca::new();
    let tls = "{ certificates: { cert: a.pem, key: a.key } }";
    let yaml = yaml(origin.address()).replace(" }]\nup", &format!(", tls: {tls} }}]\nup"));
    let gateway = Gateway::start_in(&yaml, |folder| {
        ca.site(&["shop.test"]).write(folder, "a");
        std::fs::write(folder.join("ca.pem"), ca.pem()).expect("the folder takes files");
    })
    .await;
    let to = gateway.address().to_string();
    let ca_file = gateway.folder().join("ca.pem");
    let ca_file = ca_file.to_str().expect("the folder's name is text");
    let list = "https://shop.test/api/deals\n";
    let ran = warm(&["--to", &to], list).await;
    assert_eq!(ran.status, 1, "nobody knows its CA");
    assert!(ran.stdout.contains("certificate"), "{}", ran.stdout);
    assert_eq!(origin.settings().requests("/api/deals"), 0);
    let ran = warm(&["--to", &to, "--ca", ca_file], list).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("MISS         1\n"), "{}", ran.stdout);
    let ran = warm(&["--to", &to, "--insecure"], list).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("HIT          2"), "{}", ran.stdout);
    // Over HTTP/1.1, `Host` replaces the name in the URL, as with curl.
    let by_address = format!("https://{to}/api/deals\n");
    let ran = warm(&["--insecure", "-H", "Host: shop.test"], &by_address).await;
    assert!(ran.stdout.contains("HIT          2"), "{}", ran.stdout);
    let ran = warm(&["--to", &to, "--ca", ca_file], "https://other.test/\n").await;
    assert_eq!(ran.status, 1, "it is no certificate of that name");
}

#[tokio::test]
async fn more_requests_in_flight_than_streams_of_a_connection_all_succeed() {
    let origin = origin().await;
    let ca = Ca::new();
    let tls =
        "tls: { certificates: { cert: a.pem, key: a.key } }, http2: { concurrent_streams: 2 }";
    let yaml = yaml(origin.address()).replace(" }]\nup", &format!(", {tls} }}]\nup"));
    let gateway =
        Gateway::start_in(&yaml, |folder| ca.site(&["shop.test"]).write(folder, "a")).await;
    let to = gateway.address().to_string();
    let list: Vec<String> = (0..40)
        .map(|number| format!("https://shop.test/api/deals?page={number}"))
        .collect();
    let list = list.join("\n");
    let ran = warm(&["--to", &to, "--insecure", "--concurrency", "16"], &list).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
}
