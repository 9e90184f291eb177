//! Plugins of the repository that use the client's identity, in front of an Express app; and the
//! schemas of all of them.
#![allow(
    clippy::panic,
    reason = "helpers of tests: what goes wrong here fails the test"
)]

use std::{fs, path::Path, time::Duration};

use boon::{Compiler, Schemas};
use edgeway_config::{diagnostic::Diagnostics, tree};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::{
    plugins::{names, of, route_of, with},
    support::{
        apps::ExpressApp,
        origins::{EchoOrigin, FixedOrigin, NumberedOrigin, echoed},
        wait::wait_for,
    },
};

const SOON: Duration = Duration::from_secs(10);

fn token(claims: &Value) -> String {
    // The key of the README.
    let key = EncodingKey::from_secret(b"thirty-two bytes that nobody else knows");
    let token = encode(&Header::default(), claims, &key).expect("it can sign");
    format!("Bearer {token}")
}

#[tokio::test]
async fn jwt_claims_forwards_the_claims_of_the_token() {
    let app = ExpressApp::start().await;
    let gateway = with("jwt-claims", app.address(), |yaml| yaml).await;
    let seen = async |token: Option<&str>| {
        let mut headers = vec![("x-user-id", "root"), ("x-roles", "admin")];
        headers.extend(token.map(|token| ("authorization", token)));
        of(&gateway, "/echo", &headers).await.json()["headers"].clone()
    };
    let claims = json!({ "sub": "ann", "realm_access": { "roles": ["editor", "a,b"] }, "exp": 4_000_000_000_u64 });
    let ann = seen(Some(&token(&claims))).await;
    assert_eq!(
        (&ann["x-user-id"], &ann["x-roles"]),
        (&json!("ann"), &json!("editor"))
    );
    // A client without a token, and one with an invalid token, are not `root`.
    for token in [None, Some("Bearer a.b.c")] {
        let nobody = seen(token).await;
        assert_eq!(
            (&nobody["x-user-id"], &nobody["x-roles"]),
            (&json!(null), &json!(null))
        );
    }
}

#[tokio::test]
async fn jwt_claims_requires_the_configured_claims() {
    let origin = NumberedOrigin::start().await;
    let gateway = with("jwt-claims", origin.address(), |yaml| {
        yaml.replace(
            "config:\n",
            "config:\n          require: { role: [reader, owner] }\n",
        )
    })
    .await;
    let claims = |role: &str| json!({ "sub": "ann", "role": role, "exp": 4_000_000_000_u64 });
    for (token, status) in [
        (token(&claims("owner")), 200),
        (token(&claims("guest")), 403),
        ("none".to_owned(), 401),
    ] {
        let response = of(&gateway, "/", &[("authorization", &token)]).await;
        assert_eq!(response.status(), status, "{token}");
    }
    assert_eq!(origin.settings().requests("/"), 1);
}

#[tokio::test]
async fn geo_header_forwards_the_location_of_the_visitor() {
    let app = ExpressApp::start().await;
    let gateway = with("geo-header", app.address(), |yaml| {
        format!("trusted_proxies: [127.0.0.1]\n{yaml}")
    })
    .await;
    let seen = async |client: &str| {
        let headers = [("x-forwarded-for", client), ("x-country", "US")];
        of(&gateway, "/echo", &headers).await.json()["headers"].clone()
    };
    let here = seen("127.0.0.5").await;
    assert_eq!(
        (&here["x-country"], &here["x-city"]),
        (&json!("DE"), &json!("Munich"))
    );
    assert_eq!(seen("192.0.2.1").await["x-country"], "XX");
    let front = of(&gateway, "/?a=b", &[]).await;
    assert_eq!(
        (front.status(), front.header("location")),
        (307, Some("/de/?a=b"))
    );
    let chosen = of(&gateway, "/", &[("cookie", "locale=en")]).await;
    assert_ne!(chosen.status(), 307);
}

#[tokio::test]
async fn geo_header_has_a_stored_response_for_each_country() {
    let origin = NumberedOrigin::start().await;
    let gateway = with("geo-header", origin.address(), |yaml| {
        let cached = "upstream: app\n    cache: { ttl: 1min }";
        format!(
            "trusted_proxies: [127.0.0.1]\n{}",
            yaml.replace("upstream: app", cached)
        )
    })
    .await;
    for (client, outcome) in [
        ("127.0.0.1", "MISS"),
        ("192.0.2.1", "MISS"),
        ("127.0.0.2", "HIT"),
        ("192.0.2.2", "HIT"),
    ] {
        let response = of(&gateway, "/a", &[("x-forwarded-for", client)]).await;
        assert_eq!(response.header("x-cache-status"), Some(outcome), "{client}");
    }
}

#[tokio::test]
async fn feature_flags_uses_the_last_valid_flags() {
    let app = ExpressApp::start().await;
    let flags = r#"{"new-search":true,"old":false,"beta":{"percent":100}}"#;
    let service = FixedOrigin::start(200, &[("content-type", "application/json")], flags).await;
    let gateway = with("feature-flags", app.address(), |yaml| {
        let own = format!("http://{}", service.address());
        yaml.replace("https://flags.example.com", &own)
            .replace("refresh: 30", "refresh: 0.05\n          retry: 0.05")
            // A debug build of the engine is slow.
            .replace(
                "kv: memory",
                "kv: memory\n        limits: { cpu: 50ms, wall: 1s }",
            )
    })
    .await;
    let reported = async || {
        let seen = of(&gateway, "/echo", &[("x-flags", "{}")]).await.json();
        let text = seen["headers"]["x-flags"]
            .as_str()
            .expect("it is there")
            .to_owned();
        serde_json::from_str::<Value>(&text).expect("it is JSON")
    };
    let first = of(&gateway, "/echo", &[]).await;
    assert!(
        first
            .header("set-cookie")
            .expect("for the share")
            .starts_with("visitor=")
    );
    let good = json!({ "beta": true, "new-search": true });
    assert_eq!(reported().await, good);
    // The service fails in several ways: it is still requested, and nothing changes.
    for (status, body) in [(500, "no"), (200, "<html>"), (200, "[1]")] {
        service.settings().set(status, &[], body);
        let before = service.counts().requests();
        wait_for("it is asked again", SOON, async || {
            assert_eq!(reported().await, good);
            (service.counts().requests() > before + 1).then_some(())
        })
        .await;
    }
    assert!(
        gateway.stderr().contains("the flags cannot be fetched"),
        "{}",
        gateway.stderr()
    );
    service.settings().set(200, &[], r#"{"new-search":false}"#);
    wait_for("the new list is there", SOON, async || {
        (reported().await == json!({})).then_some(())
    })
    .await;
}

#[tokio::test]
async fn feature_flags_works_without_its_service() {
    let origin = EchoOrigin::start().await;
    let gateway = with("feature-flags", origin.address(), |yaml| {
        // The port is closed.
        yaml.replace("https://flags.example.com", "http://127.0.0.1:1")
            .replace("new-search: false", "safe: true")
    })
    .await;
    let seen = of(&gateway, "/", &[]).await;
    assert_eq!(seen.status(), 200);
    assert_eq!(echoed(&seen.json(), "x-flags"), Some(r#"{"safe":true}"#));
}

fn schema(name: &str) -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{name}/config.schema.json"));
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("it is JSON")
}

/// Validates a configuration with the plugin's schema.
fn judge(name: &str, config: &Value) -> Result<(), String> {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler
        .add_resource("plugin.json", schema(name))
        .expect("it has a name");
    let index = compiler.compile("plugin.json", &mut schemas);
    let index = index.unwrap_or_else(|error| panic!("{name} has no schema: {error:#}"));
    schemas
        .validate(config, index)
        .map_err(|error| format!("{error:#}"))
}

/// Returns the configuration that a plugin's README shows.
fn shown(name: &str) -> Value {
    let mut diagnostics = Diagnostics::default();
    let value: Value = tree::parse(&route_of(name), 0, &mut diagnostics)
        .and_then(|node| tree::read(&node, &mut diagnostics))
        .unwrap_or_else(|| panic!("{diagnostics:#?}"));
    value["routes"][0]["plugins"][0]["config"].clone()
}

#[test]
fn each_has_a_schema_of_its_configuration() {
    for name in names() {
        let config = shown(&name);
        judge(&name, &config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut odd = config.clone();
        odd["colour"] = json!("red");
        assert!(judge(&name, &odd).is_err(), "{name} takes any key");
        // The README lists each key.
        let path = format!("{}/plugins/{name}/README.md", env!("CARGO_MANIFEST_DIR"));
        let readme = fs::read_to_string(path).expect("it is there");
        let schema = schema(&name);
        for (key, about) in schema["properties"].as_object().expect("it has keys") {
            assert!(readme.contains(&format!("`{key}`")), "{name}: {key}");
            assert!(about["description"].is_string(), "{name}: {key}");
            if let Some(default) = about.get("default")
                && schema["required"] == Value::Null
                && schema["anyOf"] == Value::Null
            {
                let alone = json!({ key: default });
                judge(&name, &alone).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
    for (name, wrong) in [
        ("ab-split", json!({ "variants": { "a": -1 } })),
        ("api-key", json!({ "keys": [{ "name": "acme" }] })),
        (
            "api-key",
            json!({ "keys": [{ "name": "acme", "hash": "ek_acme" }] }),
        ),
        ("bot-filter", json!({ "action": "kill" })),
        ("maintenance", json!({ "on": "yes" })),
        ("maintenance", json!({ "bypass": ["10.0.0.0/99"] })),
        ("maintenance", json!({ "bypass": ["office"] })),
        ("signed-url", json!({ "secrets": "one" })),
        ("signed-url", json!({ "secrets": ["short"] })),
        ("signed-url", json!({ "leeway": 1 })),
        ("jwt-claims", json!({ "headers": { "x user": "sub" } })),
        ("geo-header", json!({ "redirect": { "DE": "//evil.test" } })),
        ("feature-flags", json!({ "refresh": 1 })),
    ] {
        assert!(judge(name, &wrong).is_err(), "{name} takes {wrong}");
    }
}
