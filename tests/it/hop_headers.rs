//! Hop-by-hop response headers end at the gateway (RFC 9110, 7.6.1), over any protocol and from any
//! store.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{front::Front, http2, origins::ScriptedOrigin};

/// Names that are always removed.
const HOP: [&str; 6] = [
    "Keep-Alive: timeout=5",
    "Upgrade: h2c",
    "Proxy-Connection: keep-alive",
    "Proxy-Authenticate: Basic",
    "Proxy-Authentication-Info: a=b",
    "TE: trailers",
];
const NAMES: [&str; 4] = ["X-Mine", "X-Other", "X-Third", "X-Fourth"];
const PATHS: usize = 24;

/// Whatever hop-by-hop headers a response has: clients get none of them over HTTP/1 and HTTP/2,
/// from the backend and from the cache, and they get all end-to-end headers.
#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one exchange, from what is drawn to what came of it"
)]
async fn hop_by_hop_fields_are_not_forwarded() {
    let seed = crate::support::seed::drawn();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut responses = Vec::new();
    let mut nominated = Vec::new();
    for case in 0..PATHS {
        let mut lines: Vec<String> = HOP
            .iter()
            .filter(|_| random.bool())
            .map(|line| (*line).to_owned())
            .collect();
        lines.extend(NAMES.map(|name| format!("{name}: 1")));
        let named: Vec<&str> = NAMES.into_iter().filter(|_| random.bool()).collect();
        for name in &named {
            let name = if random.bool() {
                name.to_lowercase()
            } else {
                (*name).to_owned()
            };
            let beside = random
                .choice([
                    "",
                    ", close",
                    ", Cache-Control",
                    ",,upgrade",
                    ", content-length",
                ])
                .expect("some");
            lines.push(format!("Connection: {name}{beside}"));
        }
        lines.push(format!(
            "Cache-Control: max-age={}",
            if case % 2 == 0 { 60 } else { 0 }
        ));
        lines.push("Content-Length: 2".to_owned());
        random.shuffle(&mut lines);
        let early = if random.bool() {
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hint\r\nKeep-Alive: 1\r\nX-Hint: 1\r\nSet-Cookie: hint=1\r\nServer: hint\r\n\r\n"
        } else {
            ""
        };
        responses.push((
            format!("/{case}"),
            format!("{early}HTTP/1.1 200 OK\r\n{}\r\n\r\nok", lines.join("\r\n")),
        ));
        nominated.push(named);
    }
    let script: Vec<(&str, &str)> = responses
        .iter()
        .map(|(path, response)| (&**path, &**response))
        .collect();
    let origin = ScriptedOrigin::start(&script).await;
    let gateway = Front::to(&origin).http2().route("cache: {}").start().await;
    let client = http2::Client::open(gateway.address()).await;
    for turn in 0..2 {
        for (case, named) in nominated.iter().enumerate() {
            let path = format!("/{case}");
            let context = format!("seed {seed}, {path}, turn {turn}: {:?}", responses[case].1);
            // A hand-written request: informational responses before the final one are checked,
            // too.
            let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
            let asked = format!("GET {path} HTTP/1.1\r\nhost: app.test\r\n\r\n");
            stream.write_all(asked.as_bytes()).await.unwrap();
            let mut raw = Vec::new();
            while !raw.ends_with(b"\r\n\r\nok") {
                let count = stream.read_buf(&mut raw).await.unwrap();
                assert!(count > 0, "{context}");
            }
            let raw = String::from_utf8_lossy(&raw).to_lowercase();
            let over_2 = client.get(&path).await;
            let over_1 = |name: &str| raw.contains(&format!("\r\n{name}:"));
            for line in HOP {
                let name = line.split(':').next().unwrap_or_default().to_lowercase();
                assert!(!over_1(&name), "{context}: {raw}");
                assert_eq!(over_2.header(&name), None, "{context}");
            }
            assert!(!over_1("x-hint"), "{context}: {raw}");
            // What filters of responses may remove is in none that they do not see.
            assert!(
                !raw.contains("hint=1") && !raw.contains(": hint\r"),
                "{context}: {raw}"
            );
            // Headers that filters add belong to the final response, not to informational ones.
            let (_, last) = raw.rsplit_once("http/1.1 200").expect("it came");
            let added = "\r\nx-content-type-options: nosniff\r\n";
            assert!(last.contains(added), "{context}: {raw}");
            assert_eq!(raw.matches(added).count(), 1, "{context}: {raw}");
            for name in NAMES {
                let is_forwarded = !named.contains(&name);
                let name = name.to_lowercase();
                assert_eq!(over_1(&name), is_forwarded, "{context}: {raw}");
                assert_eq!(over_2.header(&name).is_some(), is_forwarded, "{context}");
            }
            assert!(
                over_1("cache-control") && over_2.header("cache-control").is_some(),
                "{context}"
            );
            assert!(
                raw.contains("\r\nconnection: keep-alive\r\n"),
                "{context}: {raw}"
            );
            assert_eq!(over_2.text(), "ok");
            let is_hit = over_2.header("x-cache-status") == Some("HIT");
            assert_eq!(is_hit, case % 2 == 0, "{context}");
        }
    }
}
