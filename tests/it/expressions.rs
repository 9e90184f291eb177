//! Expressions with look-around over what clients send. Invariant: a request that a match could refuse
//! is refused, however long the text is, and no evaluation takes a worker for long.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{client::get, gateway::Gateway, origins::EchoOrigin};

/// Slow on a loaded machine as well; such a request took 0.3 to 1 s of a worker.
const MOST: Duration = Duration::from_millis(250);

#[tokio::test]
async fn a_refusal_stays_one_at_every_length() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, limits: {{ headers: 64KiB }} }}]
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
maps:
  bad: {{ from: '{{header.x-text}}', values: {{ '~(?=[a-z ]*evil)x': '1' }} }}
routes:
  - match: {{ path: /conditions }}
    upstream: app
    conditions: [{{ if: '{{header.x-text}}', is: '~(?=[a-z ]*evil)x', status: 403 }}]
  - match: {{ path: /allowed }}
    upstream: app
    conditions: [{{ if: '{{header.x-text}}', is: '~^(?:(?=[a-z ]*evil)[a-z])+$', not: true, status: 403 }}]
  - match: {{ path: /map }}
    upstream: app
    conditions: [{{ if: '{{map.bad}}', status: 403 }}]
  - match: {{ path: /rules }}
    upstream: app
    rules: [{{ if: '{{header.x-text}}', is: '~(?=[a-z ]*evil)x', status: 403 }}]
  - match: {{ path: /stop }}
    upstream: app
    rules: [{{ if: '{{header.x-text}}', is: '~^(?:(?=[a-z ]*evil)[a-z])+$', then: stop }}, {{ status: 403 }}]
  - match: {{ path: /open }}
    upstream: app
    rules: [{{ if: '{{header.x-text}}', is: '~^(?!.*evil)', then: stop }}]
",
        origin.address()
    ))
    .await;
    let mut random = fastrand::Rng::with_seed(14);
    let mut undecided = 0;
    for length in [10, 300, 1000, 5000, 19_000, 21_000, 32_000] {
        let length = length + random.usize(..50);
        for path in ["/conditions", "/allowed", "/map", "/rules", "/stop"] {
            // No letter before the one that matches at last leads to a match.
            let text = format!("{}x evil", "a".repeat(length));
            let before = Instant::now();
            let response = gateway.send(&get(path).header("x-text", text)).await;
            let status = response.status();
            assert!(matches!(status, 400 | 403), "{path} {length}: {response:?}");
            assert!(
                before.elapsed() < MOST,
                "{path} {length}: {:?}",
                before.elapsed()
            );
            undecided += usize::from(status == 400);
        }
        // The controls: what is decided, at any length.
        let text = "a".repeat(length);
        let open = gateway.send(&get("/open").header("x-text", text)).await;
        assert_eq!(open.status(), 200, "{length}");
    }
    assert!(undecided > 0);
    let short = gateway
        .send(&get("/conditions").header("x-text", "aaa"))
        .await;
    assert_eq!(short.status(), 200);
}
