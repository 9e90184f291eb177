//! Configurations that are refused, and their messages.

use edgeway_base::{clock::Clock, metrics::Metrics};
use edgeway_config::{
    diagnostic::{Diagnostics, Place},
    tree,
};
use edgeway_core::{
    chain::{BackgroundWork, CompileContext, FilterKind as _, Shared, testkit::refused},
    zones::Zones,
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::{Files, RSA, SECRET, Signer};
use crate::jwt::{Jwt, config::JwtConfig};

/// Compiles the filter.
pub(super) fn compiled(yaml: &str) -> Jwt {
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).unwrap();
    let config = tree::read(&node, &mut diagnostics).unwrap();
    let filter = Jwt::compile(
        config,
        &mut CompileContext {
            place: Place::default(),
            route: "test",
            folder: std::path::Path::new("."),
            upstreams: &[],
            secret_names: &[],
            clock: &Clock::test(),
            metrics: &Metrics::default(),
            zones: &Zones::default(),
            shared: &Shared::default(),
            work: &mut BackgroundWork::default(),
            referenced: &mut edgeway_config::source::ReferencedFiles::default(),
            diagnostics: &mut diagnostics,
        },
    );
    filter.unwrap_or_else(|| panic!("{diagnostics:#?}"))
}

fn printed(yaml: &str) -> String {
    let node = tree::parse(yaml, 0, &mut Diagnostics::default()).unwrap();
    let config: JwtConfig = tree::read(&node, &mut Diagnostics::default()).unwrap();
    let mut printed = serde_json::to_value(&config).unwrap();
    remove_unset(&mut printed);
    printed.to_string()
}

/// Removes unset values, as the printer of the whole configuration does.
fn remove_unset(value: &mut serde_json::Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(remove_unset);
    }
    if let Some(list) = value.as_array_mut() {
        list.iter_mut().for_each(remove_unset);
    }
}

#[track_caller]
fn check_messages(yaml: &str, words: &[&str]) {
    let messages = refused::<Jwt>(yaml).join("\n");
    for word in words {
        assert!(messages.contains(word), "{yaml}: {messages}");
    }
    assert!(!messages.contains(SECRET), "{messages}");
}

#[test]
fn mistakes_are_refused_with_a_remedy() {
    let with = |more: &str| format!("{{ keys: \"{SECRET}\", {more} }}");
    check_messages(
        "{}",
        &["`jwt` has neither `keys` nor `jwks`", "keys: file:"],
    );
    check_messages(
        "{ keys: short }",
        &["the secret has 5 bytes", "openssl rand -hex 32"],
    );
    check_messages(
        "{ keys: 'file:/nowhere' }",
        &["cannot read the key in `/nowhere`"],
    );
    check_messages(
        &with("jwks: 'https://a.test/k'"),
        &["both `keys` and `jwks`", "remove one"],
    );
    check_messages(&with("algorithms: [none]"), &["none"]);
    check_messages(
        &with("algorithms: [RS256]"),
        &["no key fits `RS256`", "a secret", "HS256"],
    );
    check_messages(&with("leeway: 6s"), &["longer than 5s", "NTP"]);
    check_messages(&with("max_ttl: 0s"), &["no token is valid", "90s"]);
    check_messages(
        &with("max_ttl: 90s, require_exp: false"),
        &["needs tokens that expire"],
    );
    check_messages(
        &with("token: nowhere"),
        &["invalid token source", "query:NAME"],
    );
    check_messages(&with("token: { cookie: 'a=b' }"), &["invalid cookie name"]);
    check_messages(
        &with("token: { header: Host }"),
        &["reserved header name `Host`"],
    );
    check_messages(
        &with("token: { cookie: a, query: b }"),
        &["one of `header`, `cookie` and `query`", "list"],
    );
    check_messages(
        &with("token: {}"),
        &["one of `header`, `cookie` and `query`"],
    );
    check_messages(&with("forward: { sub: Host }"), &["reserved header name"]);
    check_messages(&with("forward: { sub: X_User }"), &["underscore"]);
    check_messages(
        &with("forward: { sub: X-A, role: x-a }"),
        &["two claims are forwarded"],
    );
    check_messages(&with("realm: 'a\"b'"), &["invalid realm"]);
    check_messages(&with("require: { role: [] }"), &["empty"]);
}

#[test]
fn invalid_or_misplaced_keys_are_reported() {
    let files = Files::new();
    let check = |text: &str, words: &[&str]| {
        let file = files.put("key", text);
        check_messages(&format!("{{ keys: '{file}' }}"), words);
    };
    check(RSA, &["private key", "openssl pkey"]);
    check(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPXsmqSm0X",
        &["OpenSSH", "ssh-keygen -e"],
    );
    let pem = Signer::new(&PKCS_ECDSA_P256_SHA256).pair.public_key_pem();
    let bare: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    check(&bare, &["without its first and last line"]);
    check(
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        &["invalid public key"],
    );
    check(
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        &["not a public key"],
    );
    check("{ \"keys\": [] }", &["no key in the JWK set"]);
    check("{ \"keys\": 1 }", &["invalid JWK set"]);
    check("{", &["invalid JSON"]);
    let many = serde_json::json!({ "keys": vec![serde_json::json!({}); 65] });
    check(&many.to_string(), &["more than 64 keys"]);
    // A key that no algorithm uses is a mistake.
    let file = files.put("ec", &pem);
    check_messages(
        &format!("{{ keys: ['{file}', \"{SECRET}\"], algorithms: [ES256] }}"),
        &["a secret is listed", "HS256"],
    );
    let weak = rsa_of(1024);
    check(&weak, &["the RSA key has 1024 bits", "2048"]);
}

/// Returns a public key of this many bits, which has no private key.
fn rsa_of(bits: usize) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut modulus = vec![0xff; bits / 8];
    modulus[0] = 0xc1;
    let der = |tag: u8, body: &[u8]| {
        let mut out = vec![tag, 0x82];
        out.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        out.extend_from_slice(body);
        out
    };
    let mut number = vec![0];
    number.extend_from_slice(&modulus);
    let mut key = der(2, &number);
    key.extend_from_slice(&[2, 3, 1, 0, 1]);
    let text = STANDARD.encode(der(0x30, &key));
    format!("-----BEGIN RSA PUBLIC KEY-----\n{text}\n-----END RSA PUBLIC KEY-----\n")
}

#[test]
fn a_url_of_keys_is_https_or_of_this_machine() {
    check_messages(
        "{ jwks: 'http://login.test/k' }",
        &["fetched without TLS", "allow_http"],
    );
    check_messages("{ jwks: 'ftp://login.test/k' }", &["invalid JWK set URL"]);
    check_messages("{ jwks: login.test }", &["invalid JWK set URL", "https://"]);
    check_messages(
        "{ jwks: 'https://u:p@login.test/k' }",
        &["cannot have a user or a password"],
    );
    check_messages(
        "{ jwks: { url: 'https://a.test/k', ca: /nowhere } }",
        &["cannot use `/nowhere`"],
    );
    check_messages(
        "{ jwks: { url: 'http://localhost/k', ca: a.pem } }",
        &["`ca` is for HTTPS"],
    );
    check_messages(
        "{ jwks: { url: 'http://localhost/k', refresh: 1ms } }",
        &["`refresh: 1ms`"],
    );
    check_messages(
        "{ jwks: { url: 'http://localhost/k', timeout: 1h } }",
        &["`timeout: 1h`"],
    );
    check_messages(
        "{ jwks: 'http://localhost/k', algorithms: [HS256] }",
        &["`HS256` needs a secret"],
    );
    for good in [
        "{ jwks: 'http://127.0.0.1:1/k' }",
        "{ jwks: 'http://[::1]:1/k' }",
        "{ jwks: { url: 'http://login.test/k', allow_http: true } }",
    ] {
        compiled(good);
    }
}

#[test]
fn what_is_printed_reads_back_the_same_and_shows_no_secret() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let files = Files::new();
    let file = files.put("key", &pair.public_key_pem());
    for yaml in [
        format!("{{ keys: '{file}' }}"),
        format!(
            "{{ keys: [{{ key: '{file}', kid: a }}], algorithms: [ES256], issuer: a, audience: [b, c], leeway: 1s, max_ttl: 90s, require: {{ role: [admin, 1, true, 0.5] }}, token: [{{ cookie: a }}, query:t], optional: true, forward: {{ sub: X-User }}, strip: false, realm: r }}"
        ),
        "{ jwks: { url: 'http://localhost/k', refresh: 1min, stale: 2h, timeout: 1s } }".to_owned(),
    ] {
        let once = printed(&yaml);
        assert_eq!(printed(&once), once);
        compiled(&once);
    }
    let shown = printed(&format!("{{ keys: \"{SECRET}\" }}"));
    assert!(
        shown.contains("[redacted]") && !shown.contains("thirty"),
        "{shown}"
    );
    let node = tree::parse(
        &format!("{{ keys: \"{SECRET}\" }}"),
        0,
        &mut Diagnostics::default(),
    );
    let config: JwtConfig = tree::read(&node.unwrap(), &mut Diagnostics::default()).unwrap();
    assert!(!format!("{config:?}").contains("thirty"));
    assert!(!format!("{:?}", compiled(&format!("{{ keys: \"{SECRET}\" }}"))).contains("thirty"));
}
