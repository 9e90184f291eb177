//! JSON form of purges, as written by operators, applications and other gateways.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};

use super::{Purge, PurgeEffect, PurgeTarget};
use crate::base::target::{Slashes, join, normalise};

/// Maximum number of purges in one order.
pub const MAX_PURGES: usize = 256;
/// Maximum bytes of a URL, a prefix or a tag.
const MAX_TARGET_LEN: usize = 8192;

/// Approximate number of characters of purges in a log line.
const MAX_SHOWN_LEN: usize = 200;

const SHAPES: &str = "write `{\"url\": …}`, `{\"prefix\": …}`, `{\"tag\": …}` or `{\"all\": true}`";

/// The purges of one request: a single purge, or `{"purges": […]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeRequest {
    pub purges: Vec<Purge>,
    /// True if the instances of the application are notified first; `"fan_out": false` turns it
    /// off.
    pub fan_out: bool,
}

/// Reason why a purge is invalid, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPurge(String);

fn bad<T>(message: impl Into<String>) -> Result<T, InvalidPurge> {
    Err(InvalidPurge(message.into()))
}

impl PurgeRequest {
    pub fn from_json(value: &Value) -> Result<Self, InvalidPurge> {
        let Value::Object(object) = value else {
            return bad(format!("a purge must be a JSON object: {SHAPES}"));
        };
        let mut object = object.clone();
        let fan_out = take_flag(&mut object, "fan_out")?.unwrap_or(true);
        let Some(list) = object.remove("purges") else {
            let purges = vec![Purge::from_object(object)?];
            purges[0].may_be_ordered()?;
            return Ok(Self { purges, fan_out });
        };
        if let Some(key) = object.keys().next() {
            return bad(format!("`{key}` belongs in the items of `purges`"));
        }
        let Value::Array(list) = list else {
            return bad("`purges` must be a list");
        };
        if list.is_empty() {
            return bad("`purges` is empty: there is nothing to purge");
        }
        if list.len() > MAX_PURGES {
            return bad(format!(
                "{} purges are too many: send up to {MAX_PURGES} at once, or purge a prefix or a tag",
                list.len()
            ));
        }
        let purges = list.iter().enumerate().map(|(at, value)| {
            Purge::from_json(value)
                .map_err(|InvalidPurge(why)| InvalidPurge(format!("purges[{at}]: {why}")))
        });
        let purges = purges.collect::<Result<Vec<_>, _>>()?;
        purges.iter().try_for_each(Purge::may_be_ordered)?;
        Ok(Self { purges, fan_out })
    }

    pub fn to_json(&self) -> Value {
        let purges: Vec<Value> = self.purges.iter().map(Purge::to_json).collect();
        json!({ "purges": purges, "fan_out": self.fan_out })
    }
}

impl Purge {
    pub fn from_json(value: &Value) -> Result<Self, InvalidPurge> {
        match value {
            Value::Object(object) => Self::from_object(object.clone()),
            _ => bad(format!("a purge must be a JSON object: {SHAPES}")),
        }
    }

    /// Refuses writes: only gateways send them.
    fn may_be_ordered(&self) -> Result<(), InvalidPurge> {
        if matches!(self.target, PurgeTarget::Written(_)) {
            return bad(format!("unknown key `written`: {SHAPES}"));
        }
        Ok(())
    }

    fn from_object(mut object: Map<String, Value>) -> Result<Self, InvalidPurge> {
        let effect = match take_flag(&mut object, "soft")? {
            Some(true) => PurgeEffect::Soft,
            Some(false) | None => PurgeEffect::Hard,
        };
        let mut members = object.iter();
        let (Some((key, value)), None) = (members.next(), members.next()) else {
            return bad(if object.is_empty() {
                format!("no target to purge: {SHAPES}")
            } else {
                let keys: Vec<&str> = object.keys().map(String::as_str).collect();
                format!(
                    "a purge must have one target, not {}: {SHAPES}",
                    list(&keys)
                )
            });
        };
        let target = match key.as_str() {
            "url" => PurgeTarget::Url(place(key, value)?),
            "prefix" => PurgeTarget::Prefix(place(key, value)?),
            "tag" => PurgeTarget::Tag(tag(value)?),
            "written" => PurgeTarget::Written(written(value)?),
            "all" if *value == Value::Bool(true) => PurgeTarget::All,
            "all" => return bad("`all` can only be `true`"),
            other => return bad(format!("unknown key `{}`: {SHAPES}", other.escape_debug())),
        };
        Ok(Self { target, effect })
    }

    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let (key, value) = match &self.target {
            PurgeTarget::Url(url) => ("url", json!(url)),
            PurgeTarget::Prefix(prefix) => ("prefix", json!(prefix)),
            PurgeTarget::Tag(tag) => ("tag", json!(tag)),
            PurgeTarget::Written(url) => ("written", json!(url)),
            PurgeTarget::All => ("all", json!(true)),
        };
        object.insert(key.to_owned(), value);
        if self.effect == PurgeEffect::Soft {
            object.insert("soft".to_owned(), json!(true));
        }
        Value::Object(object)
    }
}

impl Purge {
    /// Normalizes the path, because keys contain the normal form and a purge may be spelled
    /// otherwise.
    pub fn in_normal_form(self, slashes: Slashes) -> Result<Self, InvalidPurge> {
        let target = match self.target {
            PurgeTarget::Url(url) => PurgeTarget::Url(normal(&url, "", slashes)?),
            // More may follow a prefix, so that a dot at its end is not a dot segment.
            PurgeTarget::Prefix(prefix) => PurgeTarget::Prefix(normal(&prefix, "x", slashes)?),
            PurgeTarget::Tag(_) | PurgeTarget::Written(_) | PurgeTarget::All => self.target,
        };
        Ok(Self { target, ..self })
    }
}

/// Normalizes the path of a URL or a path, as if `more` followed.
fn normal(url: &str, more: &str, slashes: Slashes) -> Result<String, InvalidPurge> {
    let from = match url.split_once("://") {
        Some((scheme, rest)) if !url.starts_with('/') => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            scheme.len() + "://".len() + end
        }
        _ => 0,
    };
    let (origin, target) = url.split_at(from);
    if !target.starts_with('/') {
        // A whole origin, or a query alone.
        return Ok(url.to_owned());
    }
    let full = format!("{target}{more}");
    let normal = normalise(full.as_bytes(), slashes)
        .map_err(|why| InvalidPurge(format!("no response can be stored for `{url}`: {why}")))?;
    let target = join(&normal.path, normal.query);
    let target = String::from_utf8_lossy(&target);
    let target = target.strip_suffix(more).unwrap_or(&target);
    Ok(format!("{origin}{target}"))
}

impl Purge {
    /// Returns purges as one log line: the first ones, each as it is `shown`, and the number of
    /// further ones.
    pub fn line(purges: &[Self], shown: impl Fn(&Self) -> String) -> String {
        let mut line = String::new();
        for (index, purge) in purges.iter().enumerate() {
            let one: String = shown(purge).chars().take(MAX_SHOWN_LEN).collect();
            if index > 0 && line.len() + one.len() > MAX_SHOWN_LEN {
                return format!("{line} and {} more", purges.len() - index);
            }
            if index > 0 {
                line.push_str(", ");
            }
            line.push_str(&one);
        }
        line
    }
}

fn take_flag(object: &mut Map<String, Value>, key: &str) -> Result<Option<bool>, InvalidPurge> {
    match object.remove(key) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => bad(format!("`{key}` must be `true` or `false`")),
    }
}

/// Parses a URL or a prefix of one: a path, or with scheme and host.
fn place(key: &str, value: &Value) -> Result<String, InvalidPurge> {
    let text = text(key, value)?;
    let after_scheme = ["http://", "https://"].iter().find_map(|scheme| {
        let begins = text.get(..scheme.len())?;
        begins
            .eq_ignore_ascii_case(scheme)
            .then(|| &text[scheme.len()..])
    });
    let is_right = match after_scheme {
        Some(rest) => !rest.is_empty() && !rest.starts_with(['/', '?']),
        None => text.starts_with('/'),
    };
    if !is_right {
        return bad(format!(
            "`{key}` must be a path such as `/blog`, or a full URL such as \
             `https://example.com/blog`"
        ));
    }
    if text.contains('#') {
        return bad(format!("`{key}` has a `#`: clients never send a fragment"));
    }
    if let Some(odd) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return bad(format!(
            "`{key}` has a `{}` in it: encode it",
            odd.escape_debug()
        ));
    }
    Ok(text.to_owned())
}

/// Parses a URL as a client wrote it, whatever it contains: a URL accepted by one gateway must be
/// readable by all others.
fn written(value: &Value) -> Result<String, InvalidPurge> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => bad("`written` must be a string"),
    }
}

fn tag(value: &Value) -> Result<String, InvalidPurge> {
    let text = text("tag", value)?;
    // Tags are separated by commas and spaces in `Cache-Tag` and `Surrogate-Key`; those of
    // `x-next-cache-tags` may have spaces.
    if text.chars().any(char::is_control) || text.contains(',') {
        return bad("`tag` must be one tag, without commas; send a list for several");
    }
    Ok(text.to_owned())
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, InvalidPurge> {
    match value {
        Value::String(text) if text.is_empty() => bad(format!("`{key}` is empty")),
        Value::String(text) if text.len() > MAX_TARGET_LEN => {
            bad(format!("`{key}` is longer than {MAX_TARGET_LEN} bytes"))
        }
        Value::String(text) => Ok(text),
        _ => bad(format!("`{key}` must be a string")),
    }
}

fn list(keys: &[&str]) -> String {
    let quoted: Vec<String> = keys
        .iter()
        .map(|key| format!("`{}`", key.escape_debug()))
        .collect();
    quoted.join(" and ")
}

impl Serialize for Purge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Purge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(de::Error::custom)
    }
}

/// Formats a purge for readers: `url /blog`, `tag posts (soft)`.
impl fmt::Display for Purge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            PurgeTarget::Url(url) => write!(f, "url {url}")?,
            PurgeTarget::Prefix(prefix) => write!(f, "prefix {prefix}")?,
            PurgeTarget::Tag(tag) => write!(f, "tag {tag}")?,
            PurgeTarget::Written(url) => write!(f, "written {url}")?,
            PurgeTarget::All => f.write_str("all")?,
        }
        match self.effect {
            PurgeEffect::Hard => Ok(()),
            PurgeEffect::Soft => f.write_str(" (soft)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Result<PurgeRequest, String> {
        let value = serde_json::from_str(text).unwrap();
        PurgeRequest::from_json(&value).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let order = order(text).unwrap();
        let shown: Vec<String> = order.purges.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected, "{text}");
        assert_eq!(PurgeRequest::from_json(&order.to_json()).unwrap(), order);
        for purge in &order.purges {
            let json = serde_json::to_string(purge).unwrap();
            assert_eq!(serde_json::from_str::<Purge>(&json).unwrap(), *purge);
        }
    }

    #[track_caller]
    fn refuse(text: &str, part: &str) {
        let error = order(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }

    #[test]
    fn a_purge_is_of_a_url_a_prefix_a_tag_or_all() {
        check(r#"{"url":"/a?b=c"}"#, &["url /a?b=c"]);
        check(r#"{"url":"HTTPS://x.test/a"}"#, &["url HTTPS://x.test/a"]);
        check(
            r#"{"prefix":"/blog/","soft":true}"#,
            &["prefix /blog/ (soft)"],
        );
        check(r#"{"tag":"product 7"}"#, &["tag product 7"]);
        check(r#"{"all":true,"soft":false}"#, &["all"]);
        check(
            r#"{"purges":[{"tag":"a"},{"url":"/b","soft":true}]}"#,
            &["tag a", "url /b (soft)"],
        );
        assert!(order(r#"{"all":true}"#).unwrap().fan_out);
        assert!(!order(r#"{"all":true,"fan_out":false}"#).unwrap().fan_out);
    }

    /// Invariant: the URL of any write can be read back. All gateways would drop everything for an
    /// entry that they cannot read.
    #[test]
    fn targets_of_writes_are_read_whatever_they_are() {
        let long = format!("http://a/{}", "x".repeat(2 * MAX_TARGET_LEN));
        for url in [
            "http://a/\u{3000}\u{a0}b",
            "http://a/\u{fffd}#",
            &long,
            "",
            "x y",
        ] {
            let purge = Purge {
                target: PurgeTarget::Written(url.to_owned()),
                effect: PurgeEffect::Hard,
            };
            let json = serde_json::to_string(std::slice::from_ref(&purge)).unwrap();
            let read: Vec<Purge> = serde_json::from_str(&json).unwrap();
            assert_eq!(read, [purge]);
        }
    }

    #[test]
    fn stored_responses_are_found_by_any_spelling_of_their_url() {
        let normal = |json: Value| {
            let purge = Purge::from_json(&json).unwrap();
            let normal = purge.in_normal_form(Slashes::Merge);
            normal.map_or_else(|bad| bad.to_string(), |purge| purge.to_string())
        };
        for (json, expected) in [
            (json!({ "url": "/%69sr//a?b=%61" }), "url /isr/a?b=%61"),
            (
                json!({ "url": "https://x.test/caf\u{e9}" }),
                "url https://x.test/caf%C3%A9",
            ),
            (json!({ "url": "https://x.test" }), "url https://x.test"),
            (
                json!({ "prefix": "/a/../blog/%c3%a9" }),
                "prefix /blog/%C3%A9",
            ),
            (json!({ "prefix": "/a/." }), "prefix /a/."),
            (json!({ "prefix": "/a?x=" }), "prefix /a?x="),
            (json!({ "tag": "/%61" }), "tag /%61"),
        ] {
            assert_eq!(normal(json), expected);
        }
        let refused = normal(json!({ "url": "/a%00" }));
        assert_eq!(
            refused,
            "no response can be stored for `/a%00`: the path has an encoded NUL"
        );
    }

    #[test]
    fn many_purges_are_one_short_line() {
        let url = |path: &str| Purge {
            target: PurgeTarget::Url(path.to_owned()),
            effect: PurgeEffect::Hard,
        };
        assert_eq!(
            Purge::line(&[url("/a"), Purge::ALL], Purge::to_string),
            "url /a, all"
        );
        let long = format!("/{}", "x".repeat(150));
        let many = [url(&long), url("/b"), url(&long), url("/c")];
        assert_eq!(
            Purge::line(&many, Purge::to_string),
            format!("url {long}, url /b and 2 more")
        );
        let longest = Purge::line(&[url(&long.repeat(3))], Purge::to_string);
        assert_eq!(longest.chars().count(), MAX_SHOWN_LEN);
    }

    #[test]
    fn invalid_purges_are_refused_with_a_reason() {
        refuse("[]", "must be a JSON object");
        refuse("{}", "no target to purge");
        refuse(r#"{"soft":true}"#, "no target to purge");
        refuse(r#"{"url":"/a","tag":"b"}"#, "not `url` and `tag`");
        refuse(r#"{"urls":"/a"}"#, "unknown key `urls`");
        refuse(r#"{"all":false}"#, "`all` can only be `true`");
        refuse(r#"{"written":"http://a/b"}"#, "unknown key `written`");
        refuse(
            r#"{"purges":[{"written":"http://a/b"}]}"#,
            "unknown key `written`",
        );
        refuse(r#"{"url":"blog"}"#, "must be a path such as `/blog`");
        refuse(
            r#"{"url":"https:///blog"}"#,
            "must be a path such as `/blog`",
        );
        refuse(r#"{"url":"/a b"}"#, "encode it");
        refuse(r#"{"url":"/a#b"}"#, "has a `#`");
        refuse(r#"{"url":7}"#, "`url` must be a string");
        refuse(r#"{"tag":"a,b"}"#, "must be one tag");
        refuse(r#"{"tag":""}"#, "`tag` is empty");
        refuse(
            r#"{"url":"/a","soft":1}"#,
            "`soft` must be `true` or `false`",
        );
        refuse(r#"{"purges":[]}"#, "nothing to purge");
        refuse(r#"{"purges":[{"url":"/a"},{}]}"#, "purges[1]: no target");
        refuse(
            r#"{"purges":[{"url":"/a"}],"soft":true}"#,
            "belongs in the items",
        );
        let many = vec![json!({"all": true}); MAX_PURGES + 1];
        refuse(&json!({ "purges": many }).to_string(), "too many");
    }
}
