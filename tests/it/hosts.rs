//! Unknown hosts, and listeners that redirect their clients to HTTPS.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::{
    client::{Connection, Request, get},
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, echoed},
    seed,
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
    let count = gateway.refused("unknown_host");
    assert_eq!(count.await, 4);

    // The control: with one route for any host, no host is unknown.
    let open = format!("{named}  - match: {{ path: /any }}\n    respond: ok\n");
    let gateway = Gateway::start(&open).await;
    assert_eq!(asked(&gateway, "c.test", "/here").await.0, 404);
    assert_eq!(asked(&gateway, "c.test", "/any").await.0, 200);
    let whole = Request::new("OPTIONS", "*").header("host", "c.test");
    assert_eq!(gateway.send(&whole).await.status(), 200);
}

#[tokio::test]
async fn a_listener_sends_its_clients_to_https() {
    let origin = EchoOrigin::start().await;
    let config = |redirect: &str| {
        Front::to(&origin)
            .listener(&format!("redirect: {redirect}"))
            .with("trusted_proxies: [127.0.0.1]")
            .upstream("health: { path: /api/health?deep=1 }")
            .yaml()
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
    // A request for the gateway itself goes nowhere.
    let whole = Request::new("OPTIONS", "*");
    let response = gateway.send(&whole).await;
    assert_eq!(
        (response.status(), response.header("location")),
        (200, None)
    );
    assert!(
        response
            .header("allow")
            .is_some_and(|allow| allow.contains("OPTIONS"))
    );
    let at_https = get("/secure").header("x-forwarded-proto", "https");
    assert_eq!(gateway.send(&at_https).await.json()["target"], "/secure");

    let mut old = Connection::open(gateway.address()).await.unwrap();
    old.write("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(old.read_response().await.unwrap().status(), 400);

    let gateway = Gateway::start(&config("{ port: 8443, except: [/open/*] }")).await;
    let moved = gateway.send(&get("/x").header("host", "[::1]:8080")).await;
    assert_eq!(moved.header("location"), Some("https://[::1]:8443/x"));
    assert_eq!(gateway.get("/open/x").await.status(), 200);
    // As in a route, it is the folder itself as well. The control: no other path.
    assert_eq!(gateway.get("/open").await.status(), 200);
    assert_eq!(gateway.get("/opened").await.status(), 308);
}

#[tokio::test]
async fn the_host_of_a_redirect_has_no_port() {
    let gateway = Gateway::start(
        "trusted_proxies: [127.0.0.1]
routes:
  - { match: { path: /https }, redirect: https }
  - { match: { path: /port }, redirect: 'https://{host}:8443{path}?{query}' }
  - { match: { path: /host }, redirect: 'http://{host}/new' }
",
    )
    .await;
    for host in ["shop.test", "shop.test:8080", "SHOP.test:80", "[::1]:8080"] {
        let name = if host.starts_with('[') {
            "[::1]"
        } else {
            "shop.test"
        };
        for (target, expected) in [
            ("/https?a=1", format!("https://{name}/https?a=1")),
            ("/port?a=1", format!("https://{name}:8443/port?a=1")),
            ("/host", format!("http://{name}/new")),
        ] {
            for reported in [false, true] {
                // A trusted proxy reports what the browser sees.
                let request = if reported {
                    let internal = get(target).header("host", "internal:9000");
                    internal.header("x-forwarded-host", host)
                } else {
                    get(target).header("host", host)
                };
                let response = gateway.send(&request).await;
                let location = response.header("location");
                assert_eq!(location, Some(&*expected), "{host} {target} {reported}");
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_reports_no_host_reports_nothing() {
    let origin = EchoOrigin::start().await;
    let front = Front::to(&origin).with("trusted_proxies: [127.0.0.1]");
    let gateway = front.start().await;
    for (reported, public) in [
        ("shop.test:8080, inner.test", "shop.test:8080"),
        ("[::1", "own.test"),
        ("a:b:c", "own.test"),
        ("..", "own.test"),
        ("~a", "own.test"),
        ("shop.test:999999", "own.test"),
    ] {
        let request = get("/").header("host", "own.test");
        let request = request.header("x-forwarded-host", reported);
        let seen = gateway.send(&request).await.json();
        assert_eq!(
            echoed(&seen, "x-forwarded-host"),
            Some(public),
            "{reported}"
        );
    }
}

/// Request that a client of its own sends: whether it is a trusted proxy, the target, `Host`, and
/// what it reports.
type Sent = (
    bool,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const TRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

const REPORTS: [&[(&str, &str)]; 4] = [
    &[],
    &[("x-forwarded-host", "evil.test")],
    &[("x-forwarded-proto", "https")],
    &[
        ("x-forwarded-host", "evil.test:90"),
        ("x-forwarded-port", "91"),
    ],
];

/// Returns the host that a backend sees of a request on a connection of its own.
async fn seen_host(gateway: &Gateway, (is_trusted, target, host, reported): Sent) -> String {
    let from = if is_trusted {
        TRUSTED
    } else {
        Ipv4Addr::LOCALHOST.into()
    };
    let connection = Connection::open_from(from, gateway.address()).await;
    let request = reported.iter().fold(
        get(target).header("host", host),
        |request, (name, value)| request.header(name, *value),
    );
    let response = connection.expect("it listens").send(&request).await;
    let response = response.expect("it responds");
    if response.status() != 200 {
        return response.status().to_string();
    }
    let seen = response.json();
    let names = [
        "host",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    ];
    let route = response.header("route").map(str::to_owned);
    format!(
        "{} {route:?} {:?}",
        response.status(),
        names.map(|name| echoed(&seen, name))
    )
}

/// The values that the gateway keeps of a host for the next connections are those of the host alone.
#[tokio::test]
async fn a_host_means_the_same_whoever_came_before() {
    let origin = EchoOrigin::start().await;
    let config = format!(
        "trusted_proxies: [{TRUSTED}]
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes:
  - {{ match: {{ host: evil.test, path: /* }}, upstream: app, headers: {{ response: {{ set: {{ Route: evil }} }} }} }}
  - {{ match: {{ path: /* }}, upstream: app }}
",
        origin.address()
    );
    let targets = ["/", "http://evil.test/", "http://a.test/"];
    let hosts = ["a.test", "A.test", "a.test:80", "evil.test", "a.test:443"];
    let seed = seed::drawn();
    let mut random = fastrand::Rng::with_seed(seed);
    let kinds = (0..14).map(|_| {
        (
            random.bool(),
            targets[random.usize(..targets.len())],
            hosts[random.usize(..hosts.len())],
            REPORTS[random.usize(..REPORTS.len())],
        )
    });
    // Four that differ, whatever is drawn.
    let differing: [Sent; 4] = [
        (false, "/", "a.test", REPORTS[1]),
        (false, "/", "a.test:443", REPORTS[0]),
        (false, "/", "evil.test", REPORTS[0]),
        (true, "/", "a.test", REPORTS[2]),
    ];
    let kinds: Vec<Sent> = kinds.chain(differing).collect();
    let mut alone = Vec::new();
    for kind in &kinds {
        let gateway = Gateway::start(&config).await;
        alone.push(seen_host(&gateway, *kind).await);
    }
    let gateway = Gateway::start(&config).await;
    for _ in 0..200 {
        let index = random.usize(..kinds.len());
        assert_eq!(
            seen_host(&gateway, kinds[index]).await,
            alone[index],
            "{:?}",
            kinds[index]
        );
    }
    alone.sort();
    alone.dedup();
    assert!(alone.len() > 3, "the requests are all alike: {alone:?}");
}
