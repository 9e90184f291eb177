//! Users that pass by name and password, and data that backends must not get.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use edgeway_core::chain::testkit::{FilterCheck, check, refused};

use super::BasicAuth;

/// Returns the fastest hash possible: the tests are about everything else.
fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

fn known(rest: &str) -> FilterCheck {
    let (alice, bob) = (hash("wonderland"), hash("builder:é"));
    check::<BasicAuth>(&format!(
        "{{ users: {{ alice: '{alice}', bob: '{bob}' }}, {rest} }}"
    ))
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

#[track_caller]
fn status(authorization: &str) -> u16 {
    let headers = [("Authorization", authorization)];
    known("").send("GET", "/", &headers, &[]).last().status
}

#[test]
fn the_right_password_passes_and_no_other() {
    for (credentials, expected) in [
        ("alice:wonderland", 200),
        ("bob:builder:é", 200),
        ("alice:Wonderland", 401),
        ("alice:", 401),
        ("alice:builder:é", 401),
        ("Alice:wonderland", 401),
        ("carol:wonderland", 401),
        (":wonderland", 401),
        ("alice", 401),
        ("", 401),
    ] {
        assert_eq!(status(&basic(credentials)), expected, "{credentials}");
    }
    assert_eq!(
        status(&basic("alice:wonderland").replace("Basic", "BASIC")),
        200
    );
    for odd in ["Basic", "Basic ???", "Bearer abc", "x", ""] {
        assert_eq!(status(odd), 401, "{odd}");
    }
    assert_eq!(status(&basic(&format!("alice:{}", "x".repeat(2000)))), 401);
    let twice = basic("alice:wonderland");
    let twice = [("Authorization", &*twice), ("Authorization", &*twice)];
    known("").send("GET", "/", &twice, &[]).expect([401]);
}

#[test]
fn a_refusal_asks_for_a_password_and_names_the_reason() {
    let check = known("realm: 'Staff \"only\"'").get("/");
    let challenge = check.last().headers.get("www-authenticate").unwrap();
    assert_eq!(
        challenge,
        r#"Basic realm="Staff \"only\"", charset="UTF-8""#
    );
    assert_eq!(check.last().reason, Some("basic_auth_missing"));
    let wrong = basic("alice:x");
    let check = known("").send("GET", "/", &[("Authorization", &wrong)], &[]);
    assert_eq!(check.last().reason, Some("basic_auth_invalid"));
}

#[test]
fn the_backend_gets_the_name_and_neither_password_nor_the_clients_word() {
    let right = basic("alice:wonderland");
    let headers = [("Authorization", &*right), ("X-Remote-User", "root")];
    let seen = known("forward: X-Remote-User").send("GET", "/", &headers, &[]);
    let upstream = seen.last().upstream.as_ref().unwrap();
    assert_eq!(upstream.headers.get("x-remote-user").unwrap(), "alice");
    assert!(upstream.headers.get("authorization").is_none());
    let seen = known("strip: false").send("GET", "/", &headers, &[]);
    let upstream = seen.last().upstream.as_ref().unwrap();
    assert_eq!(upstream.headers.get("authorization").unwrap(), &right);
}

#[test]
fn a_user_of_one_list_is_unknown_to_another() {
    let right = basic("alice:wonderland");
    let headers = [("Authorization", &*right)];
    let first = known("")
        .send("GET", "/", &headers, &[])
        .send("GET", "/", &headers, &[]);
    first.expect([200, 200]);
    let other = check::<BasicAuth>(&format!("{{ users: {{ alice: '{}' }} }}", hash("other")));
    other.send("GET", "/", &headers, &[]).expect([401]);
}

#[test]
fn users_may_be_in_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!("# staff\n\nalice:{}\nbob:{}\n", hash("a"), hash("b"));
    std::fs::write(file.path(), text).unwrap();
    let yaml = format!("{{ file: '{}' }}", file.path().display());
    check::<BasicAuth>(&yaml)
        .send("GET", "/", &[("Authorization", &basic("bob:b"))], &[])
        .send("GET", "/", &[("Authorization", &basic("bob:a"))], &[])
        .expect([200, 401]);
}

#[test]
fn invalid_users_are_reported_with_a_remedy() {
    let hash = hash("x");
    for (yaml, expected) in [
        ("{}".to_owned(), "has no users"),
        (
            "{ users: { a: hunter2 } }".to_owned(),
            "the user `a`: invalid password hash",
        ),
        (
            format!("{{ users: {{ 'a:b': '{hash}' }} }}"),
            "invalid user name",
        ),
        ("{ file: nowhere }".to_owned(), "cannot read the users"),
        (
            format!("{{ forward: 'X User', users: {{ a: '{hash}' }} }}"),
            "invalid header name `X User`",
        ),
        (
            format!("{{ realm: \"a\\nb\", users: {{ a: '{hash}' }} }}"),
            "characters that are not allowed in a header",
        ),
    ] {
        let messages = refused::<BasicAuth>(&yaml);
        assert!(messages[0].contains(expected), "{yaml}: {messages:?}");
        assert!(!messages[0].contains("hunter2"), "{messages:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("a:{hash}\nb\na:{hash}\n")).unwrap();
    let messages = refused::<BasicAuth>(&format!("{{ file: '{}' }}", file.path().display()));
    assert!(messages[0].contains("line 2 of"), "{messages:?}");
    assert!(messages[1].contains("`a` is listed twice"), "{messages:?}");
}
