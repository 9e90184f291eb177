//! The certificate that a name gets. Invariant: of drawn certificates each client gets the one that
//! `HAProxy` gives it: of its own name, else of a wildcard for its last label but one, else the first.

use std::{fmt::Write as _, net::Ipv4Addr, process::Stdio, sync::Arc, time::Duration};

use fastrand::Rng;
use tokio::{net::TcpStream, process::Command};

use super::serial;
use crate::support::{
    certificates::Ca,
    client::Connection,
    gateway::Gateway,
    pebble::trusting,
    ports::free_port,
    seed::{cases, drawn},
    wait::wait_for,
};

const NAMES: [&str; 12] = [
    "test",
    "a.test",
    "b.test",
    "x.a.test",
    "y.a.test",
    "x.y.a.test",
    "*.test",
    "*.a.test",
    "*.y.a.test",
    "a-1.test",
    "*.b.test",
    "xn--bcher-kva.test",
];

/// Requested names: also of no certificate.
const ASKED: [&str; 14] = [
    "test",
    "a.test",
    "b.test",
    "x.a.test",
    "y.a.test",
    "x.y.a.test",
    "z.y.a.test",
    "w.x.y.a.test",
    "z.a.test",
    "z.b.test",
    "q.z.b.test",
    "a-1.test",
    "xn--bcher-kva.test",
    "other.example",
];

/// Spells a name with some letters in upper case.
fn spelt(name: &str, random: &mut Rng) -> String {
    let letter = |letter: char| {
        if random.bool() {
            letter.to_ascii_uppercase()
        } else {
            letter
        }
    };
    name.chars().map(letter).collect()
}

#[tokio::test]
async fn each_name_gets_the_certificate_that_haproxy_gives_it() {
    let random = &mut Rng::with_seed(drawn());
    for _ in 0..cases(5, 100) {
        let ca = Ca::new();
        let mut names = NAMES.to_vec();
        random.shuffle(&mut names);
        names.truncate(random.usize(2..=NAMES.len()));
        let folder = tempfile::tempdir().unwrap();
        let (mut bind, mut list) = (String::new(), String::new());
        let mut number = 0;
        while !names.is_empty() {
            let rest = names.split_off(names.len().min(random.usize(1..4)));
            let own: Vec<_> = names.iter().map(|name| spelt(name, random)).collect();
            let own: Vec<_> = own.iter().map(|name| &**name).collect();
            let pair = ca.site(&own);
            pair.write(folder.path(), &format!("c{number}"));
            let both = folder.path().join(format!("both{number}.pem"));
            std::fs::write(&both, pair.cert + &pair.key).unwrap();
            write!(bind, " crt {}", both.display()).unwrap();
            let at = folder.path().join(format!("c{number}"));
            let at = at.display();
            write!(list, "{{ cert: {at}.pem, key: {at}.key }}, ").unwrap();
            number += 1;
            names = rest;
        }
        let port = free_port();
        let config = folder.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
             frontend web\n bind 127.0.0.1:{port} ssl{bind}\n http-request return status 200\n"
        );
        std::fs::write(&config, text).unwrap();
        let _haproxy = Command::new("/usr/sbin/haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("`make setup-tests` installs HAProxy");
        let haproxy = (Ipv4Addr::LOCALHOST, port).into();
        wait_for("HAProxy listens", Duration::from_secs(20), async || {
            TcpStream::connect(haproxy).await.ok()
        })
        .await;
        let gateway = Gateway::start(&format!(
            "listeners: [{{ address: '127.0.0.1:0', tls: {{ certificates: [{list}] }} }}]
routes: [{{ match: {{ path: /* }}, respond: here }}]"
        ))
        .await;
        let any = Arc::new(trusting());
        for name in ASKED.into_iter().chain(ASKED) {
            let name = spelt(name, random);
            let mut seen = Vec::new();
            for to in [haproxy, gateway.address()] {
                let open = Connection::open_tls(to, &name, &any).await.unwrap();
                seen.push(serial(&open));
            }
            assert_eq!(seen[0], seen[1], "{name}: {list}");
        }
    }
}
