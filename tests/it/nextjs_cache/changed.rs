//! A server action that revalidates: the client that called it gets no older page afterwards, also
//! without the package of the cache.

use std::time::{Duration, UNIX_EPOCH};

use edgeway_base::clock::Clock;
use fastrand::Rng;

use super::{front, made_at, router, status_of};
use crate::support::{
    apps::NextApp,
    client::{Request, Response, get, post},
    gateway::Gateway,
    seed,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

fn now() -> u64 {
    let since = Clock::machine().wall().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("it is after 1970").as_millis()).expect("not so late")
}

/// Requests a page until it is in the cache.
async fn fill(gateway: &Gateway, request: &Request) {
    wait_for("the page is in the cache", SOON, async || {
        let response = gateway.send(request).await;
        (status_of(&response) == "HIT").then_some(())
    })
    .await;
}

/// Calls the server action for a path as the router of Next.js does.
async fn change(gateway: &Gateway, path: &str) -> Response {
    let page = gateway.get("/change").await.text();
    let (_, rest) = page.split_once("$ACTION_ID_").expect("the form has an id");
    let id: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    let request = post("/change", format!("[\"{path}\"]"))
        .header("next-action", &*id)
        .header("accept", "text/x-component")
        .header("content-type", "text/plain;charset=UTF-8");
    let response = gateway.send(&request).await;
    assert_eq!(response.status(), 200, "{}", response.text());
    response
}

/// Invariant: after the response to an action with `x-action-revalidated`, that client gets no page
/// from before, whatever the order of its requests and those of others.
#[tokio::test]
async fn a_client_gets_no_older_page_after_its_action() {
    // An instance of its own: the page is revalidated.
    let app = NextApp::start_with(&[]).await;
    let gateway = front(&app).await;
    let mut random = Rng::with_seed(seed::drawn());
    let reads = [get("/isr"), router("/isr?_rsc")];
    for _ in 0..seed::cases(3, 60) {
        for read in &reads {
            fill(&gateway, read).await;
        }
        let called = now();
        let response = change(&gateway, "/isr").await;
        assert!(response.header("x-action-revalidated").is_some());
        let cookie = response.headers.get_all("set-cookie");
        let cookie = cookie.filter_map(|cookie| cookie.split(';').next());
        let cookie = cookie
            .last()
            .expect("the client is told the time")
            .to_owned();
        let mut has_read = false;
        for turn in 0..8 {
            let read = &reads[random.usize(..reads.len())];
            let is_changer = turn == 7 || random.bool();
            let response = if is_changer {
                gateway.send(&read.clone().header("cookie", &*cookie)).await
            } else {
                gateway.send(read).await
            };
            let made = made_at(&response);
            if is_changer {
                assert!(
                    made > called,
                    "{turn}: {} {made} {called}",
                    status_of(&response)
                );
                has_read = true;
            } else if turn == 0 {
                // The control: others still get what is stored.
                assert!(made <= called, "{}", status_of(&response));
            }
        }
        assert!(has_read);
        // Once for all: what was validated is stored.
        for read in &reads {
            gateway.send(&read.clone().header("cookie", &*cookie)).await;
            let again = gateway.send(&read.clone().header("cookie", &*cookie)).await;
            assert_eq!(status_of(&again), "HIT");
        }
    }
}
