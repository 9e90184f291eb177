//! Who a client has proven to be, as identity filters leave it for limits, headers and logs.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

/// What identity filters (`jwt`, `api_key`, `basic_auth`, `forward_auth`) have found out.
/// Nothing in here is the client's mere word.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Claims of a token whose signature and times are right.
    pub claims: Option<Claims>,
    /// The name of the API key, never the key.
    pub api_key: Option<Arc<str>>,
    /// Who that is, for logs and for `user` keys: `sub`, the key's name, the user's name.
    pub user: Option<Arc<str>>,
}

/// The claims of a verified token.
#[derive(Clone, Debug, Default)]
pub struct Claims(pub Arc<Map<String, Value>>);

impl Claims {
    /// A claim as text: strings as they are, numbers and truth values printed; `None` for
    /// what is absent, null, a list or a mapping. `path` may lead inwards: `realm.role`;
    /// a claim whose own name has dots wins.
    pub fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        match self.get(path)? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) => Some(Cow::Owned(number.to_string())),
            Value::Bool(is_so) => Some(Cow::Borrowed(if *is_so { "true" } else { "false" })),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// A claim as it stands in the token.
    pub fn get(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(path) {
            return Some(value);
        }
        let mut parts = path.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }
}

/// One thing that the audit log is to have of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Such as `auth` or `ban`.
    pub action: &'static str,
    /// The fixed word of log and metric.
    pub reason: &'static str,
    /// Whom it is about, if that is known: a user, a key's name. Never a secret.
    pub subject: Option<String>,
    /// The client has shown nothing that proves who it is: once too often is a ban, where the
    /// configuration says so.
    pub is_strike: bool,
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
            "realm": { "role": "admin" }, "https://x.test/a.b": "dotted",
        }));
        for (path, text) in [
            ("sub", Some("u1")),
            ("n", Some("7")),
            ("ok", Some("true")),
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
