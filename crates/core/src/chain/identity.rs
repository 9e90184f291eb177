//! Proven identity of a client, as identity filters leave it for limits, headers and logs.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

/// Results of the identity filters (`jwt`, `api_key`, `basic_auth`, `forward_auth`). Holds nothing
/// that the client claims without proof.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Claims of a token with a valid signature and valid times.
    pub claims: Option<Claims>,
    /// Name of the API key, never the key.
    pub api_key: Option<Arc<str>>,
    /// Name of the user, for logs and for `user` keys: `sub`, the key's name, or the user's name.
    pub user: Option<Arc<str>>,
}

/// Claims of a verified token.
#[derive(Clone, Debug, Default)]
pub struct Claims(pub Arc<Map<String, Value>>);

impl Claims {
    /// Returns a claim as text: strings as they are, whole numbers and booleans printed; `None` for a
    /// claim that is absent, null, a list or a mapping, or a number that is not stored exactly, which
    /// two users may share. `path` may name a nested claim: `realm.role`; a claim whose own name
    /// contains dots wins.
    pub fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        match self.get(path)? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) if !number.is_f64() => Some(Cow::Owned(number.to_string())),
            Value::Bool(is_so) => Some(Cow::Borrowed(if *is_so { "true" } else { "false" })),
            Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Returns a claim as it is in the token.
    pub fn get(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(path) {
            return Some(value);
        }
        let mut parts = path.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }
}

/// An entry of the audit log about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditNote {
    /// Action, such as `auth` or `ban`.
    pub action: &'static str,
    /// Reason word, the same in log and metric.
    pub reason: &'static str,
    /// User or name of the key that the entry is about, if known. Never a secret.
    pub subject: Option<String>,
    /// True if the client has sent no valid credentials: too many strikes are a ban, if the
    /// configuration has bans.
    pub is_strike: bool,
    /// True if the client was judged; false if its credentials could not be checked.
    pub is_verdict: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: &Value) -> Claims {
        Claims(Arc::new(value.as_object().cloned().unwrap_or_default()))
    }

    #[test]
    fn claims_are_texts_if_they_are_single_values() {
        let claims = claims(&json!({
            "sub": "u1", "n": 7, "ok": true, "roles": ["a"], "none": null,
            "big": u64::MAX, "bigger": 1e20, "half": 0.5,
            "realm": { "role": "admin" }, "https://x.test/a.b": "dotted",
        }));
        for (path, text) in [
            ("sub", Some("u1")),
            ("n", Some("7")),
            ("ok", Some("true")),
            ("big", Some("18446744073709551615")),
            // As 100000000000000000001 would be printed.
            ("bigger", None),
            ("half", None),
            ("roles", None),
            ("none", None),
            ("missing", None),
            ("realm", None),
            ("realm.role", Some("admin")),
            ("realm.role.x", None),
            ("https://x.test/a.b", Some("dotted")),
        ] {
            assert_eq!(claims.text(path).as_deref(), text, "{path}");
        }
    }
}
