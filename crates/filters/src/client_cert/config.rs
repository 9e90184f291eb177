//! Configuration of `client_cert` as written, and its compilation.

use edgeway_base::expression::reason_of;
use edgeway_config::tree::{OneOrMany, Spanned};
use edgeway_core::chain::{AuthMetrics, CompileContext};
use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClientCert, Subject};

/// Number of hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;

/// Requires a client certificate, verified by the listener's `client_ca`; other clients get 403.
/// `true` accepts any.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientCertConfig {
    /// Subject in the form of RFC 4514, the last part first, such as `CN=ann,O=Example`; `~` before
    /// a regular expression for the whole subject. One value, or a list: one entry must match.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    subject: OneOrMany<Spanned<String>>,
    /// SHA-256 of the certificate in hexadecimal digits, with or without colons. One value, or a
    /// list: one entry must match.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    fingerprint: OneOrMany<Spanned<String>>,
}

impl ClientCertConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> ClientCert {
        let subjects = self.subject.0.iter();
        let fingerprints = self.fingerprint.0.iter();
        ClientCert {
            subjects: subjects.filter_map(|s| subject(s, cx)).collect(),
            fingerprints: fingerprints.filter_map(|f| fingerprint(f, cx)).collect(),
            metrics: AuthMetrics::new(cx.metrics, "client_cert", cx.route),
        }
    }
}

fn subject(written: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<Subject> {
    const CODE: &str = "edgeway::client_cert::subject";
    let text = written.value.as_str();
    if let Some(pattern) = text.strip_prefix('~') {
        // The pattern matches the whole subject: a subject issued by another CA may contain any
        // text within its parts.
        return match anchored(pattern) {
            Ok(regex) => Some(Subject::Like(regex)),
            Err(error) => {
                let why = reason_of(&error);
                let message = format!("`{pattern}` is not a regular expression: {why}");
                let help = "write one such as `~CN=[a-z]+,O=Example`";
                cx.at(written.place, CODE).refuse(message, help)
            }
        };
    }
    if !text.contains('=') || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        let message = format!("invalid subject `{}`", text.escape_debug());
        let help = "write the whole subject as in RFC 4514, such as `CN=ann,O=Example`: `openssl \
                    x509 -noout -subject -nameopt RFC2253` prints it";
        return cx.at(written.place, CODE).refuse(message, help);
    }
    Some(Subject::Exact(text.into()))
}

fn anchored(pattern: &str) -> Result<Regex, regex::Error> {
    // Compiled alone first: a stray bracket could close the group around the pattern.
    Regex::new(pattern)?;
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .unicode(false)
        .build()
}

fn fingerprint(written: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<Box<str>> {
    let digits: String = written.value.chars().filter(|c| *c != ':').collect();
    if digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(digits.to_ascii_lowercase().into());
    }
    cx.at(written.place, "edgeway::client_cert::fingerprint")
        .refuse(
            format!("invalid SHA-256 `{}`", written.value.escape_debug()),
            "write the 64 digits that `openssl x509 -noout -fingerprint -sha256` prints",
        )
}
