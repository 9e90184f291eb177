//! A new configuration while requests flow: applied completely or not at all, and visible only to
//! the clients that it affects.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, time::Duration};

use rustix::process::Signal;

use crate::{
    cli::edgeway_fed,
    support::{
        certificates::Ca,
        client::{self, Connection, Request, get},
        fleet::edgeway,
        front::Front,
        gateway::Gateway,
        load::{Lanes, Tally, endless},
        origins::{EchoOrigin, SlowOrigin, WsOrigin},
        ports::free_port,
        sockets,
        wait::wait_for,
    },
};

const SOON: Duration = Duration::from_secs(5);

/// Configuration whose response to `/` is `body`.
fn responding(body: &str) -> String {
    format!("routes: [{{ match: {{ path: / }}, respond: {{ body: \"{body}\" }} }}]\n")
}

#[tokio::test]
async fn another_configuration_serves_from_the_next_request_on() {
    let gateway = Gateway::start(&responding("one")).await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.send(&get("/")).await.unwrap().text(), "one");
    assert!(gateway.reload(&responding("two")).await);
    // On the same connection too.
    assert_eq!(connection.send(&get("/")).await.unwrap().text(), "two");
    assert_eq!(gateway.get("/").await.text(), "two");
    assert_eq!(gateway.count("edgeway_config_generation").await, 2);
    assert_eq!(gateway.count("edgeway_config_last_reload_success").await, 1);
    let log = gateway.stderr();
    assert!(log.contains("configuration reloaded: ~ route /"), "{log}");
}

#[tokio::test]
async fn an_open_connection_has_the_name_and_the_limits_that_its_listener_has_now() {
    let port = free_port();
    let yaml = |name: &str, headers: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:{port}\", name: {name}, limits: {{ headers: {headers} }} }}]
routes:
  - {{ match: {{ path: /* }}, respond: other }}
  - {{ match: {{ path: /*, listener: {name} }}, respond: {name} }}
"
        )
    };
    let gateway = Gateway::start(&yaml("front", "32KiB")).await;
    let mut connection = gateway.connect().await;
    let large = get("/").header("x-large", "x".repeat(4096));
    assert_eq!(connection.send(&large).await.unwrap().text(), "front");
    // Twice, because what is known of the first name is not that of the second.
    for name in ["inner", "outer"] {
        assert!(gateway.reload(&yaml(name, "32KiB")).await);
        assert_eq!(connection.send(&large).await.unwrap().text(), name);
    }
    assert!(gateway.reload(&yaml("outer", "2KiB")).await);
    assert_eq!(connection.send(&get("/")).await.unwrap().text(), "outer");
    assert_eq!(connection.send(&large).await.unwrap().status(), 431);
}

#[tokio::test]
async fn changed_files_and_the_order_of_routes_are_reported() {
    let users = |password: &str| {
        let ran = edgeway_fed(&["hash", "password", "--user", "alice"], password);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout
    };
    let yaml = |locations: [&str; 2]| {
        let [one, two] = locations;
        format!(
            "routes:
  - {{ match: {{ path: / }}, respond: {{ file: pages/a.txt }}, basic_auth: {{ file: users }} }}
  - {{ match: {{ host: a.test, location: \"~ {one}\" }}, respond: one }}
  - {{ match: {{ host: a.test, location: \"~ {two}\" }}, respond: two }}
"
        )
    };
    let gateway = Gateway::start_in(&yaml(["^/a", "b$"]), |folder| {
        fs::create_dir(folder.join("pages")).expect("the folder takes files");
        fs::write(folder.join("pages/a.txt"), "a").expect("the folder takes files");
        fs::write(folder.join("users"), users("one")).expect("the folder takes files");
    })
    .await;
    let reloaded = async || {
        let ran = edgeway(&gateway, &["reload"]).await;
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        ran.stdout + &ran.stderr
    };
    let nothing = reloaded().await;
    assert!(nothing.contains("nothing changed"), "{nothing}");
    fs::write(gateway.folder().join("users"), users("two")).unwrap();
    let files = reloaded().await;
    assert!(files.contains("~ file users\n"), "{files}");
    assert!(!files.contains("pages"), "{files}");
    fs::write(gateway.folder().join("pages/a.txt"), "b").unwrap();
    gateway.configure(&yaml(["b$", "^/a"]));
    let both = reloaded().await;
    assert!(both.contains("~ file pages/a.txt\n"), "{both}");
    assert!(both.contains("~ order of routes\n"), "{both}");
}

#[tokio::test]
async fn a_changed_ca_of_clients_is_reported() {
    let (one, two) = (Ca::new(), Ca::new());
    let yaml = "listeners:
  - { address: '127.0.0.1:0', name: web }
  - { address: '127.0.0.1:0', name: tls, tls: { certificates: { cert: a.pem, key: a.key }, client_ca: ca.pem } }
routes: [{ match: { path: / }, respond: ok }]
";
    let gateway = Gateway::start_in(yaml, |folder| {
        one.site(&["a.test"]).write(folder, "a");
        fs::write(folder.join("ca.pem"), one.pem()).expect("the folder takes files");
    })
    .await;
    fs::write(gateway.folder().join("ca.pem"), two.pem()).unwrap();
    let ran = edgeway(&gateway, &["reload"]).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let printed = ran.stdout + &ran.stderr;
    assert!(printed.contains("~ file ca.pem\n"), "{printed}");
}

#[tokio::test]
async fn a_refused_file_changes_nothing_and_its_problem_is_reported() {
    let gateway = Gateway::start(&responding("one")).await;
    for turn in 0..5 {
        let broken = "routes: [{ match: { path: / }, upstrem: nobody }]\n";
        assert!(!gateway.reload(broken).await);
        assert_eq!(gateway.get("/").await.text(), "one");
        assert_eq!(gateway.count("edgeway_config_last_reload_success").await, 0);
        let status = gateway.status().await;
        let error = status["config"]["last_error"].as_str().unwrap().to_owned();
        assert!(error.contains("upstrem"), "{error}");
        assert!(error.contains("edgeway.yaml:"), "{error}");
        assert_eq!(status["config"]["generation"], 1 + turn);
        assert!(gateway.reload(&responding("one")).await);
        assert_eq!(gateway.count("edgeway_config_last_reload_success").await, 1);
    }
    assert_eq!(gateway.count("edgeway_config_generation").await, 6);
}

#[tokio::test]
async fn a_request_in_flight_keeps_the_configuration_that_it_began_with() {
    let origin = SlowOrigin::start(Duration::from_millis(700)).await;
    let with = |header: &str| {
        Front::to(&origin)
            .with(&format!(
                "defaults: {{ headers: {{ response: {{ set: {{ X-Edition: {header} }} }} }} }}"
            ))
            .yaml()
    };
    let gateway = Gateway::start(&with("first")).await;
    let mut slow = gateway.connect().await;
    slow.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("the origin has the request", SOON, async || {
        (origin.counts().requests() > 0).then_some(())
    })
    .await;
    assert!(gateway.reload(&with("second")).await);
    let response = slow.read_headers().await.unwrap();
    assert_eq!(response.header("x-edition"), Some("first"));
    slow.finish(response).await.unwrap();
    let next = slow.send(&get("/")).await.unwrap();
    assert_eq!(next.header("x-edition"), Some("second"));
}

/// Configuration with two of three listeners.
fn two_of(names: [&str; 2], ports: [u16; 3], ws: SocketAddr, slow: SocketAddr) -> String {
    let listeners: Vec<String> = ["socket", "old", "new"]
        .iter()
        .zip(ports)
        .filter(|(name, _)| names.contains(name))
        .map(|(name, port)| format!("{{ address: \"127.0.0.1:{port}\", name: {name} }}"))
        .collect();
    format!(
        "
listeners: [{}]
drain: {{ idle: 200ms, deadline: 10s }}
upstreams:
  ws: {{ backends: [\"{ws}\"], health: false }}
  slow: {{ backends: [\"{slow}\"], health: false }}
routes:
  - match: {{ path: /ws }}
    upstream: ws
    websocket: true
  - match: {{ path: /slow }}
    upstream: slow
  - match: {{ path: / }}
    respond: {{ body: hello }}
",
        listeners.join(", ")
    )
}

/// Waits until the address refuses connections: a reload counts once its configuration serves, and
/// ends when the last removed listener is closed.
async fn nobody_is_at(address: SocketAddr) {
    wait_for("nobody can connect any more", SOON, async || {
        Connection::open(address).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_added_listener_serves_and_a_removed_one_drains_while_a_third_goes_on() {
    let ws = WsOrigin::start().await;
    let slow = SlowOrigin::start(Duration::from_millis(1500)).await;
    let ports = [free_port(), free_port(), free_port()];
    let of = |names| two_of(names, ports, ws.address(), slow.address());
    let gateway = Gateway::start(&of(["socket", "old"])).await;
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let [socket, old, new] = ports.map(at);
    let mut open = sockets::open_many(socket, 3).await;
    let mut idle = Connection::open(old).await.unwrap();
    assert_eq!(idle.send(&get("/")).await.unwrap().text(), "hello");
    let mut busy = Connection::open(old).await.unwrap();
    busy.write("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("the origin has the request", SOON, async || {
        (slow.counts().requests() > 0).then_some(())
    })
    .await;
    // The control: the new address is not open yet.
    assert!(Connection::open(new).await.is_err());

    assert!(gateway.reload(&of(["socket", "new"])).await);
    assert_eq!(client::send(new, &get("/")).await.unwrap().text(), "hello");
    nobody_is_at(old).await;
    // Requests in flight at the removed listener are finished, with `Connection: close`.
    let response = busy.read_headers().await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("connection"), Some("close"));
    busy.finish(response).await.unwrap();
    assert!(idle.is_closed().await);
    assert_eq!(sockets::alive(&mut open).await, 3);
    // And back.
    assert!(gateway.reload(&of(["socket", "old"])).await);
    assert_eq!(client::send(old, &get("/")).await.unwrap().text(), "hello");
    nobody_is_at(new).await;
    assert_eq!(sockets::alive(&mut open).await, 3);
}

#[tokio::test]
async fn an_address_in_use_refuses_the_configuration() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let free = free_port();
    let gateway = Gateway::start(&responding("one")).await;
    let with = |address: SocketAddr| {
        format!(
            "listeners:
  - {{ address: \"127.0.0.1:0\", name: web }}
  - {{ address: \"127.0.0.1:{free}\", name: more }}
  - {{ address: \"{address}\", name: taken }}
{}",
            responding("two")
        )
    };
    assert!(!gateway.reload(&with(address)).await);
    assert_eq!(gateway.get("/").await.text(), "one");
    // The listener that was bound in between is released.
    assert!(
        Connection::open(([127, 0, 0, 1], free).into())
            .await
            .is_err()
    );
    let log = gateway.stderr();
    let message = format!("cannot listen on {address}");
    assert!(log.contains(&message), "{log}");
    // The control: once the port is free it is used.
    drop(taken);
    assert!(gateway.reload(&with(address)).await);
    assert_eq!(
        client::send(address, &get("/")).await.unwrap().text(),
        "two"
    );
}

#[tokio::test]
async fn limits_and_names_of_a_listener_change_under_its_connections() {
    let limited = |limits: &str, name: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:{{port}}\", name: {name}, limits: {{ {limits} }} }}]\n{}",
            responding("hello")
        )
    };
    let port = free_port().to_string();
    let yaml = |limits, name| limited(limits, name).replace("{port}", &port);
    let gateway = Gateway::start(&yaml("idle_timeout: 60s", "web")).await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.send(&get("/")).await.unwrap().text(), "hello");
    assert!(
        gateway
            .reload(&yaml("idle_timeout: 300ms, connections_per_ip: 1", "shop"))
            .await
    );
    let shop = "edgeway_connections_accepted_total{listener=\"shop\"}";
    let _one = gateway.connect().await;
    wait_for("it counts under its new name", SOON, async || {
        (gateway.count(shop).await == 1).then_some(())
    })
    .await;
    // The new idle timeout applies to existing connections, too.
    wait_for("the idle connection was closed", SOON, async || {
        connection.is_closed().await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_admin_listener_follows() {
    let mut gateway = Gateway::start(&responding("one")).await;
    let other = free_port();
    let socket = gateway.folder().join("admin.sock");
    gateway.configure(&format!(
        "admin: {{ address: \"127.0.0.1:{other}\", socket: {} }}\n{}",
        socket.display(),
        responding("two")
    ));
    gateway.signal(Signal::HUP);
    let to: SocketAddr = ([127, 0, 0, 1], other).into();
    wait_for("the admin listener responds elsewhere", SOON, async || {
        let response = client::send(to, &get("/readyz")).await.ok()?;
        (response.status() == 200).then_some(())
    })
    .await;
    assert!(Connection::open(gateway.admin()).await.is_err());
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "nobody but its user and its group");
    gateway.terminate(SOON).await;
    assert!(!socket.exists(), "a socket that nobody listens on is left");
}

/// Checks that reloads, by hand or by the storm, did not affect a load, of one request each at least.
fn assert_unharmed(load: &str, tally: &Tally) {
    assert!(
        tally.total() > 30,
        "{load}: only {} requests",
        tally.total()
    );
    assert_eq!(
        tally.errors() + tally.truncated,
        0,
        "{load}: {:?} {:?}",
        tally.statuses,
        tally.failed
    );
}

#[tokio::test]
async fn thirty_reloads_under_load_fail_no_request_and_close_no_socket() {
    let (echo, ws) = (EchoOrigin::start().await, WsOrigin::start().await);
    let yaml = |turn: u32| {
        format!(
            "
upstreams:
  app: {{ backends: [\"{}\"], health: {{ path: /health, interval: {}s }} }}
  ws: {{ backends: [\"{}\"], health: false }}
routes:
  - match: {{ path: /ws }}
    upstream: ws
    websocket: true
  - match: {{ path: /* }}
    upstream: app
    headers: {{ response: {{ set: {{ X-Turn: \"{turn}\" }} }} }}
",
            echo.address(),
            1 + turn % 3,
            ws.address()
        )
    };
    let gateway = Gateway::start(&yaml(0)).await;
    let mut open = sockets::open_many(gateway.address(), 20).await;
    let keep_alive = endless(gateway.address(), 4, Lanes::KeepAlive, |_| get("/kept"));
    let fresh = endless(gateway.address(), 2, Lanes::Fresh, |_| get("/fresh"));
    for turn in 1..=30 {
        if turn % 5 == 0 {
            assert!(!gateway.reload("routes: [{ mtch: { path: / } }]\n").await);
        }
        assert!(gateway.reload(&yaml(turn)).await);
        let response = gateway.get("/").await;
        assert_eq!(response.header("x-turn"), Some(turn.to_string().as_str()));
    }
    assert_unharmed("keep-alive connections", &keep_alive.stop().await);
    assert_unharmed("new connections", &fresh.stop().await);
    assert_eq!(sockets::alive(&mut open).await, 20);
    assert_eq!(ws.opened(), 20);
}

#[tokio::test]
async fn reloads_at_a_time_wait_for_one_another() {
    let gateway = Gateway::start(&responding("one")).await;
    gateway.configure(&responding("two"));
    let ask = Request::new("POST", "/v1/reload");
    let responses = tokio::join!(
        gateway.send_admin(&ask),
        gateway.send_admin(&ask),
        gateway.send_admin(&ask),
        gateway.send_admin(&ask),
        gateway.send_admin(&ask)
    );
    let responses: [_; 5] = responses.into();
    let mut generations: Vec<u64> = responses
        .iter()
        .map(|response| {
            assert_eq!(response.status(), 200, "{}", response.text());
            response.json()["generation"].as_u64().unwrap()
        })
        .collect();
    generations.sort_unstable();
    assert_eq!(generations, [2, 3, 4, 5, 6]);
    // One of them found the change.
    let changed: usize = responses
        .iter()
        .map(|response| {
            response.json()["changes"]["routes"]["changed"]
                .as_array()
                .unwrap()
                .len()
        })
        .sum();
    assert_eq!(changed, 1);
    assert_eq!(gateway.get("/").await.text(), "two");
}
