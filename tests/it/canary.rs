//! Trials of new releases: `edgeway deploy --canary`.
//!
//! Invariant: a release that fails more often than the current one gets no visitors after the
//! verdict, one as good gets all of them, and the visitors of a trial keep their release.

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::Value;
use tokio::time::timeout;

use crate::support::{
    client::{self, get},
    fleet::{Ran, begin, edgeway},
    gateway::Gateway,
    load::endless_paced,
    releases::{Behaviour, Site, tried_app},
    wait::wait_for,
};

const LONG: Duration = Duration::from_secs(30);

/// Starts a gateway with `one` as the current release; `canary` is the section.
async fn site(canary: &str) -> Site {
    let more = format!("      start: [node, server.js]\n      canary: {canary}");
    let site = Site::start_app("/health", &more).await;
    let one = failing(0.005);
    site.run(&["deploy", "web", text(one.path()), "--name", "one"])
        .await;
    site
}

/// Makes a release whose requests fail with this probability.
fn failing(errors: f64) -> tempfile::TempDir {
    tried_app(Behaviour {
        errors,
        ..Behaviour::default()
    })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

async fn try_out(gateway: &Gateway, folder: &Path, share: &str) -> Ran {
    let deploy = ["deploy", "web", text(folder), "--name", "two"];
    edgeway(gateway, &[&deploy[..], &["--canary", share]].concat()).await
}

async fn upstream(gateway: &Gateway) -> Value {
    gateway.status().await["upstreams"][0].clone()
}

/// Returns the release that responds to a visitor with this name.
async fn release_for(gateway: &Gateway, visitor: &str) -> String {
    let request = get("/").header("user-agent", visitor);
    let response = gateway.send(&request).await;
    let release = response.header("x-release");
    release.expect("the app names it").to_owned()
}

async fn begun(gateway: &Gateway) {
    wait_for("the trial has begun", LONG, async || {
        upstream(gateway).await["canary"].is_object().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_release_with_errors_is_rolled_back() {
    let site = site("{ steps: [20%, 50%], step: 1min, requests: 10000, by: request }").await;
    let gateway = &site.gateway;
    let two = failing(0.2);
    let load = endless_paced(gateway.address(), 100, |_| get("/"));
    let ran = try_out(gateway, two.path(), "20%").await;
    let tally = load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("release `two` was rolled back for its errors"),
        "{}",
        ran.stderr
    );
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    let verdict = upstream(gateway).await["canary_verdict"].clone();
    assert_eq!(verdict["outcome"], "rolled_back", "{verdict}");
    assert_eq!(verdict["reason"], "errors", "{verdict}");
    assert!(
        verdict["new"]["error_percent"].as_f64() > verdict["current"]["error_percent"].as_f64()
    );

    for number in 0..50 {
        assert_eq!(
            release_for(gateway, &format!("visitor {number}")).await,
            "one"
        );
    }
    let series = r#"edgeway_canary_verdicts_total{upstream="web",verdict="rolled_back"}"#;
    assert_eq!(gateway.count(series).await, 1);
    let status = site.run(&["status"]).await;
    assert!(status.contains("release `two` was rolled back"), "{status}");
    assert_eq!(site.state("one").await, "current");
    // It lingers for those who have its pages, and goes then.
    wait_for("the verdict is recorded", LONG, async || {
        let releases = site.releases().await;
        let tried = releases.iter().find(|listed| listed["name"] == "two")?;
        (tried["state"] == "lingers" && tried["until"].is_u64()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_release_whose_responses_break_off_is_rolled_back() {
    let site = site("{ steps: [20%, 50%], step: 1min, requests: 10000, by: request }").await;
    let gateway = &site.gateway;
    let two = tried_app(Behaviour {
        cuts: 0.2,
        ..Behaviour::default()
    });
    let load = endless_paced(gateway.address(), 100, |_| get("/"));
    let ran = try_out(gateway, two.path(), "20%").await;
    let tally = load.stop().await;
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("for its errors"), "{}", ran.stderr);
    assert!(tally.truncated >= 3, "{tally:?}");
}

/// The judge rolls it back for its latency: see the tests of the crate.
#[tokio::test]
async fn clients_that_leave_a_release_that_hangs_count_for_its_latency() {
    let site = site("{ steps: [50%], step: 1h, by: request }").await;
    let gateway = &site.gateway;
    let two = tried_app(Behaviour {
        delay: LONG,
        ..Behaviour::default()
    });
    let deploy = ["deploy", "web", text(two.path()), "--name", "two"];
    let deploy = begin(gateway, &[&deploy[..], &["--canary", "50%"]].concat());
    begun(gateway).await;
    let canary = wait_for("clients have left it", LONG, async || {
        let request = get("/");
        let sent = client::send(gateway.address(), &request);
        // The connection is closed with the request.
        drop(timeout(Duration::from_millis(700), sent).await);
        let canary = upstream(gateway).await["canary"].clone();
        (canary["new"]["p95_ms"].as_f64()? > 500.0).then_some(canary)
    })
    .await;
    assert_eq!(canary["new"]["requests"], 0, "{canary}");
    assert_eq!(canary["new"]["failed"], 0, "{canary}");
    site.run(&["rollback", "web"]).await;
    assert_eq!(deploy.end().await.status, Some(1));
}

#[tokio::test]
async fn a_release_as_good_as_the_current_one_gets_all_visitors() {
    let site = site("{ steps: [20%, 50%], step: 2s, requests: 50, by: request }").await;
    let gateway = &site.gateway;
    let two = failing(0.005);
    let load = endless_paced(gateway.address(), 100, |_| get("/"));
    let ran = try_out(gateway, two.path(), "20%").await;
    let tally = load.stop().await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    for message in [
        "release `two` gets 20% of the visitors",
        "release `two` gets 50 % of the visitors, step 2 of 2",
        "release `two` is the current one now",
    ] {
        let output = format!("{}{}", ran.stdout, ran.stderr);
        assert!(output.contains(message), "{message}: {output}");
    }
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    assert_eq!(release_for(gateway, "anyone").await, "two");
    assert_eq!(site.state("two").await, "current");
    wait_for("the replaced release is recorded", LONG, async || {
        let releases = site.releases().await;
        let before = releases.iter().find(|listed| listed["name"] == "one")?;
        (before["state"] == "lingers" && before["until"].is_u64()).then_some(())
    })
    .await;
    // There is a way back.
    site.run(&["rollback", "web"]).await;
    assert_eq!(release_for(gateway, "anyone").await, "one");
}

/// Also: the trial survives an upgrade of the gateway, and an operator ends it.
#[tokio::test]
async fn visitors_keep_their_release_until_an_operator_ends_the_trial() {
    let mut site = site("{ steps: [30%, 60%], step: 1h }").await;
    let two = failing(0.0);
    let arguments = ["deploy", "web", text(two.path()), "--name", "two"];
    let arguments = [&arguments[..], &["--canary", "30%"]].concat();
    let deploy = begin(&site.gateway, &arguments);
    begun(&site.gateway).await;

    let visitors: Vec<String> = (0..200).map(|number| format!("visitor {number}")).collect();
    let tried = async |gateway: &Gateway| {
        let mut tried = BTreeSet::new();
        for visitor in &visitors {
            if release_for(gateway, visitor).await == "two" {
                tried.insert(visitor.clone());
            }
        }
        tried
    };
    let first = tried(&site.gateway).await;
    // 60 of 200 on average; five standard deviations are 32.
    assert!((28..=92).contains(&first.len()), "{}", first.len());
    assert_eq!(tried(&site.gateway).await, first);
    site.gateway.upgrade().await;
    assert_eq!(tried(&site.gateway).await, first, "after the upgrade");

    let gateway = &site.gateway;
    let visitor = first.first().expect("there are some");
    let header = format!("User-Agent: {visitor}");
    let explained = site
        .run(&["explain", "--live", "-H", &header, "GET", "/"])
        .await;
    assert!(explained.contains("two (on trial)"), "{explained}");
    let listed = site.run(&["deploys", "web"]).await;
    assert!(
        listed.contains("canary with 30 % of the visitors"),
        "{listed}"
    );
    let refused = try_out(gateway, two.path(), "5%").await;
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.stderr.contains("edgeway rollback web"),
        "{}",
        refused.stderr
    );

    site.run(&["rollback", "web"]).await;
    assert!(tried(gateway).await.is_empty());
    let ended = deploy.end().await;
    assert_eq!(ended.status, Some(1));
    assert!(
        ended
            .stderr
            .contains("is no longer on trial, by an operator"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_first_release_has_nothing_to_be_compared_with() {
    let more = "      start: [node, server.js]";
    let site = Site::start_app("/health", more).await;
    let two = failing(0.0);
    let ran = try_out(&site.gateway, two.path(), "5%").await;
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("no current release"), "{}", ran.stderr);
    let ran = try_out(&site.gateway, two.path(), "100%").await;
    assert!(ran.stderr.contains("between 0% and 100%"), "{}", ran.stderr);
}

/// A proxy in front is the only client: the current release gets none of its requests.
#[tokio::test]
async fn a_release_that_fails_with_nothing_beside_it_is_rolled_back() {
    let site = site("{ steps: [99%], step: 2s, requests: 50 }").await;
    let gateway = &site.gateway;
    let two = failing(1.0);
    let load = endless_paced(gateway.address(), 50, |_| {
        get("/").header("user-agent", "proxy")
    });
    let ran = try_out(gateway, two.path(), "99%").await;
    load.stop().await;
    let verdict = upstream(gateway).await["canary_verdict"].clone();
    assert_eq!(verdict["outcome"], "rolled_back", "{verdict}");
    assert_eq!(verdict["reason"], "errors", "{verdict}");
    assert_eq!(verdict["current"]["requests"], 0, "{verdict}");
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert_eq!(release_for(gateway, "proxy").await, "one");
}

#[tokio::test]
async fn a_release_without_requests_stays_on_trial() {
    let site = site("{ steps: [50%], step: 1s, requests: 0 }").await;
    let two = failing(0.0);
    let arguments = ["deploy", "web", text(two.path()), "--name", "two"];
    let deploy = begin(
        &site.gateway,
        &[&arguments[..], &["--canary", "50%"]].concat(),
    );
    begun(&site.gateway).await;
    let canary = wait_for("the step is over", LONG, async || {
        let status = upstream(&site.gateway).await;
        let canary = &status["canary"];
        assert!(canary.is_object(), "{status}");
        (canary["step_seconds"].as_u64()? >= 3).then(|| canary.clone())
    })
    .await;
    assert_eq!(canary["waits_for"], "requests", "{canary}");
    site.run(&["rollback", "web"]).await;
    assert_eq!(deploy.end().await.status, Some(1));
}

/// The process that ends releases has not seen the promotion then: it looks every five seconds.
#[tokio::test]
async fn commands_know_of_a_promotion_at_once() {
    let site = site("{ steps: [50%], step: 1s, requests: 20, by: request }").await;
    let gateway = &site.gateway;
    let (two, three) = (failing(0.0), failing(0.0));
    site.run(&["deploy", "web", text(two.path()), "--name", "two"])
        .await;
    let load = endless_paced(gateway.address(), 100, |_| get("/"));
    let deploy = ["deploy", "web", text(three.path()), "--name", "three"];
    site.run(&[&deploy[..], &["--canary", "50%"]].concat())
        .await;
    let names = |releases: &[Value]| -> Vec<String> {
        let names = releases.iter().filter_map(|listed| listed["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let releases = site.releases().await;
    assert_eq!(names(&releases), ["three", "two", "one"], "{releases:?}");
    assert!(releases[1]["until"].is_u64(), "{releases:?}");
    site.run(&["rollback", "web"]).await;
    load.stop().await;
    assert_eq!(release_for(gateway, "anyone").await, "two");
    assert_eq!(site.state("two").await, "current");
    let releases = site.releases().await;
    assert_eq!(names(&releases), ["two", "three", "one"], "{releases:?}");
    // And back to where it was, which is the one before now.
    site.run(&["rollback", "web"]).await;
    assert_eq!(release_for(gateway, "anyone").await, "three");
}
