//! `host_header` of a route: the `Host` that backends get, by each protocol.

use crate::support::{
    client::{Request, get},
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, Http2Origin, echoed},
};

/// Returns the routes of a configuration, one for each value of the key.
fn routes(upstream: &str) -> String {
    let keys = ["sent", "name", "backend", "App.Internal:81"];
    let routes = keys.iter().enumerate().map(|(number, key)| {
        format!(
            "- {{ match: {{ path: /{number} }}, upstream: {upstream}, host_header: '{key}' }}\n"
        )
    });
    routes.collect()
}

#[tokio::test]
async fn a_backend_gets_the_host_of_its_route() {
    let origin = EchoOrigin::start().await;
    let address = origin.address();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{address}'] }} }}\nroutes:\n{}\
         - {{ match: {{ path: /cached }}, upstream: app, host_header: fixed.test, cache: {{}} }}\n",
        routes("app")
    ))
    .await;
    for host in ["Shop.Test:8080", "shop.test", "[::1]:8080", "127.0.0.1"] {
        let normal = host.to_ascii_lowercase();
        let name = match normal.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => &normal,
        };
        let own = address.to_string();
        let expected = [&normal, name, &own, "App.Internal:81"];
        for (number, expected) in expected.iter().enumerate() {
            let request = get(&format!("/{number}")).header("host", host);
            let seen = gateway.send(&request).await.json();
            assert_eq!(echoed(&seen, "host"), Some(*expected), "{number} {host}");
            assert_eq!(
                echoed(&seen, "x-forwarded-host"),
                Some(&*normal),
                "{number}"
            );
        }
    }
    // A HEAD that finds nothing stored goes through Pingora's proxy.
    for method in ["GET", "HEAD"] {
        let request = Request::new(method, "/cached").header("host", "a.test");
        gateway.send(&request).await;
        let seen = origin.counts().received();
        let last = seen.last().expect("the origin was asked");
        assert_eq!(last.header("host"), Some("fixed.test"), "{method}");
    }
}

#[tokio::test]
async fn by_http2_the_host_is_the_authority() {
    let origin = Http2Origin::start().await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{}'], protocol: h2 }} }}\nroutes:\n{}",
        origin.address(),
        routes("app")
    ))
    .await;
    let own = origin.address().to_string();
    for (number, expected) in ["a.test:1", "a.test", &own, "App.Internal:81"]
        .iter()
        .enumerate()
    {
        let request = get(&format!("/{number}")).header("host", "A.Test:1");
        assert_eq!(gateway.send(&request).await.status(), 200);
        let authority = origin.counts().last_authority();
        assert_eq!(authority.as_deref(), Some(*expected), "{number}");
    }
}

#[tokio::test]
async fn a_location_with_the_host_of_the_route_is_repaired() {
    let gateway =
        Gateway::start("routes: [{ match: { path: /* }, redirect: 'http://app.internal/next' }]")
            .await;
    let front = Front::to(&gateway)
        .route("host_header: app.internal")
        .start()
        .await;
    let response = front.send(&get("/a").header("host", "shop.test")).await;
    assert_eq!(response.header("location"), Some("http://shop.test/next"));
}

/// Invariant: no name by which some app may believe a client about its host, scheme or path reaches the
/// app: such a value would be in no key.
#[tokio::test]
async fn no_other_name_of_a_host_or_scheme_reaches_the_app() {
    const FAMILY: [&str; 20] = [
        "forwarded",
        "front-end-https",
        "x-forward-host",
        "x-forward-proto",
        "x-forwarded",
        "x-forwarded-path",
        "x-forwarded-prefix",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-host",
        "x-host-override",
        "x-http-host",
        "x-http-host-override",
        "x-original-host",
        "x-original-uri",
        "x-original-url",
        "x-rewrite-url",
        "x-scheme",
        "x-url-scheme",
    ];
    let origin = EchoOrigin::start().await;
    let gateway = Front::to(&origin).route("cache: {}").start().await;
    for name in FAMILY {
        for spelled in [name.to_owned(), name.replace('-', "_"), name.to_uppercase()] {
            let request = get("/a")
                .header(&spelled, "evil.test")
                .header("x-free", "1");
            let seen = gateway.send(&request).await.json();
            assert_eq!(echoed(&seen, &spelled), None, "{spelled}");
            assert_eq!(echoed(&seen, name), None, "{spelled}");
            // The control: another name passes.
            assert_eq!(echoed(&seen, "x-free"), Some("1"), "{spelled}");
        }
    }
}
