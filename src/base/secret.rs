//! A text that must not be seen: redacted in `Debug`, in dumps and in `edgeway check --print`.
//! Some are known by their type, others by the name beside them.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// What stands in place of a secret wherever one is printed.
pub const REDACTED: &str = "[redacted]";

/// Words that make a name a secret's: of a query, a header, a cookie. With `=` before it,
/// the whole name only.
pub const NAMES: [&str; 24] = [
    "token",
    "accesstoken",
    "idtoken",
    "refreshtoken",
    "key",
    "apikey",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "signature",
    "sig",
    "jwt",
    "auth",
    "authorization",
    "credential",
    "credentials",
    "assertion",
    "session",
    "sessionid",
    "sid",
    "otp",
    "=code",
];

/// Whether a name is `word` (in lower case), or ends with it where a word begins: after
/// something that is no letter, or at a capital (`reset_token`, `resetToken`).
pub fn is_named(name: &[u8], word: &[u8], is_whole: bool) -> bool {
    let Some(start) = name.len().checked_sub(word.len()) else {
        return false;
    };
    if !name[start..].eq_ignore_ascii_case(word) {
        return false;
    }
    let Some(before) = start.checked_sub(1).map(|at| name[at]) else {
        return true;
    };
    let is_capital = name[start..].first().is_some_and(u8::is_ascii_uppercase);
    !is_whole && (!before.is_ascii_alphabetic() || (is_capital && before.is_ascii_lowercase()))
}

/// What may be shown of the value that goes by this name.
pub fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    let hides = |word: &str| match word.strip_prefix('=') {
        Some(whole) => is_named(name.as_bytes(), whole.as_bytes(), true),
        None => is_named(name.as_bytes(), word.as_bytes(), false),
    };
    // `*` stands for any value.
    if value != "*" && (NAMES.into_iter().any(hides) || hides("=cookie")) {
        REDACTED
    } else {
        value
    }
}

/// Serializes names and values, without those that are secrets by their names.
pub fn by_name<S: Serializer, V: AsRef<str>>(
    values: &BTreeMap<String, V>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_map(
        values
            .iter()
            .map(|(name, value)| (name, shown(name, value.as_ref()))),
    )
}

/// Takes out of plain data the texts and numbers that are secrets by their names, in lists too.
pub fn redact_by_name(data: &mut Value) {
    match data {
        Value::Object(map) => {
            for (name, value) in map {
                let is_several = name.strip_suffix('s').map(|one| shown(one, "x"));
                if shown(name, "x") == REDACTED || is_several == Some(REDACTED) {
                    redact(value);
                } else {
                    redact_by_name(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact_by_name),
        _ => {}
    }
}

/// Takes this value out, and what stands in it: keys of mappings stay.
pub fn redact(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(_) | Value::String(_) => *value = REDACTED.into(),
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(map) => map.values_mut().for_each(redact),
    }
}

/// A password, key or token; written in YAML as `file:PATH` or `${NAME}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Whoever calls this answers for where it goes.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Reads the file of a `file:PATH`, trailing line ends removed.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let Some(path) = text.strip_prefix("file:") else {
            return Ok(Self(text));
        };
        match std::fs::read_to_string(path) {
            Ok(content) => Ok(Self(content.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(de::Error::custom(format_args!(
                "cannot read the secret in `{path}`: {error}"
            ))),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(REDACTED)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A secret: `file:PATH` or `${NAME}` from the environment."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), REDACTED);
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn some_secrets_are_known_by_their_names() {
        for name in ["Authorization", "X-Api-Key", "session", "Cookie", "code"] {
            assert_eq!(shown(name, "hunter2"), REDACTED, "{name}");
            assert_eq!(shown(name, "*"), "*", "{name}");
        }
        for name in ["X-Monkey", "Keep-Alive", "zip_code", "Cookie-Policy"] {
            assert_eq!(shown(name, "hunter2"), "hunter2", "{name}");
        }
    }

    #[test]
    fn plain_data_loses_what_its_names_give_away() {
        let mut data = serde_json::json!({
            "name": "a", "apiKey": "b", "keys": ["c"], "tokens": "d",
            "list": [{ "password": 1234, "secret": { "x": ["e"], "y": true } }],
        });
        redact_by_name(&mut data);
        let hidden = REDACTED;
        assert_eq!(
            data,
            serde_json::json!({
                "name": "a", "apiKey": hidden, "keys": [hidden], "tokens": hidden,
                "list": [{ "password": hidden, "secret": { "x": [hidden], "y": true } }],
            })
        );
    }

    #[test]
    fn a_secret_file_loses_its_last_line_end_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a b\nc\r\n").unwrap();
        let yaml = serde_json::Value::String(format!("file:{}", file.path().display()));
        assert_eq!(Secret::deserialize(yaml).unwrap().reveal(), "a b\nc");
    }
}
