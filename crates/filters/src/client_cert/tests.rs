//! Clients that pass, by certificate.

use std::sync::Arc;

use edgeway_core::chain::{
    Certificate, ClientCertificate,
    testkit::{FilterCheck, check, refused},
};
use http::HeaderValue;

use super::ClientCert;

const ANN: (&str, &str) = ("CN=ann,O=Example", "ab");

fn with(check: FilterCheck, certificate: Option<(&str, &str)>) -> FilterCheck {
    check
        .client(|client| {
            client.certificate = certificate.map_or(Certificate::Absent, |(subject, byte)| {
                Certificate::Verified(Arc::new(ClientCertificate {
                    subject: HeaderValue::from_str(subject).unwrap(),
                    fingerprint: HeaderValue::from_str(&byte.repeat(32)).unwrap(),
                    cas: 0,
                }))
            });
        })
        // Headers that a client sends have no effect.
        .send(
            "GET",
            "/",
            &[
                ("x-client-verify", "SUCCESS"),
                ("x-client-cert-subject", ANN.0),
            ],
            &[],
        )
}

#[track_caller]
fn reason(yaml: &str, certificate: Option<(&str, &str)>, reason: Option<&str>) {
    let check = with(check::<ClientCert>(yaml), certificate);
    let seen = check.last();
    assert_eq!(seen.reason, reason, "{yaml} {certificate:?}");
    assert_eq!(seen.status, if reason.is_some() { 403 } else { 200 });
    assert!(!seen.is_strike, "nobody guesses certificates");
}

#[test]
fn any_certificate_passes_where_none_is_named() {
    reason("{}", Some(ANN), None);
    reason("{}", None, Some("client_cert_missing"));
}

#[test]
fn all_that_is_written_must_fit() {
    let denied = Some("client_cert_denied");
    for (yaml, expected) in [
        ("{ subject: 'CN=ann,O=Example' }", None),
        (
            "{ subject: ['CN=bob,O=Example', 'CN=ann,O=Example'] }",
            None,
        ),
        ("{ subject: 'CN=ann' }", denied),
        ("{ subject: '~CN=[a-z]+,O=Example' }", None),
        ("{ subject: '~CN=ann' }", denied),
        ("{ subject: '~ann|bob' }", denied),
        ("{ subject: 'CN=bob,O=Example' }", denied),
    ] {
        reason(yaml, Some(ANN), expected);
        reason(yaml, None, Some("client_cert_missing"));
    }
    let fingerprint = format!("{{ fingerprint: '{}' }}", ["AB"; 32].join(":"));
    reason(&fingerprint, Some(ANN), None);
    reason(&fingerprint, Some((ANN.0, "ac")), denied);
    let both = format!(
        "{{ subject: 'CN=ann,O=Example', fingerprint: '{}' }}",
        "ab".repeat(32)
    );
    reason(&both, Some(ANN), None);
    reason(&both, Some(("CN=bob,O=Example", "ab")), denied);
}

#[test]
fn a_value_that_is_no_subject_and_no_fingerprint_is_refused() {
    for (yaml, expected) in [
        ("{ subject: ann }", "invalid subject"),
        ("{ subject: '~(' }", "is not a regular expression"),
        ("{ subject: '~a)|(b' }", "is not a regular expression"),
        ("{ fingerprint: abc }", "invalid SHA-256"),
    ] {
        let messages = refused::<ClientCert>(yaml);
        assert!(messages[0].contains(expected), "{messages:?}");
    }
}
