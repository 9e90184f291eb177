//! Keys that the command line created, sent to a running gateway.

use crate::{
    cli::edgeway_fed,
    support::{
        client::get,
        front::Front,
        gateway::Gateway,
        origins::{EchoOrigin, echoed},
    },
};

#[tokio::test]
async fn a_generated_key_authenticates_and_is_stored_nowhere() {
    let made = edgeway_fed(&["hash", "api-key", "acme"], "");
    assert_eq!(made.status, 0, "{}", made.stderr);
    let key = made.stderr.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(key.starts_with("ek_"), "{}", made.stderr);
    let again = edgeway_fed(&["hash", "api-key", "--stdin", "acme"], &key);
    assert_eq!(again.stdout, made.stdout);

    let origin = EchoOrigin::start().await;
    let yaml = Front::to(&origin)
        .route("api_key: { file: partners.keys, forward: X-Partner }")
        .yaml();
    let gateway = Gateway::start_in(&yaml, |folder| {
        std::fs::write(folder.join("partners.keys"), &made.stdout).unwrap();
    })
    .await;
    let nobody = gateway.send(&get("/a").header("X-Partner", "acme")).await;
    assert_eq!(nobody.status(), 401);
    assert!(nobody.header("www-authenticate").is_some());
    let wrong = get("/b").header("X-API-Key", format!("{key}x"));
    assert_eq!(gateway.send(&wrong).await.status(), 401);
    let right = get("/c")
        .header("X-API-Key", &*key)
        .header("X-Partner", "root");
    let right = gateway.send(&right).await;
    assert_eq!(right.status(), 200);
    let seen = right.json();
    assert_eq!(echoed(&seen, "x-partner"), Some("acme"));
    assert_eq!(echoed(&seen, "x-api-key"), None);

    let lines = gateway.log_lines(3).await;
    // Each request came on its own connection, so their lines may be in any order.
    let mut entries: Vec<_> = lines
        .iter()
        .map(|line| {
            let user = line["user"].as_str();
            (line["path"].as_str(), line["reason"].as_str(), user)
        })
        .collect();
    entries.sort_unstable();
    assert_eq!(
        entries,
        [
            (Some("/a"), Some("api_key_missing"), None),
            (Some("/b"), Some("api_key_invalid"), None),
            (Some("/c"), None, Some("acme")),
        ]
    );
    let passed = "edgeway_auth_total{filter=\"api_key\",outcome=\"passed\",route=\"/*\"}";
    gateway.counts(passed, 1).await;
    let everything = format!("{lines:?}{}{}", gateway.stderr(), gateway.status().await);
    assert!(!everything.contains(&key), "{everything}");
}

/// The user is known only behind the login, and so is what a table makes of it.
#[tokio::test]
async fn a_limit_by_the_user_counts_each_user() {
    let made = ["ann", "bob"].map(|name| edgeway_fed(&["hash", "api-key", name], ""));
    let keys = made
        .each_ref()
        .map(|made| made.stderr.trim().rsplit(' ').next().unwrap().to_owned());
    let yaml = "
maps: { plan: { from: '{user}', values: { ann: slow } } }
rate_limits:
  user: { rate: 2/d, by: '{user}' }
  plan: { rate: 2/d, by: '{map.plan}' }
defaults: { api_key: { file: partners.keys } }
routes:
  - { match: { path: /user }, respond: ok, rate_limit: user }
  - { match: { path: /plan }, respond: ok, rate_limit: plan }
";
    let gateway = Gateway::start_in(yaml, |folder| {
        let lines = made.iter().map(|made| &*made.stdout).collect::<String>();
        std::fs::write(folder.join("partners.keys"), lines).unwrap();
    })
    .await;
    for (path, passed) in [("/user", [2, 2]), ("/plan", [2, 4])] {
        for (key, passed) in keys.iter().zip(passed) {
            for number in 0..4 {
                let request = get(path).header("X-API-Key", &**key);
                let expected = if number < passed { 200 } else { 429 };
                assert_eq!(
                    gateway.send(&request).await.status(),
                    expected,
                    "{path} {number}"
                );
            }
        }
    }
}
