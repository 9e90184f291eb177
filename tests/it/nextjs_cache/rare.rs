//! Pages that are asked for less often than they live: each visitor finds what the visit before had
//! rendered, as with Next.js alone, and from the second one on in the store.

use std::time::Duration;

use tokio::time::Instant;

use super::{front, made_at, router, status_of};
use crate::support::{
    apps::{App, NextApp},
    client::{Request, get},
    front::Front,
    gateway::Gateway,
    wait::turn_of,
};

/// Lifetime of `/isr-quick`.
const LIFETIME: Duration = Duration::from_secs(2);
/// Time between visits: longer than the lifetime.
const PACE: Duration = LIFETIME.saturating_add(Duration::from_secs(1));
/// Number of times that visitors find a newer page.
const RENEWALS: usize = 3;
const MOST_VISITS: usize = 30;

/// Starts a gateway with a window that no visit misses, however busy the machine is.
async fn front_with_window(app: &App) -> Gateway {
    Front::to(app)
        .upstream("app: nextjs, guarded: []")
        .route("cache: { stale_while_revalidate: 60s }")
        .start()
        .await
}

/// Waits until the app's own copy of the page is past its lifetime.
async fn expire(app: &App, page: &Request) {
    app.send(page).await;
    turn_of(Instant::now() + PACE).await;
}

#[tokio::test]
async fn a_page_asked_for_less_often_than_it_lives_is_stored() {
    for page in [get("/isr-quick"), router("/isr-quick?_rsc")] {
        let app = NextApp::start().await;
        let gateway = front_with_window(&app).await;
        expire(&app, &page).await;
        let begin = Instant::now();
        let mut seen = Vec::new();
        // On a busy machine a page may be rendered too late for the next visit.
        for visit in 0.. {
            turn_of(begin + PACE * visit).await;
            let response = gateway.send(&page).await;
            seen.push((made_at(&response), status_of(&response).to_owned()));
            assert!(seen.len() < MOST_VISITS, "{seen:?}");
            let (misses, stored) = seen.split_at(seen.partition_point(|it| it.1 == "MISS"));
            let is_found = |status: &str| ["HIT", "STALE"].contains(&status);
            assert!(stored.iter().all(|it| is_found(&it.1)), "{seen:?}");
            assert!(
                !misses.is_empty() && seen.is_sorted_by_key(|it| it.0),
                "{seen:?}"
            );
            let mut renewed: Vec<_> = stored.iter().map(|it| it.0).collect();
            renewed.dedup();
            if renewed.len() > RENEWALS {
                break;
            }
        }
    }
}

/// The command of the guide, twice: MISS, then HIT.
#[tokio::test]
async fn the_second_look_at_a_page_that_was_stale_is_a_hit() {
    let app = NextApp::start().await;
    let gateway = front(&app).await;
    // `/isr` lives for a minute, and was built before.
    let first = gateway.get("/isr").await;
    assert_eq!(status_of(&first), "MISS");
    let second =
        crate::support::wait::wait_for("the page is stored", Duration::from_secs(5), async || {
            let response = gateway.get("/isr").await;
            (status_of(&response) == "HIT").then_some(response)
        })
        .await;
    assert!(made_at(&second) >= made_at(&first));
}
