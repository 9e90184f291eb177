//! Verification of tokens, for each algorithm and each kind of invalid token.

mod config;
mod jwks;
mod requests;

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use edgeway_base::metrics::Metrics;
use edgeway_core::chain::testkit::{FilterCheck, check};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256, PublicKeyData as _, SignatureAlgorithm,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Jwt, keys};

/// Time of the test clock, in seconds since 1970.
pub(super) const NOW: i64 = 500_000 * 3600;
pub(super) const SECRET: &str = "a secret of thirty-two bytes, ok!";

/// Made for these tests, and used nowhere else: `ring` makes no RSA keys.
const RSA: &str = include_str!("rsa.pem");

/// A signer of tokens.
pub(super) struct Signer {
    pub(super) pair: KeyPair,
    encoding: EncodingKey,
}

impl Signer {
    pub(super) fn new(kind: &'static SignatureAlgorithm) -> Self {
        let pair = KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let encoding = if *kind == PKCS_ED25519 {
            EncodingKey::from_ed_pem(pem.as_bytes())
        } else {
            EncodingKey::from_ec_pem(pem.as_bytes())
        };
        Self {
            encoding: encoding.unwrap(),
            pair,
        }
    }

    fn rsa() -> Self {
        Self {
            pair: KeyPair::from_pkcs8_pem_and_sign_algo(RSA, &PKCS_RSA_SHA256).unwrap(),
            encoding: EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
        }
    }

    pub(super) fn sign(&self, alg: Algorithm, kid: Option<&str>, claims: &Value) -> String {
        sign(&self.encoding, alg, kid, claims)
    }

    /// Returns the point of a key on P-256 as a JWK.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let point = self.pair.der_bytes();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256",
            "x": part(&point[1..33]), "y": part(&point[33..65]),
        })
    }
}

fn sign(key: &EncodingKey, alg: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(alg);
    header.kid = kid.map(str::to_owned);
    encode(&header, claims, key).unwrap()
}

/// Signs a token with the secret of most tests.
fn by_secret(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    sign(&key, Algorithm::HS256, None, claims)
}

/// Joins these parts into a token without signing it.
fn by_hand(header: &Value, payload: &str, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = part(header.to_string().as_bytes());
    format!("{header}.{}.{}", part(payload.as_bytes()), part(signature))
}

fn claims() -> Value {
    json!({ "sub": "u1", "role": "admin", "exp": NOW + 60 })
}

fn with(more: &Value) -> Value {
    let mut all = claims();
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("file:{}", path.display())
    }
}

fn guard(more: &str) -> FilterCheck {
    check::<Jwt>(&format!("{{ keys: \"{SECRET}\"{more} }}"))
}

trait Tokens: Sized {
    fn bearer(self, token: &str) -> Self;
    fn expect_refused(self, status: u16, reason: &str) -> Self;
}

impl Tokens for FilterCheck {
    fn bearer(self, token: &str) -> Self {
        let value = format!("Bearer {token}");
        self.send("GET", "/", &[("authorization", &value)], &[])
    }

    #[track_caller]
    fn expect_refused(self, status: u16, reason: &str) -> Self {
        assert_eq!(self.last().reason, Some(reason));
        self.expect([status])
    }
}

fn counted(metrics: &Metrics, outcome: &str) -> u64 {
    let text = String::from_utf8(metrics.text()).unwrap();
    let series =
        format!("edgeway_auth_total{{filter=\"jwt\",outcome=\"{outcome}\",route=\"test\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn every_way_of_signing_passes_with_its_own_key_and_no_other() {
    let files = Files::new();
    let rsa = Signer::rsa();
    let others = [
        (
            Signer::new(&PKCS_ECDSA_P256_SHA256),
            Algorithm::ES256,
            "ES256",
        ),
        (
            Signer::new(&PKCS_ECDSA_P384_SHA384),
            Algorithm::ES384,
            "ES384",
        ),
        (Signer::new(&PKCS_ED25519), Algorithm::EdDSA, "EdDSA"),
    ];
    let mut all: Vec<(String, String, &str)> = Vec::new();
    for (alg, name) in [
        (Algorithm::RS256, "RS256"),
        (Algorithm::RS384, "RS384"),
        (Algorithm::RS512, "RS512"),
        (Algorithm::PS256, "PS256"),
        (Algorithm::PS384, "PS384"),
        (Algorithm::PS512, "PS512"),
    ] {
        let file = files.put("rsa.pub", &rsa.pair.public_key_pem());
        all.push((file, rsa.sign(alg, None, &claims()), name));
    }
    for (signer, alg, name) in &others {
        let file = files.put(name, &signer.pair.public_key_pem());
        all.push((file, signer.sign(*alg, None, &claims()), name));
    }
    let secret = files.put("secret", &format!("{SECRET}\n"));
    for (alg, name) in [
        (Algorithm::HS256, "HS256"),
        (Algorithm::HS384, "HS384"),
        (Algorithm::HS512, "HS512"),
    ] {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        all.push((secret.clone(), sign(&key, alg, None, &claims()), name));
    }
    for (file, own, name) in &all {
        let mut check = check::<Jwt>(&format!("{{ keys: '{file}', algorithms: [{name}] }}"));
        // Twice: the second time from memory.
        for _ in 0..2 {
            check = check.bearer(own).expect([200]);
        }
        for (_, foreign, other) in &all {
            if other != name {
                check = check.bearer(foreign).expect_refused(401, "jwt_algorithm");
            }
        }
        // Changed in its payload, and in its signature.
        let (head, signature) = own.rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        let payload = URL_SAFE_NO_PAD.encode(with(&json!({ "sub": "u2" })).to_string());
        check = check
            .bearer(&format!("{header}.{payload}.{signature}"))
            .expect_refused(401, "jwt_signature");
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        check = check
            .bearer(&format!("{head}.{flipped}{}", &signature[1..]))
            .expect_refused(401, "jwt_signature");
        let _ = check
            .bearer(&format!("{head}."))
            .expect_refused(401, "jwt_signature");
    }
}

#[test]
fn the_public_key_is_no_secret_and_none_is_no_algorithm() {
    let files = Files::new();
    let rsa = Signer::rsa();
    let pem = rsa.pair.public_key_pem();
    let file = files.put("rsa.pub", &pem);
    let secret = files.put("secret", SECRET);
    // The last one accepts secrets too, with a key of its own.
    for yaml in [
        format!("{{ keys: '{file}' }}"),
        format!("{{ keys: '{file}', algorithms: [RS256, PS256] }}"),
        format!("{{ keys: ['{file}', '{secret}'], algorithms: [RS256, HS256] }}"),
    ] {
        let mut check = check::<Jwt>(&yaml);
        for forged in [pem.as_bytes(), pem.trim().as_bytes(), rsa.pair.der_bytes()] {
            let key = EncodingKey::from_secret(forged);
            let token = sign(&key, Algorithm::HS256, None, &claims());
            check = check.bearer(&token);
            assert!(
                check
                    .last()
                    .reason
                    .is_some_and(|reason| reason.starts_with("jwt_"))
            );
            check = check.expect([401]);
        }
        let payload = claims().to_string();
        for alg in ["none", "None", "NONE", "", "hs256", "RS256 ", "ES512"] {
            let header = json!({ "alg": alg, "typ": "JWT" });
            for signature in [&b""[..], b"x"] {
                check = check
                    .bearer(&by_hand(&header, &payload, signature))
                    .expect_refused(401, "jwt_algorithm");
            }
        }
        let _ = check
            .bearer(&rsa.sign(Algorithm::RS256, None, &claims()))
            .expect([200]);
    }
}

#[test]
fn what_is_no_token_expect_refused_without_a_word_on_why() {
    let token = by_secret(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let long = "a".repeat(9000);
    let odd = [
        "x".to_owned(),
        "..".to_owned(),
        "a.b".to_owned(),
        format!("{token}."),
        format!("{token}.x"),
        format!(".{token}"),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("{} {}", parts[0], parts[1]),
        format!("{long}.{}.{}", parts[1], parts[2]),
        by_hand(&json!({ "typ": "JWT" }), "{}", b"x"),
        by_hand(
            &json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
            "{}",
            b"x",
        ),
        by_hand(&json!({ "alg": "HS256", "crit": null }), "{}", b"x"),
        by_hand(&json!({ "alg": ["HS256"] }), "{}", b"x"),
        by_hand(&json!([]), "{}", b"x"),
    ];
    let mut check = guard("");
    for text in odd {
        check = check.bearer(&text).expect_refused(401, "jwt_malformed");
    }
    // Correctly signed, but not a set of claims.
    for payload in [
        "[]",
        "1",
        "{",
        "{\"exp\": \"soon\"}",
        "{\"exp\": null}",
        "\u{ff}",
    ] {
        let unsigned = by_hand(&json!({ "alg": "HS256" }), payload, b"");
        let (signed, _) = unsigned.rsplit_once('.').unwrap();
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256);
        check = check
            .bearer(&format!("{signed}.{}", signature.unwrap()))
            .expect_refused(401, "jwt_malformed");
    }
    assert_eq!(counted(&check.metrics, "invalid"), 20);
    assert_eq!(counted(&check.metrics, "passed"), 0);
}

#[test]
fn times_are_compared_each_time_with_the_leeway_and_no_more() {
    let token = by_secret(&with(&json!({ "exp": NOW + 90 })));
    let check = guard("")
        .bearer(&token)
        .advance("94s")
        .bearer(&token)
        .expect([200, 200])
        .advance("1s")
        .bearer(&token)
        .expect_refused(401, "jwt_expired")
        .bearer(&token)
        .expect_refused(401, "jwt_expired");
    assert_eq!(counted(&check.metrics, "passed"), 2);
    let _ = guard(", leeway: 0s")
        .advance("89s")
        .bearer(&token)
        .expect([200])
        .advance("1s")
        .bearer(&token)
        .expect_refused(401, "jwt_expired");
    let later = by_secret(&with(&json!({ "nbf": NOW + 10 })));
    let _ = guard("")
        .advance("4s")
        .bearer(&later)
        .expect_refused(401, "jwt_not_yet")
        .advance("1s")
        .bearer(&later)
        .expect([200]);
    let endless = by_secret(&json!({ "sub": "u1" }));
    let _ = guard("")
        .bearer(&endless)
        .expect_refused(401, "jwt_lifetime");
    let _ = guard(", require_exp: false").bearer(&endless).expect([200]);
    // A fraction counts, and a date that cannot be reached is accepted.
    let fraction = by_secret(&with(&json!({ "exp": 1e300, "nbf": 1_800_000_005.5 })));
    let _ = guard("")
        .bearer(&fraction)
        .expect_refused(401, "jwt_not_yet")
        .advance("500ms")
        .bearer(&fraction)
        .expect([200]);
}

#[test]
fn a_playback_token_of_90_seconds_passes_at_89_and_fails_at_96() {
    let issued = |life: i64| by_secret(&json!({ "iat": NOW, "exp": NOW + life }));
    let yaml = ", max_ttl: 90s, leeway: 5s, token: { query: token }";
    let get = |check: FilterCheck, token: &str| check.get(&format!("/manifest?token={token}"));
    let check = get(guard(yaml).advance("89s"), &issued(90)).expect([200]);
    let check = get(check.advance("7s"), &issued(90)).expect_refused(401, "jwt_expired");
    let _ = get(check, &issued(91)).expect_refused(401, "jwt_lifetime");
    // Without `iat` the lifetime is unknown, and a token from the future could be kept until then.
    for odd in [
        json!({ "exp": NOW + 10 }),
        json!({ "iat": NOW - 100, "exp": NOW + 10 }),
    ] {
        let _ = get(guard(yaml), &by_secret(&odd)).expect_refused(401, "jwt_lifetime");
    }
    let future = by_secret(&json!({ "iat": NOW + 600, "exp": NOW + 690 }));
    let _ = get(guard(yaml), &future).expect_refused(401, "jwt_not_yet");
}

#[test]
fn issuer_and_audience_are_whom_the_file_names() {
    let check = |claims: &Value, reason: Option<&'static str>| {
        let check = guard(", issuer: [a, https://b.test], audience: [shop, admin]")
            .bearer(&by_secret(&with(claims)));
        assert_eq!(check.last().reason, reason, "{claims}");
    };
    check(&json!({ "iss": "a", "aud": "shop" }), None);
    check(
        &json!({ "iss": "https://b.test", "aud": ["x", "admin"] }),
        None,
    );
    check(
        &json!({ "iss": "https://b.test/", "aud": "shop" }),
        Some("jwt_issuer"),
    );
    check(&json!({ "aud": "shop" }), Some("jwt_issuer"));
    check(&json!({ "iss": 1, "aud": "shop" }), Some("jwt_issuer"));
    check(&json!({ "iss": ["a"], "aud": "shop" }), Some("jwt_issuer"));
    check(&json!({ "iss": "a", "aud": "Shop" }), Some("jwt_audience"));
    check(&json!({ "iss": "a", "aud": [] }), Some("jwt_audience"));
    check(&json!({ "iss": "a" }), Some("jwt_audience"));
}

#[test]
fn a_key_is_found_by_its_name_or_has_none() {
    let files = Files::new();
    let (old, new) = (
        Signer::new(&PKCS_ECDSA_P256_SHA256),
        Signer::new(&PKCS_ECDSA_P256_SHA256),
    );
    let old_file = files.put("old", &old.pair.public_key_pem());
    let new_file = files.put("new", &new.pair.public_key_pem());
    let named = format!("[{{ key: '{old_file}', kid: old }}, {{ key: '{new_file}', kid: new }}]");
    let token = |signer: &Signer, kid| signer.sign(Algorithm::ES256, kid, &claims());
    let _ = check::<Jwt>(&format!("{{ keys: {named} }}"))
        .bearer(&token(&old, Some("old")))
        .bearer(&token(&new, Some("new")))
        .bearer(&token(&new, None))
        .expect([200, 200, 200])
        .bearer(&token(&new, Some("old")))
        .expect_refused(401, "jwt_signature")
        .bearer(&token(&new, Some("other")))
        .expect_refused(401, "jwt_key");
    let _ = check::<Jwt>(&format!("{{ keys: ['{old_file}', '{new_file}'] }}"))
        .bearer(&token(&new, Some("whatever")))
        .expect([200]);
}

#[test]
fn keys_are_read_from_certificates_and_sets_too() {
    let files = Files::new();
    let signer = Signer::new(&PKCS_ECDSA_P256_SHA256);
    let certificate = CertificateParams::new(vec!["issuer.test".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&signer.pair).unwrap().pem();
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    let set = json!({ "keys": [
        { "kty": "oct", "k": secret, "kid": "s" },
        { "kty": "RSA", "n": "AQAB", "e": "AQAB" },
        { "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA" },
        { "kty": "OKP", "crv": "Ed25519", "x": "AA" },
        signer.jwk("e"),
    ]});
    let es256 = signer.sign(Algorithm::ES256, Some("e"), &claims());
    for text in [
        certificate.clone(),
        certificate.replace('\n', "\\n"),
        signer.jwk("e").to_string(),
        set.to_string(),
    ] {
        let file = files.put("key", &text);
        let _ = check::<Jwt>(&format!("{{ keys: '{file}' }}"))
            .bearer(&es256)
            .expect([200]);
    }
    // The set's secret is used if it comes from a file, and never from the network.
    let file = files.put("set", &set.to_string());
    let _ = check::<Jwt>(&format!("{{ keys: '{file}' }}"))
        .bearer(&by_secret(&claims()))
        .expect([200]);
    assert_eq!(
        keys::set(
            set.to_string().as_bytes(),
            keys::SecretKeys::Refused,
            |_, _| {}
        )
        .unwrap()
        .len(),
        1
    );
    // A key for encryption, or of another algorithm, verifies nothing.
    for (name, value) in [("use", "enc"), ("alg", "RS256"), ("alg", "ECDH-ES")] {
        let mut jwk = signer.jwk("e");
        jwk[name] = json!(value);
        assert!(
            keys::set(
                jwk.to_string().as_bytes(),
                keys::SecretKeys::Allowed,
                |_, _| {}
            )
            .unwrap()
            .is_empty()
        );
    }
}

static TOKEN: LazyLock<String> = LazyLock::new(|| by_secret(&claims()));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics_or_passes(text in "[ -~]{0,60}") {
        let check = guard("").bearer(&text);
        prop_assert_eq!(check.last().status, 401);
    }

    #[test]
    fn no_changed_token_passes(at in 0usize..400, byte in "[A-Za-z0-9_.-]") {
        let mut token = TOKEN.clone();
        let at = at % token.len();
        let is_other = token[at..=at] != byte;
        token.replace_range(at..=at, &byte);
        let check = guard("").bearer(&token);
        prop_assert_eq!(check.last().status, if is_other { 401 } else { 200 });
    }
}
