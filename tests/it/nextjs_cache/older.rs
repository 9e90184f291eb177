//! Cases 7 and 25, on older versions.

use super::{Outcome, Recipe, ask, demand, front, has, router, shows, status_of, warm};
use crate::support::{
    apps::{App, OldNextApp},
    client::get,
    scope,
};

/// With this header, these two versions skip their middleware (CVE-2025-29927).
const SUBREQUEST: &str = "middleware:middleware:middleware:middleware:middleware";

async fn the_old_hole_is_closed(app: &App) {
    let forged = get("/secret").header("x-middleware-subrequest", SUBREQUEST);
    // The control: the app by itself.
    has(&app.send(&forged).await, "for the invited only").unwrap();
    shows(app, Recipe::Everything, async |to| -> Outcome {
        let response = ask(to, &forged).await?;
        demand(response.status() == 307, "the middleware was skipped")?;
        demand(
            ask(to, &get("/secret")).await?.status() == 307,
            "open to all",
        )
    })
    .await;
}

async fn a_routers_redirect_is_no_browsers(app: &App) {
    shows(app, Recipe::Everything, async |to| -> Outcome {
        ask(to, &get("/secret").header("x-nextjs-data", "1")).await?;
        let browser = ask(to, &get("/secret")).await?;
        demand(
            browser.header("location").is_some(),
            "a redirect to nowhere",
        )
    })
    .await;
}

/// Checks that ISR pages and payloads are stored: without `_rsc`, and with a
/// `stale-while-revalidate` without a number.
async fn pages_are_stored(app: &App) {
    let gateway = front(app).await;
    let requests = [get("/isr"), router("/isr"), router("/isr?_rsc=abc")];
    warm(app, &requests).await;
    for request in requests {
        let first = gateway.send(&request).await;
        let second = gateway.send(&request).await;
        assert_eq!(status_of(&second), "HIT", "{request:?}");
        assert_eq!(second.header("content-type"), first.header("content-type"));
        assert_eq!(second.body, first.body);
    }
    assert!(gateway.get("/isr").await.text().starts_with("<!DOCTYPE"));
}

#[tokio::test]
async fn next_15_2() {
    if !scope::is_all() {
        return scope::leave_out("Next.js 15.2 is part of `make test-all`");
    }
    let app = OldNextApp::start_15().await;
    the_old_hole_is_closed(&app).await;
    a_routers_redirect_is_no_browsers(&app).await;
    pages_are_stored(&app).await;
}

#[tokio::test]
async fn next_14_2() {
    if !scope::is_all() {
        return scope::leave_out("Next.js 14.2 is part of `make test-all`");
    }
    let app = OldNextApp::start_14().await;
    the_old_hole_is_closed(&app).await;
    a_routers_redirect_is_no_browsers(&app).await;
    pages_are_stored(&app).await;
}
