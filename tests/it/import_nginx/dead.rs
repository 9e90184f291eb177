//! A backend that dies behind an imported configuration is noticed: `edgeway status` and the log name
//! it within seconds, whether it leaves rotation or is the only one and stays.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::{
    origin::Origins,
    play::prepare,
    servers::{Edge, Shape, Side},
    wire::{Message, send},
};
use crate::support::{certificates::Ca, wait::wait_for};

/// Requests that a dead backend gets, or its share of them.
const REQUESTS: usize = 24;

/// Words of the problem of a backend that stays.
const STAYS: [&str; 1] = ["it stays in rotation"];
/// Words of the problem of a backend that leaves, by failed requests or failed checks.
const LEAVES: [&str; 2] = ["is ejected", "is down"];

/// Upstreams whose first backend dies; of each, the words of the problem.
const UPSTREAMS: [(&str, &str, &[&str]); 4] = [
    ("alone", "", &STAYS),
    ("block", "server 127.0.0.1:3000;", &STAYS),
    (
        "never",
        "server 127.0.0.1:3000 max_fails=0; server 127.0.0.1:3999 max_fails=0;",
        &LEAVES,
    ),
    (
        "pair",
        "server 127.0.0.1:3000; server 127.0.0.1:3999;",
        &LEAVES,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_dies_is_noticed() {
    for (name, servers, words) in UPSTREAMS {
        let (upstream, to) = match servers {
            "" => (String::new(), "127.0.0.1:3000".to_owned()),
            servers => (format!("upstream {name} {{ {servers} }}"), name.to_owned()),
        };
        let text = format!(
            "events {{}}\nhttp {{ {upstream}\nserver {{ listen 8080;\n\
             location / {{ proxy_pass http://{to}; }} }} }}\n"
        );
        let shape = Shape::of(name, text);
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path(), &shape.tree(), &Ca::new());
        let side = Side::new(&shape, folder.path(), "edge").await;
        let backend = side.origins.addresses()[&3000].to_string();
        let mut edge = Edge::start(&shape, side).await;
        let message = Message {
            bytes: b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
            is_head: false,
        };
        let to = edge.side.address(8080);
        let ask = async || {
            let all = send(
                Ipv4Addr::LOCALHOST,
                to,
                None,
                std::slice::from_ref(&message),
            )
            .await;
            all.1.first().map_or(0, |outcome| outcome.status)
        };
        assert_eq!(ask().await, 200, "{name}: it is alive");
        let problems = status(&edge);
        let is_named =
            |line: &str| line.contains(&backend) && words.iter().any(|words| line.contains(words));
        assert!(!problems.lines().any(is_named), "{name}: {problems}");
        edge.side.origins = Origins::start(&[]).await;
        let limit = Duration::from_secs(15);
        let _held = wait_for("its port is free", limit, async || hold(&backend)).await;
        for _ in 0..REQUESTS {
            let found = ask().await;
            assert!(found >= 500, "{name}: {found} of a dead backend");
        }
        let named = |text: &str| text.lines().any(is_named);
        wait_for("`edgeway status` names it", limit, async || {
            named(&status(&edge)).then_some(())
        })
        .await;
        wait_for("the log names it", limit, async || {
            named(&edge.gateway.stderr()).then_some(())
        })
        .await;
    }
}

/// Takes the port of a backend that has ended, which refuses connections then: another test's server
/// could get it.
fn hold(address: &str) -> Option<Socket> {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).ok()?;
    socket.set_reuse_address(true).ok()?;
    socket.bind(&address.into()).ok()?;
    Some(socket)
}

/// Returns the output of `edgeway status`.
fn status(edge: &Edge) -> String {
    let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["status", "--socket", edge.gateway.admin_socket()])
        .output()
        .expect("it runs");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}
