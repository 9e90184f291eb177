//! Requests that the gateway responds to itself, from clients that still send. Invariant: the client
//! reads the response, whatever the size of its body, with HTTP/2 as with HTTP/1.1.

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
};

use super::{CLEARTEXT, MIB};
use crate::support::{
    client::{self, get},
    gateway::Gateway,
    http2::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, block, frame},
    origins::BigOrigin,
    seed,
    wait::pass,
};

const SIZES: [u64; 6] = [0, 1, 1024, 65_536, MIB, 5 * MIB];

/// Path, and the status of a POST there.
const REFUSALS: [(&str, &str); 8] = [
    ("denied", "403"),
    ("moved", "307"),
    ("read", "405"),
    ("limited", "429"),
    ("closed", "503"),
    ("away", "502"),
    ("none", "404"),
    ("fixed", "200"),
];
/// Path with a limit of 512 KiB.
const SHORT: (&str, u64) = ("short", MIB / 2);

async fn gateway(folder: &Path) -> (Gateway, impl Sized) {
    let origin = BigOrigin::start().await;
    let app = origin.address();
    let folder = folder.display();
    let yaml = format!(
        "
listeners:
- {{ address: '127.0.0.1:0', tls: {{ certificates: {{ cert: {folder}/a.pem, key: {folder}/a.key }} }} }}
- {{ address: '127.0.0.1:0', name: plain }}
rate_limits: {{ one: 1/h }}
defaults: {{ csrf: false }}
upstreams:
  app: {{ backends: ['{app}'], health: false }}
  away: {{ backends: ['127.0.0.1:9'], health: false, eject: {{ errors: 0 }} }}
routes:
- {{ match: {{ path: /denied }}, upstream: app, access: {{ deny: [127.0.0.1] }} }}
- {{ match: {{ path: /moved }}, redirect: /here }}
- {{ match: {{ path: /read }}, upstream: app, methods: [GET] }}
- {{ match: {{ path: /limited }}, upstream: app, rate_limit: one }}
- {{ match: {{ path: /closed }}, respond: 503 }}
- {{ match: {{ path: /away }}, upstream: away, body_limit: 16MiB }}
- {{ match: {{ path: /fixed }}, respond: fixed }}
- {{ match: {{ path: /short }}, upstream: app, body_limit: 512KiB }}
- {{ match: {{ path: /large }}, upstream: app, body_limit: 16MiB }}
"
    );
    let gateway = Gateway::start(&yaml).await;
    // The only request that the limit lets pass.
    let plain = gateway.listener("plain").parse().expect("an address");
    let first = client::send(plain, &get("/limited")).await;
    assert_eq!(first.expect("it responds").status(), 200);
    (gateway, origin)
}

/// Uploads a file several times with curl. Returns the outcomes other than `expected`.
async fn upload(
    gateway: &Gateway,
    (path, expected): (&str, &str),
    version: &str,
    (body, times): (&Path, u32),
) -> Vec<String> {
    let address = gateway.address();
    let target = format!(
        "https://app.test:{}/{path}?turn=[1-{times}]",
        address.port()
    );
    let output = Command::new("curl")
        .args(["-sSk", version, "-o", "/dev/null", "--max-time", "20"])
        .args(["--connect-to", &format!("::{address}")])
        .args(["-w", "%{http_code} %{exitcode}\n", "--data-binary"])
        .arg(format!("@{}", body.display()))
        .arg(target)
        .output()
        .await
        .expect("curl is installed");
    let lines = String::from_utf8(output.stdout).expect("curl writes text");
    let expected = format!("{expected} 0");
    let other = lines.lines().filter(|line| **line != *expected);
    let other: Vec<String> = other.map(ToOwned::to_owned).collect();
    assert_eq!(lines.lines().count(), times as usize, "{lines}");
    other
}

#[tokio::test]
async fn curl_reads_each_response_to_an_upload() {
    let times = std::env::var("EDGEWAY_UPLOADS").ok();
    let times = times.map_or(if seed::is_hunt() { 10 } else { 4 }, |times| {
        times.parse().unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("a.pem"), made.cert.pem()).unwrap();
    std::fs::write(
        folder.path().join("a.key"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let bodies = SIZES.map(|size| {
        let body = folder.path().join(size.to_string());
        std::fs::write(&body, vec![b'a'; usize::try_from(size).unwrap()]).unwrap();
        (size, body)
    });
    let mut unread = Vec::new();
    let (gateway, _origin) = gateway(folder.path()).await;
    for version in ["--http2", "--http1.1"] {
        for (size, body) in &bodies {
            let is_short = *size <= SHORT.1;
            let short = (SHORT.0, if is_short { "200" } else { "413" });
            // The control: a route that takes it all.
            let all = REFUSALS.into_iter().chain([short, ("large", "200")]);
            for case in all {
                // Actions come after the filters, and so after `body_limit`.
                let is_refused = *size > MIB && matches!(case.0, "moved" | "closed");
                let case = if is_refused { (case.0, "413") } else { case };
                if case.0 == "fixed" && *size > MIB {
                    // curl sends all of it, however long that takes.
                    continue;
                }
                let other = upload(&gateway, case, version, (body, times)).await;
                if !other.is_empty() {
                    let count = other.len();
                    let first = &other[0];
                    unread.push(format!(
                        "{count} of {times}: {case:?} {size} {version} {first}"
                    ));
                }
            }
        }
    }
    assert!(unread.is_empty(), "{unread:#?}");
}

/// Some clients take an end that comes while they send for a failure (undici), and some wait for it
/// before they go on (curl).
#[tokio::test]
async fn the_end_of_an_apps_early_response_waits_for_the_request_or_a_pause() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for pauses in [false, true] {
        // With no connection of the case before, which the app has closed.
        let gateway = super::gateway(CLEARTEXT, origin.local_addr().unwrap(), "").await;
        let mut frames = Frames::open(gateway.address()).await;
        let begin = frame(HEADERS, END_HEADERS, 1, &block("POST", "/upload"));
        let piece = frame(DATA, 0, 1, b"piece");
        frames
            .write(&[begin, piece.clone()].concat())
            .await
            .unwrap();
        let (mut app, _) = origin.accept().await.unwrap();
        app.read_u8().await.unwrap();
        let refused = b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nlong";
        app.write_all(refused).await.unwrap();
        let response = frames.until(HEADERS).await.expect("it responds early");
        assert_eq!(response.flags & END_STREAM, 0);
        let body = frames.until(DATA).await.expect("it has a body");
        assert_eq!(&body.payload[..], b"long");
        assert_eq!(body.flags & END_STREAM, 0, "it ends while the client sends");
        if !pauses {
            for _ in 0..4 {
                pass(Duration::from_millis(100)).await;
                frames.write(&piece).await.unwrap();
            }
            let last = frame(DATA, END_STREAM, 1, b"last");
            frames.write(&last).await.unwrap();
        }
        let end = frames.until(DATA).await.expect("it ends");
        assert_eq!((&end.payload[..], end.flags), (&b""[..], END_STREAM));
    }
}
