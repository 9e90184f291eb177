//! Limits on the number of connections, in total and of one client, and behaviour at the limit.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::time::Instant;

use super::{GAP, hello, is_served, proxied};
use crate::support::{
    client::{Connection, get},
    gateway::{Gateway, cpu_of},
    origins::{EchoOrigin, SlowOrigin},
    wait::{pass, wait_for},
};

async fn from(address: &str, gateway: &Gateway) -> Connection {
    let address: IpAddr = address.parse().expect("an address");
    let opened = Connection::open_from(address, gateway.address()).await;
    opened.expect("the kernel accepts")
}

#[tokio::test]
async fn the_21st_connection_of_an_address_is_refused_and_others_are_served() {
    let gateway = Gateway::start(&hello("{ connections_per_ip: 20 }")).await;
    let mut inside = Vec::new();
    for _ in 0..20 {
        let mut connection = from("127.0.0.1", &gateway).await;
        assert!(is_served(&mut connection).await);
        inside.push(connection);
    }
    let mut refused_one = from("127.0.0.1", &gateway).await;
    assert!(refused_one.is_closed().await);
    gateway.refuses("connections_per_ip", 1).await;
    assert!(is_served(&mut from("127.0.0.2", &gateway).await).await);
    // After one connection closes, the next one is accepted.
    drop(inside.pop());
    wait_for("a place is free", Duration::from_secs(5), async || {
        let mut next = from("127.0.0.1", &gateway).await;
        is_served(&mut next).await.then(|| inside.push(next))
    })
    .await;
    assert!(from("127.0.0.1", &gateway).await.is_closed().await);
    let log = gateway.stderr();
    assert!(log.contains("connection rejected"), "{log}");
    assert!(log.contains("connections_per_ip"), "{log}");
}

#[tokio::test]
async fn connections_are_bounded_by_network_and_in_all() {
    let gateway = Gateway::start(&hello(
        "{ connections: 5, connections_per_ip: 2, connections_per_network: 3 }",
    ))
    .await;
    let mut inside = Vec::new();
    for (address, expected) in [
        ("127.0.0.1", true),
        ("127.0.0.1", true),
        ("127.0.0.1", false),
        ("127.0.0.2", true),
        ("127.0.0.3", false),
        ("127.0.1.1", true),
        ("127.0.1.2", true),
        // The control for the last limit: the same address was admitted while there was room.
        ("127.0.2.1", false),
    ] {
        let mut connection = from(address, &gateway).await;
        assert_eq!(is_served(&mut connection).await, expected, "{address}");
        if expected {
            inside.push(connection);
        }
    }
    for reason in [
        "connections_per_ip",
        "connections_per_network",
        "connections",
    ] {
        gateway.refuses(reason, 1).await;
    }
    inside.clear();
    wait_for("there is room", Duration::from_secs(5), async || {
        is_served(&mut from("127.0.2.1", &gateway).await)
            .await
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_free_files_the_gateway_waits_and_responds_and_does_not_spin() {
    let origin = EchoOrigin::start().await;
    let yaml = proxied("{ connections: 1000 }", origin.address(), "");
    let gateway = Gateway::start(&format!(
        "{yaml}  - match: {{ path: /here }}\n    respond: here\n"
    ))
    .await;
    let mut inside = gateway.connect().await;
    assert_eq!(inside.send(&get("/here")).await.unwrap().status(), 200);
    let pid = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    let limit = |most: u64| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(4096),
        };
        prlimit(pid, Resource::Nofile, limit).expect("it is ours");
    };
    // The next file would get the lowest free number, so no such high number. A file that was open
    // only for a moment may yet free its number.
    let lowest = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
        let names = files.map(|file| file.unwrap().file_name());
        let taken: HashSet<u64> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
        (0..4096).find(|number| !taken.contains(number)).unwrap()
    };
    let soon = Duration::from_secs(5);
    wait_for("no file can be opened", soon, async || {
        let free = lowest();
        limit(free);
        pass(GAP).await;
        (lowest() == free).then_some(())
    })
    .await;

    // A connection to a backend needs a file: the client gets a response, and does not hang.
    let started = Instant::now();
    let response = inside.send(&get("/app")).await.unwrap();
    assert_eq!(response.status(), 503, "{}", response.text());
    assert!(started.elapsed() < Duration::from_secs(10));

    // A connection from a client needs one too; the client waits.
    let mut waiting = gateway.connect().await;
    wait_for("the gateway says so", soon, async || {
        let log = gateway.stderr();
        log.contains("connections not accepted").then_some(())
    })
    .await;
    let spent = cpu_of(gateway.pid());
    pass(Duration::from_secs(1)).await;
    let spent = cpu_of(gateway.pid()).saturating_sub(spent);
    assert!(spent < Duration::from_millis(300), "{spent:?}");
    limit(4096);
    assert_eq!(waiting.send(&get("/here")).await.unwrap().status(), 200);
    assert_eq!(gateway.get("/app").await.status(), 200);
    gateway.refuses("cannot_accept", 1).await;
    let log = gateway.stderr();
    assert_eq!(log.matches("connections not accepted").count(), 1, "{log}");
    assert!(log.contains("accepting connections again"), "{log}");
    // It was not the backend's fault, and the status says what it was.
    let status = gateway.status().await;
    let backend = &status["upstreams"][0]["backends"][0];
    assert_eq!(backend["state"], "healthy", "{backend}");
    assert_eq!(backend["failures"], 0, "{backend}");
    assert_eq!(status["process"]["lacked_descriptors"], true);
    assert_eq!(status["process"]["max_descriptors"], 4096);
}

#[tokio::test]
async fn a_flood_is_counted_completely_and_logged_in_part() {
    let mut gateway = Gateway::start(&hello("{ connections_per_ip: 1 }")).await;
    let mut inside = gateway.connect().await;
    assert!(is_served(&mut inside).await);
    for _ in 0..100 {
        assert!(gateway.connect().await.is_closed().await);
    }
    gateway.refuses("connections_per_ip", 100).await;
    drop(inside);
    gateway.terminate(Duration::from_secs(10)).await;
    let log = gateway.stderr();
    let lines = log
        .lines()
        .filter(|line| line.contains("connection rejected"));
    let (sums, lines): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains("left out"));
    assert_eq!(lines.len(), 20, "{log}");
    let [sum] = sums[..] else {
        panic!("one line for those that were left out\n{log}");
    };
    assert!(sum.ends_with("80 similar lines left out"), "{log}");
}

#[tokio::test]
async fn idle_connections_are_counted_apart_from_busy_ones() {
    let slow = SlowOrigin::start(Duration::from_secs(30)).await;
    let gateway = Gateway::start(&proxied("{}", slow.address(), "")).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        assert_eq!(
            connection.send(&get("/health")).await.unwrap().status(),
            200
        );
        inside.push(connection);
    }
    inside[0]
        .write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("one is busy", Duration::from_secs(5), async || {
        let idle = gateway.count("edgeway_connections_idle").await;
        (idle == 2).then_some(())
    })
    .await;
    assert_eq!(gateway.count("edgeway_connections").await, 3);
}
