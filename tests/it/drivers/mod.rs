//! A request has the same outcome on each side: this build with its own driver, this build with
//! Pingora's proxy (`driver: pingora`), and in a hunt another build.
//!
//! Gateways with the same configuration get the same random requests, and their origins give the
//! same random responses, whole and broken. What the client gets, what the origin sees and what the
//! access log says must not differ.
#![allow(
    clippy::format_push_string,
    reason = "tests: what goes wrong here fails them, and says so"
)]

mod cached;
mod differences;
mod draw;
mod http2;
mod life;
mod message;
mod origin;
mod secure;
mod side;
mod streams;
mod tunnels;
mod uploads;

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use self::{
    draw::Drawn,
    message::Message,
    origin::Backend,
    secure::Secure,
    side::{Comparison, Outcome},
};
use crate::support::seed;

/// Time for one exchange, far more than any takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of exchanges in a hunt, and in every other run; `EDGEWAY_DRIVERS=SEED:EXCHANGES` changes
/// seed and number.
const EXCHANGES: [usize; 2] = [1000, 120];

/// Protocol of the client.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Http1,
    Http10,
    Http2,
}

impl Way {
    fn version(self) -> &'static str {
        if self == Self::Http10 { "1.0" } else { "1.1" }
    }

    /// Leaves of the messages what must be the same. A reset discards what the client has not read
    /// yet: on HTTP/1.0, where it stands for an end that would look like that of the body, it may be
    /// all.
    fn settle(self, messages: &mut Vec<Message>) {
        match self {
            Self::Http1 => {}
            Self::Http10 => messages.retain(|message| message.is_complete),
            Self::Http2 => {
                for message in messages.iter_mut().filter(|message| !message.is_complete) {
                    message.content.clear();
                }
            }
        }
    }

    /// Returns what comes back, and a connection that must stay open until the request is over.
    async fn received(
        self,
        gateway: SocketAddr,
        drawn: &Drawn,
    ) -> (Vec<Message>, Option<TcpStream>) {
        match self {
            Self::Http1 | Self::Http10 => message::received(gateway, drawn).await,
            Self::Http2 => (http2::received(gateway, drawn).await, None),
        }
    }
}

/// Returns the configuration of a gateway; `options` are those of its upstream.
fn yaml(origin: SocketAddr, options: &str) -> String {
    format!(
        "
listeners: [{{ address: '127.0.0.1:0', name: web, http2: {{ cleartext: true }} }}]
upstreams:
  app: {{ backends: ['{origin}'], health: false, retry: {{ attempts: 1 }}, {options} }}
routes:
  - {{ name: small, match: {{ path: '/small/*' }}, upstream: app, body_limit: 100 }}
  - name: changed
    match: {{ path: '/changed/*' }}
    upstream: app
    rewrite: {{ prefix: /changed, with: /new }}
    headers:
      request: {{ set: {{ X-Set: '{{client.ip}}' }}, remove: [Cookie] }}
      response: {{ set: {{ X-Added: 'yes' }}, remove: [X-Powered-By] }}
  - {{ name: zipped, match: {{ path: '/zipped/*' }}, upstream: app, compression: {{ min_size: 1 }} }}
  - name: read
    match: {{ path: '/read/*' }}
    upstream: app
    plugins: [{{ file: read.js, body: {{}}, limits: {{ cpu: 1s, wall: 20s }}, on_error: continue }}]
  - {{ name: all, match: {{ path: '/*' }}, upstream: app }}
"
    )
}

/// Returns the seed and the number of exchanges of this run.
#[expect(clippy::print_stdout, reason = "a failure is repeated with its seed")]
fn plan() -> (u64, usize) {
    let plan = std::env::var("EDGEWAY_DRIVERS").ok();
    let plan = plan.as_deref().and_then(|plan| plan.split_once(':'));
    let (seed, count) = match plan {
        Some((seed, count)) => (
            seed.parse().expect("a seed is a number"),
            count.parse().expect("a count is a number"),
        ),
        None => (seed::drawn(), seed::cases(EXCHANGES[1], EXCHANGES[0])),
    };
    println!("EDGEWAY_DRIVERS={seed}:{count}");
    (seed, count)
}

/// Takes out what time decides.
fn settle(way: Way, _: &Drawn, outcome: &mut Outcome) {
    let is_inexact = |it: &Message| it.is_compressed() || !it.is_complete;
    let is_inexact = outcome.to_client.iter().any(is_inexact);
    way.settle(&mut outcome.to_client);
    // Whether a connection that breaks was used before, and is replaced, differs. Then interim
    // responses come again.
    outcome.to_origin.truncate(1);
    if outcome
        .logged
        .iter()
        .any(|line| line["reason"] == "upstream_reset")
    {
        outcome.to_client.dedup();
    }
    for line in &mut outcome.logged {
        let is_cut = !line["reason"].is_null() && line["upstream_status"] == line["status"];
        if is_inexact || is_cut {
            line.remove("bytes_out");
        }
        // Of a body that is refused, the rest is read after the line is written: more or less of it
        // has come until then.
        if line["status"].as_u64() >= Some(400) {
            line.remove("bytes_in");
        }
        // A connection that breaks when it is used again is replaced, and which one it is differs.
        if line["reason"] == "upstream_reset" {
            line.remove("attempts");
        }
    }
}

/// Draws cases, and compares all sides. Returns the outcomes of ours, and the number of cases.
async fn compared(
    comparison: Comparison<'_>,
    draw: impl Fn(&mut fastrand::Rng, usize, Way, Backend<'_>) -> Drawn,
) -> (Vec<Outcome>, usize) {
    let (seed, count) = plan();
    let mut dice = fastrand::Rng::with_seed(seed);
    let Comparison { way, backend, .. } = comparison;
    let cases: Vec<_> = (0..count)
        .map(|number| draw(&mut dice, number, way, backend))
        .collect();
    let seed = format!("EDGEWAY_DRIVERS={seed}:{count}");
    (comparison.run(&seed, &cases).await, count)
}

async fn all_sides_agree(way: Way, backend: Backend<'_>) {
    let comparison = Comparison {
        way,
        backend,
        yaml,
        settle,
    };
    let (ours, count) = compared(comparison, draw::exchange).await;
    let served = ours.iter().filter(|outcome| !outcome.to_origin.is_empty());
    assert!(served.count() > count / 2);
}

#[tokio::test]
async fn all_sides_serve_http1_alike() {
    all_sides_agree(Way::Http1, Backend::Plain).await;
}

#[tokio::test]
async fn all_sides_serve_http10_alike() {
    all_sides_agree(Way::Http10, Backend::Plain).await;
}

#[tokio::test]
async fn all_sides_serve_http2_alike() {
    all_sides_agree(Way::Http2, Backend::Plain).await;
}

#[tokio::test]
async fn all_sides_serve_http1_from_tls_alike() {
    all_sides_agree(Way::Http1, Backend::Secure(&Secure::new())).await;
}

#[tokio::test]
async fn all_sides_serve_http10_from_tls_alike() {
    all_sides_agree(Way::Http10, Backend::Secure(&Secure::new())).await;
}

#[tokio::test]
async fn all_sides_serve_http2_from_tls_alike() {
    all_sides_agree(Way::Http2, Backend::Secure(&Secure::new())).await;
}

#[tokio::test]
async fn all_sides_serve_http1_from_http2_alike() {
    all_sides_agree(Way::Http1, Backend::Http2).await;
}

#[tokio::test]
async fn all_sides_serve_http10_from_http2_alike() {
    all_sides_agree(Way::Http10, Backend::Http2).await;
}

#[tokio::test]
async fn all_sides_serve_http2_from_http2_alike() {
    all_sides_agree(Way::Http2, Backend::Http2).await;
}
