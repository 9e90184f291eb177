//! Clients that read slowly, or not at all, or leave: what that is to those who read the same
//! response, and to those who wait for a backend.

use std::time::Duration;

use crate::support::{client::get, gateway::Gateway, origins::BigOrigin, wait::wait_for};

const SOON: Duration = Duration::from_secs(15);
/// Too large to be stored.
const TOO_LARGE: usize = 20_000_000;

#[tokio::test]
async fn who_leaves_a_response_that_is_not_kept_gives_its_place_back() {
    const PLACES: usize = 4;
    let origin = BigOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "
upstreams:
  app: {{ backends: ['{}'], health: false, max_in_flight: {{ per_backend: {PLACES}, queue: 4, wait: 200ms }} }}
routes: [{{ match: {{ path: '/*' }}, upstream: app, cache: {{ ttl: 1h, force: true }} }}]
",
        origin.address()
    ))
    .await;
    for client in 0..PLACES {
        let mut leaving = gateway.connect().await;
        let request = get(&format!("/?bytes={TOO_LARGE}&client={client}"));
        leaving.start(&request).await.expect("it answers");
        leaving.piece().await.expect("it goes on");
        drop(leaving.leave("leaving is what is tested"));
    }
    wait_for("a place is free again", SOON, async || {
        let page = gateway.get("/?bytes=10").await;
        (page.status() == 200).then_some(())
    })
    .await;
    let mut left = 0;
    for line in gateway.log_lines(2).await {
        if line["query"]
            .as_str()
            .is_some_and(|query| query.contains("client="))
        {
            left += 1;
            assert_eq!(line["reason"], "client_gone", "{line:#}");
            assert_eq!(line["status"], 200, "{line:#}");
        }
    }
    assert!(left >= 1, "who left is logged");
}
