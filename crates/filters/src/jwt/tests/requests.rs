//! Locations of tokens, required claims, and the headers that backends and clients get.

use std::sync::Arc;

use edgeway_core::chain::{
    Credential, CredentialPlace, Exchange, Filter as _, RequestFacts,
    testkit::{FilterCheck, TestResponse},
};
use serde_json::{Value, json};

use super::{SECRET, Tokens, by_secret, claims, config, counted, guard, with};

fn given<'a>(response: &'a TestResponse, name: &str) -> Vec<&'a str> {
    let head = response.upstream.as_ref().expect("it went on");
    head.headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

fn verdict(check: FilterCheck, claims: &Value) -> FilterCheck {
    check.bearer(&by_secret(&with(claims)))
}

#[test]
fn a_known_client_without_a_required_claim_is_forbidden() {
    let check = guard(", require: { role: [admin, owner], email_verified: true }");
    let good = json!({ "email_verified": true });
    let check = verdict(check, &good).expect([200]);
    let check = check.get("/").expect_refused(401, "jwt_missing");
    for bad in [
        json!({ "role": "user", "email_verified": true }),
        json!({ "role": "adm", "email_verified": true }),
        json!({ "role": null, "email_verified": true }),
        json!({ "role": ["user"], "email_verified": true }),
        json!({ "email_verified": "true" }),
        json!({}),
    ] {
        let check = verdict(
            guard(", require: { role: [admin, owner], email_verified: true }"),
            &bad,
        );
        let challenge = check.last().headers["www-authenticate"].to_str().unwrap();
        assert_eq!(
            challenge,
            "Bearer realm=\"restricted\", error=\"insufficient_scope\""
        );
        let _ = check.expect_refused(403, "jwt_claims");
    }
    assert_eq!(counted(&check.metrics, "passed"), 1);
    let inner = ", require: { realm_access.roles: admin, n: 7, scope: read }";
    let claims =
        json!({ "realm_access": { "roles": ["user", "admin"] }, "n": 7.0, "scope": "write read" });
    let _ = verdict(guard(inner), &claims).expect([200]);
}

/// Invariant: a number that is required admits no other number, however near.
#[test]
fn numbers_are_compared_exactly() {
    let verdict = |check: FilterCheck, claims: &Value| check.bearer(&by_secret(&with(claims)));
    for wanted in [9_007_199_254_740_993, 1_098_765_432_109_876_543_u64] {
        for (other, passes) in [(0, true), (1, false), (43, false)] {
            let check = guard(&format!(", require: {{ tenant: {wanted} }}"));
            let status = if passes { 200 } else { 403 };
            let _ = verdict(check, &json!({ "tenant": wanted - other })).expect([status]);
        }
        let rounded: f64 = wanted.to_string().parse().unwrap();
        let rounded = json!({ "tenant": rounded });
        let check = guard(&format!(", require: {{ tenant: {wanted} }}"));
        let _ = verdict(check, &rounded).expect([403]);
    }
}

#[test]
fn a_refusal_names_the_remedy() {
    let check = guard(", realm: 'the shop'").get("/");
    assert_eq!(
        check.last().headers["www-authenticate"],
        "Bearer realm=\"the shop\""
    );
    let check = check.expect_refused(401, "jwt_missing").bearer("x");
    assert_eq!(
        check.last().headers["www-authenticate"],
        "Bearer realm=\"the shop\", error=\"invalid_token\", \
         error_description=\"the token is malformed\""
    );
    assert_eq!(counted(&check.metrics, "missing"), 1);
    assert_eq!(counted(&check.metrics, "invalid"), 1);
    // A request with another scheme has no token.
    let _ = check
        .expect([401])
        .send("GET", "/", &[("authorization", "Basic dTpw")], &[])
        .expect_refused(401, "jwt_missing")
        .send("GET", "/", &[("authorization", "Bearer")], &[])
        .expect_refused(401, "jwt_missing");
}

#[test]
fn the_first_place_that_has_a_token_counts() {
    let token = by_secret(&claims());
    let yaml = ", token: [{ header: Authorization }, 'header:X-Token', { cookie: sid }, 'query:t']";
    let value = format!("bEaReR  {token}");
    let cookie = format!("a=1; sid={token}");
    let check = guard(yaml)
        .send("GET", "/", &[("authorization", &value)], &[])
        .send("GET", "/", &[("x-token", &token)], &[])
        .send("GET", "/", &[("cookie", "b=2"), ("cookie", &cookie)], &[])
        .get(&format!("/?x=1&%74={}", token.replace('.', "%2E")))
        .expect([200, 200, 200, 200])
        .send(
            "GET",
            "/",
            &[("authorization", "Bearer x"), ("cookie", &cookie)],
            &[],
        )
        .expect_refused(401, "jwt_malformed");
    // Two tokens: the right one is unclear.
    let _ = check
        .send("GET", "/", &[("x-token", &token), ("x-token", &token)], &[])
        .expect_refused(401, "jwt_malformed")
        .get(&format!("/?t={token}&t=x"))
        .expect_refused(401, "jwt_malformed")
        .send("GET", "/", &[("cookie", "sid=; other=1")], &[])
        .expect_refused(401, "jwt_missing");
}

#[test]
fn claims_become_headers_that_no_client_can_send() {
    let forward = "forward: { sub: X-User-Id, role: X-Role, roles: X-Roles, n: X-N, o: X-O }";
    let forged = [
        ("X-User-Id", "root"),
        ("x_user_id", "root"),
        ("X-Role", "root"),
        ("X-ROLES", "root"),
        ("x-n", "root"),
        ("X-O", "root"),
        ("X-Other", "kept"),
    ];
    let send = |check: FilterCheck, token: Option<&str>| {
        let value = format!("Bearer {}", token.unwrap_or_default());
        let mut headers = forged.to_vec();
        if token.is_some() {
            headers.push(("authorization", &value));
        }
        check.send("GET", "/", &headers, &[])
    };
    let token = by_secret(&with(&json!({
        "roles": ["a", "b c"], "n": 7, "role": "line\nbreak", "o": { "a": 1 },
    })));
    let check = send(guard(&format!(", {forward}")), Some(&token));
    let response = check.last();
    assert_eq!(given(response, "x-user-id"), ["u1"]);
    assert_eq!(given(response, "x-roles"), ["a,b c"]);
    assert_eq!(given(response, "x-n"), ["7"]);
    for absent in ["x_user_id", "x-role", "x-o"] {
        assert_eq!(given(response, absent), [""; 0], "{absent}");
    }
    assert_eq!(given(response, "x-other"), ["kept"]);
    // A list whose items are ambiguous in a header is left out.
    let sly = by_secret(&with(&json!({ "roles": ["user,admin"] })));
    let check = send(check, Some(&sly));
    assert_eq!(given(check.last(), "x-roles"), [""; 0]);
    // A client without an identity cannot send them either.
    for token in [None, Some("x")] {
        let check = send(guard(&format!(", optional: true, {forward}")), token);
        for name in ["x-user-id", "x_user_id", "x-role", "x-roles", "x-n", "x-o"] {
            assert_eq!(given(check.last(), name), [""; 0], "{name}");
        }
        assert_eq!(given(check.last(), "x-other"), ["kept"]);
    }
}

#[test]
fn optional_lets_all_pass_and_distinguishes_them() {
    let (good, bad) = (by_secret(&claims()), "x.y.z");
    let check = guard(", optional: true, forward: { sub: X-User-Id }")
        .get("/")
        .bearer(bad)
        .bearer(&good);
    assert_eq!(given(check.last(), "x-user-id"), ["u1"]);
    let check = check.expect([200, 200, 200]);
    for outcome in ["passed", "missing", "invalid"] {
        assert_eq!(counted(&check.metrics, outcome), 1, "{outcome}");
    }
    // A valid token must have the required claims.
    let _ = guard(", optional: true, require: { role: owner }")
        .bearer(&good)
        .expect_refused(403, "jwt_claims");
}

#[test]
fn the_token_is_forwarded_or_removed_as_configured() {
    let token = by_secret(&claims());
    let value = format!("Bearer {token}");
    let cookie = format!("a=1; sid={token}; b=2");
    let places = "token: [{ header: Authorization }, { cookie: sid }, { query: t }]";
    let send = |strip: &str| {
        let headers = [("authorization", value.as_str()), ("cookie", &cookie)];
        guard(&format!(", {places}{strip}")).send("GET", "/", &headers, &[])
    };
    for strip in ["", ", strip: false"] {
        let check = send(strip);
        assert_eq!(given(check.last(), "authorization"), [value.as_str()]);
        assert_eq!(given(check.last(), "cookie"), [cookie.as_str()]);
    }
    let check = send(", strip: true");
    assert_eq!(given(check.last(), "authorization"), [""; 0]);
    assert_eq!(given(check.last(), "cookie"), ["a=1; b=2"]);
    // Credentials that are not a token for this filter stay.
    let headers = [("authorization", "Basic dTpw"), ("cookie", cookie.as_str())];
    let check = guard(&format!(", {places}, strip: true")).send("GET", "/", &headers, &[]);
    assert_eq!(given(check.last(), "authorization"), ["Basic dTpw"]);
}

#[test]
fn explain_names_where_the_token_is_expected() {
    let filter = config::compiled(&format!(
        "{{ keys: \"{SECRET}\", require: {{ role: [a, b] }}, token: [header:Authorization, query:t] }}"
    ));
    let request = pingora::http::RequestHeader::build("GET", b"/", None).unwrap();
    let mut facts = RequestFacts::new(edgeway_base::clock::Clock::test().now());
    let lines = filter.explain(&Exchange {
        head: &request,
        facts: &mut facts,
    });
    assert_eq!(
        lines,
        [
            "a token in the header `authorization` or the query parameter `t`, signed by HS256",
            "its `role` is or contains \"a\" or \"b\"",
        ]
    );
    let stripped = Credential {
        place: CredentialPlace::Query("t".into()),
        is_stripped: true,
    };
    let credentials = Arc::new(filter).traits().credentials;
    assert_eq!(credentials.last(), Some(&stripped));
}
