//! The cache in front of real Next.js apps: cases that break caches configured by the usual
//! recipes.
//!
//! A case is a sequence of requests with the expected responses. It must hold with the gateway, and
//! must not hold with the naive cache of its recipe. The numbers are those of the list that the
//! rules of `app: nextjs` were derived from.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::format_push_string,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "helpers of tests: what goes wrong here fails the test, and says so"
)]

mod cases;
mod changed;
mod deploys;
mod naive;
mod older;
mod rare;
mod revalidate;
mod visitors;

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    apps::{App, Kind, NextApp},
    client::{self, Request, Response, get},
    front::Front,
    gateway::Gateway,
    wait::wait_for,
};
use naive::{Naive, Recipe};

/// Outcome of a case; the error describes the difference.
type Outcome = Result<(), String>;

/// Starts a gateway with the cache on, and with the build's folder.
async fn front(app: &App) -> Gateway {
    front_with(app, &format!("folder: {}", folder(app.kind()))).await
}

/// Starts a gateway with an additional line for the upstream.
async fn front_with(app: &App, line: &str) -> Gateway {
    Front::to(app)
        .upstream(&format!("app: nextjs, {line}"))
        .route("cache: {}")
        .start()
        .await
}

fn folder(kind: Kind) -> String {
    kind.build().display().to_string()
}

/// Checks that the case holds with the gateway, and not with a cache of this recipe.
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

/// Fails the case unless `is_so` holds.
fn demand(is_so: bool, otherwise: impl Into<String>) -> Outcome {
    if is_so { Ok(()) } else { Err(otherwise.into()) }
}

/// Checks the status and the kind of body of a response.
fn is_a(response: &Response, status: u16, kind: &str) -> Outcome {
    let has = response.header("content-type").unwrap_or_default();
    demand(
        response.status() == status && has.starts_with(kind),
        format!(
            "{} {has} in the place of {status} {kind}",
            response.status()
        ),
    )
}

fn has(response: &Response, text: &str) -> Outcome {
    let body = response.text();
    demand(body.contains(text), format!("no `{text}` in {body}"))
}

/// Returns the cache status of a response.
fn status_of(response: &Response) -> &str {
    response.header("x-cache-status").unwrap_or("none")
}

/// Returns the number after `made:`.
fn made_at(response: &Response) -> u64 {
    let text = response.text();
    let (_, rest) = text
        .split_once("made:")
        .expect("the page says when it was made");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("milliseconds")
}

/// Waits until the app's pages for these requests are not stale: it was built long ago.
async fn warm(app: &App, requests: &[Request]) {
    for request in requests {
        wait_for(
            "the app's page is fresh",
            Duration::from_secs(10),
            async || {
                let response = app.send(request).await;
                (response.header("x-nextjs-cache") != Some("STALE")).then_some(())
            },
        )
        .await;
    }
}

fn router(target: &str) -> Request {
    get(target).header("rsc", "1")
}
