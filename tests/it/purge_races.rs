//! Fills race purges over two gateways, as in the drill `purge-races`, for a shorter time.

use futures_util::future::join;

use crate::support::{races::Course, seed};

#[tokio::test]
async fn no_gateway_that_a_receipt_names_serves_responses_older_than_the_purge() {
    let course = Course::start(40, "{ shared: redis }").await;
    let rounds = if seed::is_hunt() { 1000 } else { 160 };
    let outcome = course.race(rounds, true).await;
    assert_eq!(outcome.older, Vec::<String>::new());
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert!(
        outcome.rounds == rounds && outcome.named >= 2 * rounds,
        "{outcome:?}"
    );
    assert!(outcome.filled > 40, "{outcome:?}");
}

#[tokio::test]
async fn nothing_older_than_the_loss_of_the_link_is_fresh_three_seconds_after_it() {
    let lose = async |config: &str| Course::start(8, config).await.lose(1).await;
    let revalidate = lose("{ on_purge_link_lost: revalidate }");
    // The control: a gateway that continues to serve serves older responses.
    let serve = lose("{ on_purge_link_lost: serve }");
    let (validating, serving) = join(revalidate, serve).await;
    assert_eq!(validating.overdue, Vec::<String>::new());
    assert!(
        validating.reads > 0 && validating.early > 0,
        "{validating:?}"
    );
    assert!(!serving.overdue.is_empty(), "{serving:?}");
}
