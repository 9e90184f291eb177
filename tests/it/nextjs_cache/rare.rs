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
/// Time between visits: longer than the lifetime, shorter than it with the window for stale use.
const PACE: Duration = Duration::from_secs(3);
const VISITS: u32 = 5;

/// Starts a gateway whose window is as long as the page lives, as it is for one of a minute.
async fn front_with_window(app: &App) -> Gateway {
    let window = LIFETIME.as_secs();
    Front::to(app)
        .upstream("app: nextjs, guarded: []")
        .route(&format!("cache: {{ stale_while_revalidate: {window}s }}"))
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
        let (mut seen, mut made) = (Vec::new(), Vec::new());
        for visit in 0..VISITS {
            turn_of(begin + PACE * visit).await;
            let response = gateway.send(&page).await;
            seen.push(status_of(&response).to_owned());
            made.push(made_at(&response));
        }
        assert_eq!(seen[0], "MISS", "{seen:?}");
        for status in &seen[1..] {
            assert!(["HIT", "STALE"].contains(&&**status), "{seen:?}");
        }
        assert!(made.is_sorted_by(|one, next| one < next), "{made:?}");
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
