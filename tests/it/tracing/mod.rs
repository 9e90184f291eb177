//! Traces: `traceparent` in and out, the spans that a third-party collector gets over gRPC and HTTP,
//! which requests are sampled, and collectors that fail.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

mod collector;
mod export;
mod propagation;
mod sampling;
mod spans;

use std::net::SocketAddr;

use serde_json::Value;

use self::collector::Collector;
use crate::support::{client::Response, gateway::Gateway};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const PARENT_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT_SPAN: &str = "00f067aa0ba902b7";

/// Returns a configuration that traces with these keys and forwards everything to `backend`.
fn forwarding(tracing: &str, backend: SocketAddr, more: &str) -> String {
    format!(
        "
tracing: {{ {tracing} }}
{more}
upstreams: {{ app: {{ backends: [\"{backend}\"], health: false, eject: {{ errors: 0 }} }} }}
routes:
  - match: {{ path: /fixed }}
    respond: fixed
  - match: {{ path: /* }}
    upstream: app
"
    )
}

async fn front(tracing: &str, backend: SocketAddr) -> Gateway {
    Gateway::start(&forwarding(tracing, backend, "")).await
}

/// Returns the value of a header that an echoing app got.
fn got(response: &Response, name: &str) -> Option<String> {
    let seen = response.json();
    if let Some(headers) = seen["headers"].as_object() {
        return headers.get(name)?.as_str().map(str::to_owned);
    }
    let pairs = seen["headers"].as_array()?;
    let named = |pair: &&Value| {
        pair[0]
            .as_str()
            .is_some_and(|n| n.eq_ignore_ascii_case(name))
    };
    let mut found = pairs.iter().filter(named);
    let value = found.next()?[1].as_str().map(str::to_owned);
    assert!(found.next().is_none(), "`{name}` stands there twice");
    value
}

/// Returns the parts of a `traceparent`: trace, span, flags.
fn parts(parent: &str) -> [&str; 3] {
    let parts: Vec<_> = parent.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{parent}");
    [parts[1], parts[2], parts[3]]
}

fn of_kind(spans: &[Value], kind: u64) -> Vec<&Value> {
    spans.iter().filter(|span| span["kind"] == kind).collect()
}

fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let found = spans.iter().find(|span| span["name"] == name);
    found.unwrap_or_else(|| panic!("no span `{name}`: {spans:#?}"))
}

/// Starts a collector, and a gateway in front of `backend` that samples every request.
async fn traced(backend: SocketAddr, more: &str) -> (Collector, Gateway) {
    let collector = Collector::start().await;
    let keys = format!("{}, sample: 100%", collector.grpc());
    let gateway = Gateway::start(&forwarding(&keys, backend, more)).await;
    (collector, gateway)
}
