//! Many new connections, which the gateway leaves to the kernel until their first bytes arrive.
//! Invariant: a client that could connect, and sends its request within 100 ms, gets its response,
//! also while its listener is removed and while the process is replaced.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::support::{
    client::{self, Connection, get},
    gateway::Gateway,
    ports::free_port,
    seed,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(30);
const LANES: usize = 12;
/// Time for the first bytes of a client whose listener is removed meanwhile: less than it has.
const IN_TIME: Duration = Duration::from_millis(80);
/// State of a connection without bytes that was left to the kernel, in `/proc/net/tcp`.
const SYN_RECV: &str = "03";

fn front(ports: &[u16]) -> String {
    let listeners = ports
        .iter()
        .map(|port| format!("{{ address: \"127.0.0.1:{port}\" }}"));
    let listeners: Vec<String> = listeners.collect();
    format!(
        "listeners: [{}]\n\
         drain: {{ idle: 200ms, deadline: 10s }}\n\
         routes: [{{ match: {{ path: '/*' }}, respond: {{ body: hello }} }}]\n",
        listeners.join(", ")
    )
}

/// Opens as many connections as make the gateway leave further ones to the kernel, and closes them.
async fn burst(to: SocketAddr) {
    let open = tokio::task::spawn_blocking(move || {
        let connect = |_| std::net::TcpStream::connect(to).expect("it listens");
        (0..800).map(connect).collect::<Vec<_>>()
    });
    drop(open.await.expect("it does not panic"));
}

/// Opens a connection without sending anything; returns true if it is left to the kernel.
async fn is_deferred(to: SocketAddr) -> bool {
    let silent = tokio::net::TcpStream::connect(to)
        .await
        .expect("it listens");
    let own = silent.local_addr().expect("it is connected").port();
    pass(Duration::from_millis(20)).await;
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let (here, there) = (format!(":{:04X}", to.port()), format!(":{own:04X}"));
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&here))
            && fields.next().is_some_and(|remote| remote.ends_with(&there))
            && fields.next() == Some(SYN_RECV)
    })
}

/// Opens connections until new ones are left to the kernel.
async fn until_deferred(to: SocketAddr) {
    wait_for("new connections are deferred", SOON, async || {
        burst(to).await;
        is_deferred(to).await.then_some(())
    })
    .await;
}

/// Opens connections, with one request each, until they are refused or `is_over`.
async fn clients(to: SocketAddr, mut random: Rng, is_over: &AtomicBool, done: &AtomicUsize) {
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let Ok(mut connection) = Connection::open(to).await else {
            return;
        };
        if random.u8(..8) == 0 {
            pass(Duration::from_millis(random.u64(..50))).await;
        }
        let request = get("/").header("host", "app.test");
        let request = request.header("connection", "close");
        let written = connection.write(request.text()).await;
        let is_late = began.elapsed() > IN_TIME;
        let response = match written {
            Ok(()) => connection.read_response().await,
            Err(error) => Err(error),
        };
        let response = match response {
            // This machine had other things to do, and the listener may be closed.
            Err(_) if is_late => continue,
            response => response.expect("who is connected gets a response"),
        };
        assert_eq!(response.text(), "hello");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_gets_a_response() {
    let seed = seed::drawn();
    let ports = [free_port(), free_port()];
    let [old, kept] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut gateway = Gateway::start(&front(&ports)).await;
    assert!(!is_deferred(old).await, "a few connections are accepted");
    for round in 0..3 {
        until_deferred(old).await;
        let (is_over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        let lanes = (0..LANES).map(|lane| {
            let random = Rng::with_seed(seed.wrapping_add(round * 100 + lane as u64));
            clients(old, random, &is_over, &done)
        });
        let removal = async {
            pass(Duration::from_millis(100)).await;
            assert!(gateway.reload(&front(&ports[1..])).await);
            wait_for("the removed listener is closed", SOON, async || {
                Connection::open(old).await.is_err().then_some(())
            })
            .await;
        };
        tokio::join!(join_all(lanes), removal);
        assert!(done.load(Ordering::Relaxed) > LANES, "they had responses");
        assert!(gateway.reload(&front(&ports)).await);
    }
    until_deferred(kept).await;
    let (is_over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lanes = (0..LANES).map(|lane| {
        let random = Rng::with_seed(seed.wrapping_add(1000 + lane as u64));
        clients(kept, random, &is_over, &done)
    });
    let upgrades = async {
        for _ in 0..2 {
            gateway.upgrade().await;
            burst(kept).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all(lanes), upgrades);
    assert!(done.load(Ordering::Relaxed) > LANES, "they had responses");
}

#[tokio::test]
async fn silent_clients_are_known_after_a_second_and_later_ones_at_once() {
    let gateway = Gateway::start(&front(&[0])).await;
    let address = gateway.address();
    until_deferred(address).await;
    let silent = Connection::open(address).await.expect("it listens");
    // Whatever waits, others are served.
    let response = client::send(address, &get("/")).await;
    assert_eq!(response.expect("it responds").text(), "hello");
    wait_for("the silent client is accepted", SOON, async || {
        let open = "edgeway_connections{listener=\"127.0.0.1:0\"}";
        (gateway.count(open).await == 1).then_some(())
    })
    .await;
    drop(silent);
    wait_for("no connections are deferred any more", SOON, async || {
        (!is_deferred(address).await).then_some(())
    })
    .await;
}
