//! The cache in front of real Next.js apps: what breaks caches that follow the usual recipes,
//! one after the other.
//!
//! A case is a conversation and what must come of it. It holds with the gateway, and must
//! not hold with the naive cache that it is about. The numbers are those of the list that
//! the rules of `app: nextjs` were made from.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::format_push_string,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

mod cases;
mod deploys;
mod naive;
mod older;
mod revalidate;

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    apps::{App, Kind, NextApp},
    client::{self, Request, Response, get},
    gateway::Gateway,
    wait::wait_for,
};
use naive::{Naive, Recipe};

/// What a case came to; an error says what was wrong.
type Outcome = Result<(), String>;

/// With the cache on, and the build's folder at hand.
async fn front(app: &App) -> Gateway {
    front_with(app, &format!("folder: {}", folder(app.kind()))).await
}

/// With a line of one's own for the upstream.
async fn front_with(app: &App, line: &str) -> Gateway {
    Gateway::start(&format!(
        "
upstreams:
  web:
    app: nextjs
    {line}
    backends: [\"{}\"]
routes:
  - match: {{ path: /* }}
    upstream: web
    cache: {{}}
",
        app.address()
    ))
    .await
}

fn folder(kind: Kind) -> String {
    kind.build().display().to_string()
}

/// The case holds with the gateway, and does not with a cache after this recipe.
async fn shows(app: &App, recipe: Recipe, case: impl AsyncFn(SocketAddr) -> Outcome) {
    let gateway = front(app).await;
    if let Err(wrong) = case(gateway.address()).await {
        panic!("{wrong}");
    }
    let naive = Naive::start(recipe, app.address()).await;
    let outcome = case(naive.address()).await;
    assert!(outcome.is_err(), "the control breaks nothing");
}

async fn shows_of_16(recipe: Recipe, case: impl AsyncFn(SocketAddr) -> Outcome) {
    shows(NextApp::shared().await, recipe, case).await;
}

async fn ask(to: SocketAddr, request: &Request) -> Result<Response, String> {
    let sent = client::send(to, request).await;
    sent.map_err(|error| format!("{request:?}: {error}"))
}

/// Fails the case, unless.
fn demand(is_so: bool, otherwise: impl Into<String>) -> Outcome {
    if is_so { Ok(()) } else { Err(otherwise.into()) }
}

/// The answer has this status and this kind of body.
fn is_a(answer: &Response, status: u16, kind: &str) -> Outcome {
    let has = answer.header("content-type").unwrap_or_default();
    demand(
        answer.status() == status && has.starts_with(kind),
        format!("{} {has} in the place of {status} {kind}", answer.status()),
    )
}

fn has(answer: &Response, text: &str) -> Outcome {
    let body = answer.text();
    demand(body.contains(text), format!("no `{text}` in {body}"))
}

/// How the cache took part.
fn status_of(answer: &Response) -> &str {
    answer.header("x-cache-status").unwrap_or("none")
}

/// The number after `made:`.
fn made_at(answer: &Response) -> u64 {
    let text = answer.text();
    let (_, rest) = text
        .split_once("made:")
        .expect("the page says when it was made");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("milliseconds")
}

/// Waits until the app has pages of these targets that are not stale: it was built long ago.
async fn warm(app: &App, requests: &[Request]) {
    for request in requests {
        wait_for(
            "the app's page is fresh",
            Duration::from_secs(10),
            async || {
                let answer = app.send(request).await;
                (answer.header("x-nextjs-cache") != Some("STALE")).then_some(())
            },
        )
        .await;
    }
}

fn router(target: &str) -> Request {
    get(target).header("rsc", "1")
}
