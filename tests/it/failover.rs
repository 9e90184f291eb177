//! Effects on users while instances die, drop connections or close them at the wrong moment.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{
    apps::{ExpressApp, backends},
    client::{get, post},
    gateway::Gateway,
    load::{lanes, paced, race},
    origins::{ClosingOrigin, Failure, FixedOrigin, FlappingOrigin, MARK, OnceOrigin, Origin},
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);

async fn front(backends: &str, settings: &str) -> Gateway {
    let yaml = format!(
        "
upstreams:
  api:
    backends: [{backends}]
{settings}
routes:
  - match: {{ path: /* }}
    upstream: api
"
    );
    Gateway::start(&yaml).await
}

fn quoted(addresses: &[SocketAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
    quoted.join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_fails_while_an_instance_is_killed_and_comes_back() {
    let mut apps = ExpressApp::several(4).await;
    let list = backends(&apps);
    let gateway = front(
        &list,
        "    app: node\n    health: { path: /health, interval: 1s, timeout: 500ms }",
    )
    .await;
    let load = paced(gateway.address(), 200, Duration::from_secs(4), |_| {
        get("/api/items")
    });
    let drill = async {
        pass(Duration::from_millis(700)).await;
        apps[1].kill();
        pass(Duration::from_millis(1500)).await;
        apps[1].restart().await;
    };
    let (tally, ()) = tokio::join!(load, drill);
    assert_eq!(tally.total(), 800);
    assert_eq!(tally.errors(), 0, "{tally:?}");

    // It is back in rotation soon, and then gets its share.
    let port = apps[1].port();
    wait_for(
        "the instance serves again",
        Duration::from_secs(10),
        async || {
            let tally = lanes(gateway.address(), 1, 40, |_| get("/api/items")).await;
            (tally.served_by(port) >= 5).then_some(())
        },
    )
    .await;

    // The control: without retries and health checks, the same kill is visible.
    let bare = front(
        &list,
        "    app: node\n    health: false\n    retry: { attempts: 1 }\n    eject: { errors: 0 }",
    )
    .await;
    apps[1].kill();
    let tally = lanes(bare.address(), 4, 80, |_| get("/api/items")).await;
    assert!(tally.status(502) >= 10, "{tally:?}");
}

#[tokio::test]
async fn while_all_backends_are_down_clients_get_retry_after() {
    let mut apps = ExpressApp::several(2).await;
    let list = backends(&apps);
    let gateway = front(&list, "    app: node\n    health: { path: /health }").await;
    assert_eq!(gateway.get("/api/items").await.status(), 200);
    for app in &mut apps {
        app.kill();
    }
    let refused = wait_for("all are known to be down", SOON, async || {
        let response = gateway.get("/api/items").await;
        (response.status() == 503).then_some(response)
    })
    .await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(
        refused.text().contains("could not be reached"),
        "{}",
        refused.text()
    );
    apps[0].restart().await;
    wait_for("one is back", SOON, async || {
        (gateway.get("/api/items").await.status() == 200).then_some(())
    })
    .await;
    let lines = gateway.log_lines(2).await;
    assert!(lines.iter().any(|line| line["reason"] == "upstream_down"));
}

#[tokio::test]
async fn instances_that_restart_one_after_the_other_cost_no_request() {
    let mut origins = Vec::new();
    for _ in 0..2 {
        origins.push(FixedOrigin::start(200, &[], "").await);
    }
    let addresses = [origins[0].address(), origins[1].address()];
    // Without checks the first one stays out for ten seconds after it listens again.
    let gateway = front(&quoted(&addresses), "    health: false").await;
    origins[0].stop();
    for _ in 0..8 {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
    origins[0].resume().await;
    origins[1].stop();
    for request in [get("/"), post("/", "x"), get("/"), post("/", "x")] {
        assert_eq!(gateway.send(&request).await.status(), 200);
    }
}

#[tokio::test]
async fn a_dropped_connection_is_retried_for_reads_and_never_for_writes() {
    let origin = OnceOrigin::start().await;
    let settings = "    health: false\n    pool: { idle: 60s }\n    eject: { errors: 0 }";
    let gateway = front(&quoted(&[origin.address()]), settings).await;
    let mut client = gateway.connect().await;
    for turn in 0..20 {
        let response = client
            .send(&get("/").header(MARK, format!("get-{turn}")))
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "read {turn}");
    }
    let mut refused = 0;
    for turn in 0..20 {
        let mark = format!("post-{turn}");
        let response = client
            .send(&post("/", "x").header(MARK, &mark))
            .await
            .expect("a connection that was not announced as closing takes the next request");
        assert!(
            [200, 502].contains(&response.status()),
            "write {turn}: {}",
            response.status()
        );
        refused += u32::from(response.status() == 502);
        assert!(origin.counts().times(&mark) <= 1, "write {turn} came twice");
        if response.header("connection") == Some("close") {
            client = gateway.connect().await;
        }
    }
    // The control: dropped connections did occur, and writes were not repeated.
    assert!(refused > 0);
    // A connection that the app had closed is no attempt.
    let lines = gateway.log_lines(40).await;
    let read = |line: &&serde_json::Value| line["method"] == "GET";
    assert!(
        lines.iter().filter(read).all(|line| line["attempts"] == 1),
        "{lines:#?}"
    );
}

/// Invariant: a client stays at its backend while that one is in rotation, also where a kept
/// connection to it closes on use.
#[tokio::test]
async fn a_dropped_connection_moves_no_client_that_has_a_backend() {
    let origins = [OnceOrigin::start().await, OnceOrigin::start().await];
    let both = quoted(&origins.each_ref().map(Origin::address));
    let settings = "    health: false\n    pool: { idle: 60s }\n    eject: { errors: 0 }\n";
    for (balance, stays) in [
        ("sticky: { cookie: at }", true),
        ("balance: 'hash:header:x-room'", true),
        // The control.
        ("balance: round_robin", false),
    ] {
        let gateway = front(&both, &format!("{settings}    {balance}")).await;
        let room = get("/").header("x-room", "r");
        let first = gateway.send(&room).await;
        // A cookie of that name for a longer path comes first (RFC 6265, 5.4).
        let cookies = format!("at=app; {}", first.header("set-cookie").unwrap_or("a=b"));
        let request = room.header("cookie", &cookies);
        for _ in 0..12 {
            let response = gateway.send(&request).await;
            assert_eq!(response.status(), 200, "{balance}");
            assert_eq!(response.header("set-cookie"), None, "{balance}");
        }
        let lines = gateway.log_lines(13).await;
        let backends: HashSet<_> = lines.iter().map(|line| &line["backend"]).collect();
        assert_eq!(backends.len() == 1, stays, "{balance}: {backends:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_closes_idle_connections_costs_no_request() {
    let idle = Duration::from_secs(2);
    let origin = ClosingOrigin::start(idle).await;
    let backend = quoted(&[origin.address()]);
    let gateway = front(&backend, "    app: node\n    health: false").await;
    for (mark, status) in race(gateway.address(), 3, idle, "POST").await {
        assert_eq!(status, 200, "{mark}");
        assert_eq!(origin.counts().times(&mark), 1, "{mark}");
    }
    // The gateway closed each idle connection before the origin did.
    assert_eq!(origin.settings().closed(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_race_for_an_idle_connection_repeats_reads_and_no_write() {
    let idle = Duration::from_secs(1);
    let origin = ClosingOrigin::start_silent(idle).await;
    let backend = quoted(&[origin.address()]);
    let forced = "    app: node\n    health: false\n    eject: { errors: 0 }\n    pool: { idle: 60s }\n    retry: { attempts: 2, budget: 100% }";
    let gateway = front(&backend, forced).await;
    for (mark, status) in race(gateway.address(), 4, idle, "GET").await {
        assert_eq!(status, 200, "{mark}");
    }
    for (mark, status) in race(gateway.address(), 4, idle, "POST").await {
        assert!([200, 502].contains(&status), "{mark}: {status}");
        assert!(origin.counts().times(&mark) <= 1, "{mark} came twice");
    }
    // The control: here the origin closed first, so the race took place.
    assert!(origin.settings().closed() > 0);
}

/// Serves requests on one connection, and closes it after early hints for those of `/hint`, after
/// a second for those of `/work`, and at once for those of `/once` that are not its first.
async fn hint_and_close(mut socket: TcpStream, requests: Arc<AtomicUsize>) -> io::Result<()> {
    for served in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await?);
        }
        if head.starts_with(b"GET /hint") {
            requests.fetch_add(1, Ordering::Relaxed);
            let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
            return socket.write_all(hints).await;
        }
        if head.starts_with(b"GET /once") && served > 0 {
            return Ok(());
        }
        if head.starts_with(b"GET /work") {
            requests.fetch_add(1, Ordering::Relaxed);
            pass(Duration::from_secs(1)).await;
            return Ok(());
        }
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        socket.write_all(response).await?;
    }
    Ok(())
}

/// A kept connection that closes on use is no attempt, unless the backend has begun to respond or has
/// worked on the request.
#[tokio::test]
async fn a_request_that_an_app_worked_on_is_an_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = quoted(&[listener.local_addr().unwrap()]);
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let mut backends = JoinSet::new();
    backends.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(hint_and_close(socket, Arc::clone(&count)));
        }
    });
    let once = "    health: false\n    eject: { errors: 0 }\n    retry: { attempts: 1 }";
    let gateway = front(&backend, once).await;
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(gateway.get("/hint").await.status(), 502);
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(gateway.get("/work").await.status(), 502);
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    let stale = "edgeway_upstream_requests_total{outcome=\"stale\"}";
    assert_eq!(gateway.count(stale).await, 0);
    // The control: the backend closes a kept connection on use, and a new one takes the request.
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(gateway.get("/once").await.status(), 200);
    gateway.counts(stale, 1).await;
}

#[tokio::test]
async fn a_failing_instance_leaves_rotation_and_returns() {
    let good = FlappingOrigin::start().await;
    let bad = FlappingOrigin::start().await;
    let both = quoted(&[good.address(), bad.address()]);
    let gateway = front(
        &both,
        "    health: { path: /health, interval: 200ms, interval_down: 200ms, timeout: 1s, rise: 1, fall: 1 }",
    )
    .await;
    let share = async || {
        let tally = lanes(gateway.address(), 1, 20, |_| get("/")).await;
        assert_eq!(tally.errors(), 0, "{tally:?}");
        tally.served_by(bad.address().port())
    };
    // The control: while the instance is healthy it serves half.
    assert!(share().await >= 8);
    for failure in [Failure::ResetBeforeResponse, Failure::Hang] {
        bad.settings().fail(failure);
        wait_for(
            "the instance left rotation",
            Duration::from_secs(5),
            async || {
                let series = format!("edgeway_backend_healthy{{backend=\"{}\"}}", bad.address());
                (gateway.metric(&series).await < 0.5).then_some(())
            },
        )
        .await;
        assert_eq!(share().await, 0);
        bad.settings().recover();
        wait_for("the instance is back", Duration::from_secs(5), async || {
            (share().await >= 8).then_some(())
        })
        .await;
    }
}

/// Invariant: `problems=true` lists the requests for which a backend failed, whatever the client
/// got, and no others; each names the backend that failed and why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_a_second_backend_saved_are_listed_as_problems() {
    let good = FixedOrigin::start(200, &[], "ok").await;
    let failing = FlappingOrigin::start().await;
    let settings = "    health: false
    eject: { errors: 0 }
    retry: { attempts: 2, on: [connect, reset, 503], budget: 100% }";
    let list = quoted(&[failing.address(), good.address()]);
    let gateway = front(&list, settings).await;
    let failing_address = failing.address().to_string();
    for (how, reason) in [
        (None, None),
        (Some(Failure::ResetBeforeResponse), Some("upstream_reset")),
        (Some(Failure::Status(503)), Some("upstream_status")),
    ] {
        match how {
            Some(how) => failing.settings().fail(how),
            None => failing.settings().recover(),
        }
        for turn in 0..6 {
            let path = format!("/{}/{turn}", reason.unwrap_or("fine"));
            let response = gateway.get(&path).await;
            assert_eq!(response.status(), 200, "{path}");
        }
    }
    let lines = gateway.log_lines(18).await;
    let is_saved = |line: &&serde_json::Value| line["failed_backend"].is_string();
    let saved: Vec<_> = lines.iter().filter(is_saved).collect();
    // The control: both kinds of failure did occur, and other requests went well at once.
    assert!((2..18).contains(&saved.len()), "{lines:#?}");
    for line in &lines {
        let path = line["path"].as_str().expect("a path");
        if line.get("failed_backend").is_none() {
            assert!(line["reason"].is_null(), "{line}");
            // A kept connection that was closed meanwhile is no failure of its backend.
            let is_reset = path.starts_with("/upstream_reset/");
            assert!(line["attempts"] == 1 || is_reset, "{line}");
        } else {
            assert!(line["attempts"].as_u64() >= Some(2), "{line}");
            assert_eq!(line["failed_backend"], *failing_address, "{line}");
            assert_eq!(line["backend"], *good.address().to_string(), "{line}");
            let reason = line["reason"].as_str().expect("a reason");
            assert!(path.starts_with(&format!("/{reason}/")), "{line}");
        }
    }
    let listed = gateway.admin_get("/v1/requests?problems=true").await.text();
    let mut listed: Vec<serde_json::Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let id = |line: &serde_json::Value| line["id"].to_string();
    listed.sort_by_key(id);
    let mut expected: Vec<serde_json::Value> = saved.into_iter().cloned().collect();
    expected.sort_by_key(id);
    assert_eq!(listed, expected);
    let path = format!("/v1/requests?problems=true&backend={failing_address}");
    let failed_there = gateway.admin_get(&path).await.text();
    assert_eq!(failed_there.lines().count(), expected.len());
}

/// RFC 9110, 10.1.1: the client sends its body after one 100, whichever backend sent it.
#[tokio::test]
async fn a_client_gets_100_continue_once_also_if_a_second_backend_gets_its_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let origin = async {
        let mut asked = Vec::new();
        for is_last in [false, true] {
            let (mut stream, _) = listener.accept().await.expect("it listens");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("the gateway sends headers"));
            }
            let head = String::from_utf8(head).expect("headers are text");
            if head.contains("100-continue") {
                let sent = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                sent.expect("the gateway reads");
            }
            asked.push(head);
            // The first one ends before it has the body.
            if is_last {
                stream.read_exact(&mut [0; 4]).await.expect("there is one");
                let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(response).await.expect("the gateway reads");
            }
        }
        asked
    };
    let settings = "    health: false\n    eject: { errors: 0 }";
    let gateway = front(&quoted(&[address]), settings).await;
    let client = async {
        let mut client = TcpStream::connect(gateway.address())
            .await
            .expect("it listens");
        let request = "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\
                   Expect: 100-continue\r\nConnection: close\r\n\r\n";
        client
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        let mut got = String::new();
        while !got.ends_with("\r\n\r\n") {
            got.push(char::from(client.read_u8().await.expect("a response")));
        }
        client.write_all(b"body").await.expect("it reads");
        client.read_to_string(&mut got).await.expect("text");
        got
    };
    let (asked, got) = tokio::join!(origin, client);
    assert_eq!(got.matches("100 Continue").count(), 1, "{got}");
    assert!(got.contains("HTTP/1.1 200 OK"), "{got}");
    let expects: Vec<bool> = asked
        .iter()
        .map(|head| head.contains("100-continue"))
        .collect();
    assert_eq!(expects, [true, false]);
}

/// RFC 9110, 10.1.1: a client that offers a body does not wait without end before it sends it.
/// PHP's own server never sends it; the second app does once it has the body.
#[tokio::test]
async fn a_client_gets_100_continue_once_although_its_app_does_not_send_it_in_time() {
    for is_late in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let origin = async {
            let (mut stream, _) = listener.accept().await.expect("it listens");
            let mut got = Vec::new();
            while !got.ends_with(b"body") {
                got.push(stream.read_u8().await.expect("the gateway sends all"));
            }
            let interim = if is_late {
                "HTTP/1.1 100 Continue\r\n\r\n"
            } else {
                ""
            };
            let response = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let sent = stream.write_all(response.as_bytes()).await;
            sent.expect("the gateway reads");
        };
        let gateway = front(&quoted(&[address]), "    health: false").await;
        let client = async {
            let connected = TcpStream::connect(gateway.address()).await;
            let mut client = connected.expect("it listens");
            let head = b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\
                Expect: 100-continue\r\nConnection: close\r\n\r\n";
            client.write_all(head).await.expect("it reads");
            let mut got = String::new();
            while !got.ends_with("\r\n\r\n") {
                got.push(char::from(client.read_u8().await.expect("a response")));
            }
            client.write_all(b"body").await.expect("it reads");
            client.read_to_string(&mut got).await.expect("text");
            got
        };
        let both = async { tokio::join!(origin, client) };
        let ended = tokio::time::timeout(SOON, both).await;
        let ((), got) = ended.expect("the client does not wait without end");
        assert_eq!(got.matches("100 Continue").count(), 1, "{got}");
        assert!(got.contains("HTTP/1.1 200 OK"), "{got}");
    }
}

#[tokio::test]
async fn a_client_that_offers_a_body_and_sends_none_ejects_no_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut backend = JoinSet::new();
    // It knows no `Expect`: it responds once it has the whole request.
    backend.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        if head.starts_with(b"PUT") {
                            stream.read_exact(&mut [0; 4]).await?;
                        }
                        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(response).await?;
                        head.clear();
                    }
                }
                io::Result::Ok(())
            });
        }
    });
    for bound in ["first_byte", "total"] {
        let settings = format!(
            "    health: false\n    timeouts: {{ {bound}: 300ms }}\n    retry: {{ attempts: 1 }}\n    eject: {{ errors: 2, for: 1min }}"
        );
        let gateway = front(&quoted(&[address]), &settings).await;
        let put = async |body: &[u8]| {
            let mut client = TcpStream::connect(gateway.address())
                .await
                .expect("it listens");
            let request = "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\
                   Expect: 100-continue\r\nConnection: close\r\n\r\n";
            let request = [request.as_bytes(), body].concat();
            client.write_all(&request).await.expect("it reads");
            let mut got = String::new();
            client.read_to_string(&mut got).await.expect("text");
            got
        };
        let (first, second) = tokio::join!(put(b""), put(b""));
        assert!(first.starts_with("HTTP/1.1 408 "), "{first}");
        assert!(second.starts_with("HTTP/1.1 408 "), "{second}");
        let got = put(b"body").await;
        assert!(got.contains("HTTP/1.1 200 "), "{got}");
        assert_eq!(gateway.send(&get("/")).await.status(), 200);
        let lines = gateway.log_lines(4).await;
        assert_eq!(lines[0]["reason"], "body_timeout", "{}", lines[0]);
    }
}
