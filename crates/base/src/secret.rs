//! Secret texts: redacted in `Debug`, in dumps and in `edgeway check --print`. Some are recognized
//! by their type, others by the name next to them.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, path::Path, sync::LazyLock};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::named_file;

/// Text printed in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Words that mark a name of a query parameter, header or cookie as secret. With `=` in front, only
/// the whole name counts.
pub const NAMES: &str = "token accesstoken idtoken refreshtoken key apikey password pass passwd \
    passphrase pwd secret signature sig jwt auth authorization credential credentials assertion \
    session sessionid session_id session-id sessid sid otp =code";

/// Words that end names even without a separator (`dbpassword`, `csrftoken`).
const SUFFIXES: [&[u8]; 7] = [
    b"password",
    b"passwd",
    b"secret",
    b"token",
    b"apikey",
    b"sessionid",
    b"sessid",
];

/// Patterns of secrets: the password of a URL, credentials of HTTP, hashes of passwords, private
/// keys.
static SHAPES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?s)://[^\s/"'@]*:([^\s"']+)@|(?i:\b(?:bearer|basic)[ \t]+)([\w.~+/=-]{8,})|(\$(?:argon2\w*|2[abxy])\$[^\s"'}]+)|-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)(?:-----END|\z)"#,
    )
    .expect("it is tested")
});

/// Pattern of a URL with a query, to its end.
static QUERY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"://[^\s"'?]*\?[^\s"'#`]*"#).expect("it is tested"));

/// Returns the parts of a text that look like secrets.
pub fn shapes(text: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<_> = SHAPES
        .captures_iter(text)
        .flat_map(|shape| {
            let groups = shape.iter().skip(1).flatten();
            groups.map(|group| group.range()).collect::<Vec<_>>()
        })
        .collect();
    for url in QUERY.find_iter(text) {
        let mut start = url.start() + url.as_str().find('?').unwrap_or_default() + 1;
        for pair in text[start..url.end()].split('&') {
            if let Some((name, value)) = pair.split_once('=')
                && !value.is_empty()
                // A placeholder, or redacted already.
                && !value.starts_with(['{', '$', '*', '['])
                && shown(name, "x") == REDACTED
            {
                let from = start + name.len() + 1;
                spans.push(from..from + value.len());
            }
            start += pair.len() + 1;
        }
    }
    spans.sort_by_key(|span| span.start);
    spans
}

/// Redacts the parts of a text that look like secrets.
pub fn without_shapes(text: &str) -> Cow<'_, str> {
    let spans = shapes(text);
    if spans.is_empty() {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for span in spans {
        if span.start < from {
            continue;
        }
        out.push_str(&text[from..span.start]);
        out.push_str(REDACTED);
        from = span.end;
    }
    out.push_str(&text[from..]);
    out.into()
}

/// Returns true if a name is `word` (in lower case), or ends with it at the start of a word: after
/// a non-letter, or at a capital (`reset_token`, `resetToken`). Some words may follow anything.
pub fn is_named(name: &[u8], word: &[u8], is_exact: bool) -> bool {
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
    !is_exact
        && (!before.is_ascii_alphabetic()
            || (is_capital && before.is_ascii_lowercase())
            || SUFFIXES.contains(&word))
}

/// Returns the displayable form of a value with this name.
pub fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    let hides = |word: &str| match word.strip_prefix('=') {
        Some(exact) => is_named(name.as_bytes(), exact.as_bytes(), true),
        None => is_named(name.as_bytes(), word.as_bytes(), false),
    };
    // `*` means any value.
    if value != "*" && (NAMES.split(' ').any(hides) || hides("=cookie")) {
        REDACTED
    } else {
        value
    }
}

/// Returns true if a name, of one value or of several, marks it as secret.
pub fn is_secret_name(name: &str) -> bool {
    let is_secret = |name| shown(name, "x") == REDACTED;
    is_secret(name) || name.strip_suffix('s').is_some_and(is_secret)
}

/// Formats a URL for logs and pages without its query, which may contain a key.
pub fn without_query(url: &http::Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{scheme}://{authority}{}{query}", url.path())
}

/// Serializes names and values, with values redacted whose names mark them as secret.
pub fn by_name<S: Serializer, V: AsRef<str>>(
    values: &BTreeMap<String, V>,
    s: S,
) -> Result<S::Ok, S::Error> {
    let pairs = values.iter();
    s.collect_map(pairs.map(|(name, value)| (name, shown(name, value.as_ref()))))
}

/// Redacts texts and numbers in plain data whose names mark them as secret, in lists too.
pub fn redact_by_name(data: &mut Value) {
    match data {
        Value::Object(map) => {
            for (name, value) in map {
                if is_secret_name(name) {
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

/// Redacts this value and the values in it; keys of mappings stay.
pub fn redact(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(_) | Value::String(_) => *value = REDACTED.into(),
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(map) => map.values_mut().for_each(redact),
    }
}

/// Newtype name that requests a `file:PATH` with an absolute path from a reader.
pub const FILE: &str = "$edgeway::file";

/// Text of a configuration, or `file:` and an absolute path.
#[derive(Clone, Deserialize)]
#[serde(rename = "$edgeway::file")]
pub struct TextOrFile(pub String);

/// A password, key or token; written in YAML as `file:PATH` or `${NAME}`.
#[derive(Clone, derive_more::Debug, JsonSchema)]
#[debug("{REDACTED}")]
#[schemars(with = "String")]
#[schemars(description = "A secret: `file:PATH` or `${NAME}` from the environment.")]
pub struct Secret {
    text: String,
    /// Path of a `file:PATH`, which is not secret.
    file: Option<Box<str>>,
}

/// Secrets are equal if their texts are, whatever their sources.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Secret {}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            file: None,
        }
    }

    /// Returns the secret itself. The caller is responsible for where it goes.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Returns the file that it was read from.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Reads the file of a `file:PATH`, trailing line ends removed.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let TextOrFile(text) = TextOrFile::deserialize(d)?;
        let Some(path) = text.strip_prefix("file:") else {
            return Ok(Self::new(text));
        };
        match named_file::read_text(Path::new(path), named_file::MAX_LEN) {
            Ok(content) => Ok(Self {
                text: content.trim_end_matches(['\r', '\n']).to_owned(),
                file: Some(path.into()),
            }),
            Err(error) => Err(de::Error::custom(format_args!(
                "cannot read the secret in `{path}`: {error}"
            ))),
        }
    }
}

impl Serialize for Secret {
    /// Serializes the secret as written if that is not secret itself.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.file() {
            Some(path) => s.collect_str(&format_args!("file:{path}")),
            None => s.serialize_str(REDACTED),
        }
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
    fn a_secret_in_a_file_is_printed_as_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let written = format!("\"file:{}\"", file.path().display());
        let secret: Secret = serde_json::from_str(&written).unwrap();
        assert_eq!(secret.reveal(), "hunter2");
        assert_eq!(serde_json::to_string(&secret).unwrap(), written);
        assert_eq!(format!("{secret:?}"), REDACTED);
        assert_eq!(secret, Secret::new("hunter2"));
    }

    #[test]
    fn a_url_is_shown_without_its_query() {
        for (url, shown) in [
            (
                "http://127.0.0.1:9/verify?token=hunter2",
                "http://127.0.0.1:9/verify?…",
            ),
            ("https://a.test", "https://a.test/"),
        ] {
            assert_eq!(without_query(&url.parse().unwrap()), shown);
        }
    }

    #[test]
    fn some_secrets_are_known_by_their_shapes() {
        for (text, without) in [
            (
                "https://u:hunter2@a.test/x",
                "https://u:[redacted]@a.test/x",
            ),
            ("Bearer hunter2hunter2", "Bearer [redacted]"),
            (
                "http://a.test/v?api_key=hunter2&b=c#d",
                "http://a.test/v?api_key=[redacted]&b=c#d",
            ),
            ("$2y$10$abcdefghij", "[redacted]"),
            (
                "see `http://a/?a=b&token=c`",
                "see `http://a/?a=b&token=[redacted]`",
            ),
        ] {
            assert_eq!(without_shapes(text), without);
            assert_eq!(without_shapes(without), without, "once more");
        }
        for text in [
            "https://a.test/login?token={token}&code=${CODE}",
            "http://a.test/?colour=red",
            "Bearer {jwt}",
        ] {
            assert_eq!(without_shapes(text), text);
        }
    }

    #[test]
    fn some_secrets_are_known_by_their_names() {
        for name in [
            "Authorization",
            "X-Api-Key",
            "session",
            "Cookie",
            "code",
            "smtp_pass",
            "dbpassword",
            "clientsecret",
            "csrftoken",
            "session_id",
            "PHPSESSID",
        ] {
            assert_eq!(shown(name, "hunter2"), REDACTED, "{name}");
            assert_eq!(shown(name, "*"), "*", "{name}");
        }
        for name in [
            "X-Monkey",
            "Keep-Alive",
            "zip_code",
            "Cookie-Policy",
            "bypass",
        ] {
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
