//! Unknown hosts, and listeners that redirect their clients to HTTPS.

use crate::support::{
    client::{Connection, Request, get},
    gateway::Gateway,
    origins::EchoOrigin,
};

#[tokio::test]
async fn hosts_without_a_route_are_misdirected_where_routes_name_hosts() {
    let named = "routes:
  - match: { host: [a.test, \"*.b.test\"], path: /here }
    respond: ok
";
    let gateway = Gateway::start(named).await;
    let asked = async |gateway: &Gateway, host: &str, path: &str| {
        let response = gateway.send(&get(path).header("host", host)).await;
        (response.status(), response.text())
    };
    for (host, path, status) in [
        ("a.test", "/here", 200),
        ("A.test.:8080", "/here", 200),
        ("x.y.b.test", "/here", 200),
        ("a.test", "/elsewhere", 404),
        ("x.b.test", "/elsewhere", 404),
        ("b.test", "/here", 421),
        ("c.test", "/here", 421),
        ("127.0.0.1", "/elsewhere", 421),
    ] {
        assert_eq!(asked(&gateway, host, path).await.0, status, "{host}{path}");
    }
    let text = asked(&gateway, "c.test", "/here").await.1;
    assert!(text.contains("no site of this name"), "{text}");
    // Once a request is logged, it is counted.
    gateway.log_lines(9).await;
    let count = gateway.count("edgeway_refused_total{reason=\"unknown_host\"}");
    assert_eq!(count.await, 4);

    // The control: with one route for any host, no host is unknown.
    let open = format!("{named}  - match: {{ path: /any }}\n    respond: ok\n");
    let gateway = Gateway::start(&open).await;
    assert_eq!(asked(&gateway, "c.test", "/here").await.0, 404);
    assert_eq!(asked(&gateway, "c.test", "/any").await.0, 200);
}

#[tokio::test]
async fn a_listener_sends_its_clients_to_https() {
    let origin = EchoOrigin::start().await;
    let config = |redirect: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:0\", name: web, redirect: {redirect} }}]
trusted_proxies: [127.0.0.1]
upstreams:
  app:
    backends: [\"{}\"]
    health: {{ path: /api/health }}
routes:
  - match: {{ path: /* }}
    upstream: app
",
            origin.address()
        )
    };
    let gateway = Gateway::start(&config("https")).await;
    for method in ["GET", "POST", "DELETE"] {
        let request = Request::new(method, "/a//b?c=%20").header("host", "shop.test:8080");
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), 308, "{method}");
        let location = response.header("location");
        assert_eq!(location, Some("https://shop.test/a/b?c=%20"), "{method}");
        assert_eq!(
            response.header("x-request-id").unwrap_or_default().len(),
            32
        );
    }
    let head_response = gateway.send(&Request::new("HEAD", "/")).await;
    assert_eq!((head_response.status(), head_response.body.len()), (308, 0));
    let line = &gateway.log_lines(4).await[0];
    assert_eq!(
        (&line["status"], &line["path"]),
        (&308.into(), &"/a/b".into()),
        "{line}"
    );

    // The connection continues afterwards.
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let response = connection.send(&get("/form")).await.unwrap();
        assert_eq!(response.status(), 308);
    }

    for path in ["/healthz", "/api/health", "/.well-known/acme-challenge/x"] {
        assert_eq!(gateway.get(path).await.json()["target"], path);
    }
    let at_https = get("/secure").header("x-forwarded-proto", "https");
    assert_eq!(gateway.send(&at_https).await.json()["target"], "/secure");

    let mut old = Connection::open(gateway.address()).await.unwrap();
    old.write("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(old.read_response().await.unwrap().status(), 400);

    let gateway = Gateway::start(&config("{ port: 8443, except: [/open/*] }")).await;
    let moved = gateway.send(&get("/x").header("host", "[::1]:8080")).await;
    assert_eq!(moved.header("location"), Some("https://[::1]:8443/x"));
    assert_eq!(gateway.get("/open/x").await.status(), 200);
    // The control: no other path.
    assert_eq!(gateway.get("/open").await.status(), 308);
}
