//! `has` and `missing` conditions of a `config.matcher`, checked beside the path, as in Next.js,
//! which reads the headers as Node.js gives them (its `matchHas`).

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName,
    header::{self, AsHeaderName},
};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::expression::anchored;
use crate::base::{expression::Expression, query::query_of};

/// Request as the client sent it, for conditions to read.
#[derive(Clone, Debug)]
pub struct ClientRequest<'r> {
    pub headers: &'r HeaderMap,
    /// Path and query.
    pub target: &'r [u8],
    /// Host in lower case, without a port.
    pub host: Cow<'r, str>,
}

/// Conditions that hold if all of `has` and none of `missing` are met.
#[derive(Debug)]
pub(super) struct Conditions {
    has: Vec<Condition>,
    missing: Vec<Condition>,
}

impl Conditions {
    /// Returns a condition that the client controls, with its list and the value that it reads.
    pub(super) fn clients_choice(&self) -> Option<String> {
        let of = |list, conditions: &[Condition]| {
            let mut places = conditions.iter().map(|condition| &condition.place);
            places.find_map(|place| {
                let (what, name) = match place {
                    MatchedPart::Header(name, _) => ("header", name.as_str()),
                    MatchedPart::Cookie(name) => ("cookie", &**name),
                    MatchedPart::Query(name) => ("query", &**name),
                    // Routes match on the host too.
                    MatchedPart::Host => return None,
                };
                Some(format!("`{list}` of the {what} `{name}`"))
            })
        };
        of("has", &self.has).or_else(|| of("missing", &self.missing))
    }

    pub(super) fn hold(&self, request: &ClientRequest<'_>) -> bool {
        // The plugin decides where matching gave up: it can look itself.
        let mut missing = self.missing.iter();
        self.has
            .iter()
            .all(|each| each.is_met(request) != Some(false))
            && missing.all(|each| each.is_met(request) != Some(true))
    }
}

#[derive(Debug)]
struct Condition {
    place: MatchedPart,
    /// Pattern of the value; without one, any value matches.
    value: Option<Box<Expression>>,
}

#[derive(Debug)]
enum MatchedPart {
    /// Header with the separator that joins its lines; without one, only the first line counts.
    Header(HeaderName, Option<&'static str>),
    Cookie(Box<str>),
    Query(Box<str>),
    Host,
}

impl Condition {
    /// Returns `None` if matching gave up.
    fn is_met(&self, request: &ClientRequest<'_>) -> Option<bool> {
        match (self.place.value(request), &self.value) {
            (None, _) => Some(false),
            (Some(_), None) => Some(true),
            (Some(value), Some(regex)) => regex.is_match(&value).ok(),
        }
    }
}

impl MatchedPart {
    /// Returns the value at this place; an empty value counts as absent.
    fn value<'r>(&self, request: &'r ClientRequest<'_>) -> Option<Cow<'r, str>> {
        let value = match self {
            Self::Header(name, mark) => header(request.headers, name, *mark)?,
            Self::Cookie(name) => cookie(request.headers, name)?,
            Self::Query(name) => return parameter(query_of(request.target)?, name),
            Self::Host => Cow::Borrowed(&*request.host),
        };
        Some(value).filter(|value| !value.is_empty())
    }
}

/// Headers of which Node.js keeps only the first line.
const SINGLE: &str = "age authorization content-length content-type etag expires from host \
    if-modified-since if-unmodified-since last-modified location max-forwards proxy-authorization \
    referer retry-after server user-agent";

fn mark(name: &HeaderName) -> Option<&'static str> {
    let mark = if *name == header::COOKIE { "; " } else { ", " };
    (!SINGLE.split(' ').any(|own| name == own)).then_some(mark)
}

pub(super) fn header<'r>(
    headers: &'r HeaderMap,
    name: impl AsHeaderName,
    mark: Option<&str>,
) -> Option<Cow<'r, str>> {
    let mut lines = headers.get_all(name).iter();
    let mut whole = latin(lines.next()?.as_bytes());
    let Some(mark) = mark else {
        return Some(whole);
    };
    for line in lines {
        let whole = whole.to_mut();
        whole.push_str(mark);
        whole.push_str(&latin(line.as_bytes()));
    }
    Some(whole)
}

/// Decodes a header value as Node.js does: each byte is one character.
pub(super) fn latin(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.iter().copied().map(char::from).collect()),
    }
}

/// Returns the first cookie of that name, as the package `cookie` reads it.
fn cookie<'r>(headers: &'r HeaderMap, name: &str) -> Option<Cow<'r, str>> {
    let lines = headers.get_all(header::COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        let (key, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        (latin(key) == name).then_some(value)
    })?;
    let value = match value {
        [b'"', quoted @ .., _] => quoted,
        b"\"" => b"",
        value => value,
    };
    let value = latin(value);
    Some(match decoded(&value) {
        Some(decoded) => Cow::Owned(decoded),
        None => value,
    })
}

/// Decodes as `decodeURIComponent` does; `None` if nothing is encoded, or decoding fails.
fn decoded(text: &str) -> Option<String> {
    let mut escapes = text.split('%').skip(1).peekable();
    escapes.peek()?;
    let is_code = |code: &str| {
        let digits = code.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let bytes = escapes
        .all(is_code)
        .then(|| percent_decode_str(text).collect());
    String::from_utf8(bytes?).ok()
}

/// Returns the last parameter of that name. A single empty one counts as absent, several do not.
fn parameter<'r>(query: &'r [u8], name: &str) -> Option<Cow<'r, str>> {
    let pairs = form_urlencoded::parse(query);
    let mut values = pairs.filter_map(|(own, value)| (own == name).then_some(value));
    let first = values.next()?;
    match values.last() {
        Some(last) => Some(last),
        None => Some(first).filter(|value| !value.is_empty()),
    }
}

/// Takes `has` and `missing` out of an entry; `None` if neither has a condition.
pub(super) fn take(entry: &mut Map<String, Value>) -> Result<Option<Box<Conditions>>, String> {
    let mut list = |key: &str| match entry.remove(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) => all.into_iter().map(|each| read(key, each)).collect(),
        Some(_) => Err(format!(
            "`{key}` in `config.matcher` must be a list, such as `[{EXAMPLE}]`"
        )),
    };
    let (has, missing): (Vec<_>, Vec<_>) = (list("has")?, list("missing")?);
    let is_any = !has.is_empty() || !missing.is_empty();
    Ok(is_any.then(|| Box::new(Conditions { has, missing })))
}

const EXAMPLE: &str = "{ type: 'header', key: 'purpose', value: 'prefetch' }";

/// Reads a condition of `list`.
fn read(list: &str, written: Value) -> Result<Condition, String> {
    let refuse = |why: &str| Err(format!("a condition of `{list}` in `config.matcher` {why}"));
    let Value::Object(mut written) = written else {
        return refuse(&format!("is not an object such as `{EXAMPLE}`"));
    };
    let mut texts = [None, None, None];
    for (name, text) in ["type", "key", "value"].iter().zip(&mut texts) {
        *text = match written.remove(*name) {
            None => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return refuse(&format!("has a `{name}` that is not a string")),
        };
    }
    if let Some(other) = written.keys().next() {
        return refuse(&format!(
            "has the unknown key `{other}`: use `type`, `key` and `value`"
        ));
    }
    let [kind, key, value] = texts;
    let value = value.filter(|value| !value.is_empty());
    let Some(kind) = kind else {
        return refuse("has no `type`: write `header`, `cookie`, `query` or `host`");
    };
    let place = match (&*kind, key.filter(|key| !key.is_empty())) {
        ("host", None) if value.is_some() => MatchedPart::Host,
        ("host", _) => {
            return refuse(
                "is of type `host`, which has a `value` and no `key`: write `{ type: 'host', value: 'shop.example.com' }`",
            );
        }
        ("header" | "cookie" | "query", None) => {
            return refuse(&format!(
                "is of type `{kind}` and has no `key`: write `{{ type: '{kind}', key: 'name' }}`"
            ));
        }
        ("header", Some(key)) => match HeaderName::from_bytes(key.as_bytes()) {
            Ok(name) => {
                let mark = mark(&name);
                MatchedPart::Header(name, mark)
            }
            Err(_) => return refuse(&format!("has the `key` `{key}`, an invalid header name")),
        },
        ("cookie", Some(key)) => MatchedPart::Cookie(key.into()),
        ("query", Some(key)) => MatchedPart::Query(key.into()),
        _ => {
            return refuse(&format!(
                "has the unknown type `{kind}`: use `header`, `cookie`, `query` or `host`, and \
                 check anything else in the hook"
            ));
        }
    };
    let value = match value.map(|value| anchored(&value)).transpose() {
        Ok(value) => value.map(Box::new),
        Err(why) => {
            return refuse(&format!(
                "has a `value` that is not a regular expression: {why}"
            ));
        }
    };
    Ok(Condition { place, value })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn conditions(written: Value) -> Result<Option<Box<Conditions>>, String> {
        let Value::Object(mut entry) = written else {
            panic!("an entry is an object");
        };
        take(&mut entry)
    }

    /// `request` is the query, then header lines.
    #[track_caller]
    fn assert_hold(written: &Value, request: &[&str], expected: bool) {
        let conditions = conditions(written.clone()).unwrap().unwrap();
        let mut headers = HeaderMap::new();
        for line in &request[1..] {
            let (name, value) = line.split_once(": ").unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            // Each character is one byte.
            let value: Vec<u8> = value.chars().map(|c| u8::try_from(c).unwrap()).collect();
            headers.append(name, HeaderValue::from_bytes(&value).unwrap());
        }
        let target = format!("/a{}", request[0]);
        let request = ClientRequest {
            headers: &headers,
            target: target.as_bytes(),
            host: Cow::Borrowed("shop.test"),
        };
        assert_eq!(conditions.hold(&request), expected, "{written} {request:?}");
    }

    fn one(kind: &str, key: &str, value: Option<&str>) -> Value {
        json!({ "type": kind, "key": key, "value": value.unwrap_or("") })
    }

    #[track_caller]
    fn assert_met(condition: &Value, yes: &[&[&str]], no: &[&[&str]]) {
        for (all, is_met) in [(yes, true), (no, false)] {
            for request in all {
                assert_hold(&json!({ "has": [condition] }), request, is_met);
                assert_hold(&json!({ "missing": [condition] }), request, !is_met);
            }
        }
    }

    #[test]
    fn a_header_exists_or_matches_its_value() {
        assert_met(
            &one("header", "X-A", None),
            &[&["", "x-a: 1"], &["", "x-a: ", "x-a: "], &["", "x-a: é"]],
            &[&[""], &["", "x-a: "], &["", "x-b: 1"]],
        );
        assert_met(
            &one("header", "purpose", Some("pre.*")),
            &[
                &["", "purpose: prefetch"],
                &["", "purpose: pre", "purpose: x"],
            ],
            &[
                &["", "purpose: Prefetch"],
                &["", "purpose: no pre"],
                &["", "purpose: x", "purpose: pre"],
            ],
        );
        assert_met(
            &one("header", "x-a", Some("1, 2")),
            &[&["", "x-a: 1", "x-a: 2"]],
            &[&["", "x-a: 1"]],
        );
        assert_met(
            &one("header", "user-agent", Some("a")),
            &[&["", "user-agent: a", "user-agent: b"]],
            &[&["", "user-agent: b", "user-agent: a"]],
        );
        assert_met(
            &one("header", "cookie", Some("a=1; b=2")),
            &[&["", "cookie: a=1", "cookie: b=2"]],
            &[],
        );
    }

    #[test]
    fn a_cookie_is_decoded_and_the_first_counts() {
        assert_met(
            &one("cookie", "auth", None),
            &[
                &["", "cookie: a=1; auth=x"],
                &["", "cookie: auth; auth=1"],
                &["", "cookie: a=b", "cookie: auth=1"],
            ],
            &[
                &[""],
                &["", "cookie: auth"],
                &["", "cookie: auth="],
                &["", "cookie: auth=\"\""],
                &["", "cookie: auth=; auth=1"],
                &["", "cookie: Auth=1; aauth=1"],
            ],
        );
        assert_met(
            &one("cookie", "a", Some("ä b")),
            &[
                &["", "cookie: a=%C3%A4%20b"],
                &["", "cookie: a = \"ä%20b\" ; c=d"],
                &["", "cookie: a=ä b; a=c"],
            ],
            &[
                &["", "cookie: a=%E4 b"],
                &["", "cookie: a=ä+b"],
                &["", "cookie: a=c; a=ä b"],
            ],
        );
        assert_met(
            &one("cookie", "a", Some("100%|%4|%E0%A4%A%20")),
            &[
                &["", "cookie: a=100%"],
                &["", "cookie: a=%4"],
                &["", "cookie: a=%E0%A4%A%20"],
            ],
            &[],
        );
    }

    #[test]
    fn of_several_parameters_the_last_counts() {
        assert_met(
            &one("query", "a", None),
            &[&["?b&a=1"], &["?%61=1"], &["?a=&a="], &["?a=1&a="]],
            &[
                &[""],
                &["?"],
                &["?a"],
                &["?a=&b=1"],
                &["?A=1"],
                &["?b=?a=1"],
            ],
        );
        assert_met(
            &one("query", "a", Some("x y|")),
            &[&["?a=x+y"], &["?a=1&a=x%20y"], &["?a=1&a="], &["?a=1"]],
            &[&["?a="], &["?b=x+y"]],
        );
        assert_met(
            &one("query", "a", Some("x")),
            &[&["?a=y&a=x"]],
            &[&["?a=x&a=y"]],
        );
    }

    #[test]
    fn a_host_matches_its_value() {
        let host = |value: &str| json!({ "type": "host", "value": value });
        assert_met(&host("shop\\.test"), &[&[""]], &[]);
        assert_met(&host("(?<name>.*)\\.test"), &[&[""]], &[]);
        assert_met(&host("shop"), &[], &[&[""]]);
        assert_met(&host("Shop\\.test"), &[], &[&[""]]);
    }

    #[test]
    fn all_of_has_and_none_of_missing_must_match() {
        let prefetch = json!({ "missing": [
            { "type": "header", "key": "next-router-prefetch" },
            { "type": "header", "key": "purpose", "value": "prefetch" },
        ] });
        assert_hold(&prefetch, &[""], true);
        assert_hold(&prefetch, &["", "purpose: other"], true);
        assert_hold(&prefetch, &["", "purpose: prefetch"], false);
        assert_hold(&prefetch, &["", "next-router-prefetch: 1"], false);
        let both = json!({
            "has": [one("query", "a", None), one("cookie", "b", None)],
            "missing": [one("header", "c", None)],
        });
        assert_hold(&both, &["?a=1", "cookie: b=1"], true);
        assert_hold(&both, &["?a=1"], false);
        assert_hold(&both, &["", "cookie: b=1"], false);
        assert_hold(&both, &["?a=1", "cookie: b=1", "c: 1"], false);
    }

    #[test]
    fn undecided_conditions_run_the_plugin() {
        let hard = one("query", "a", Some("(?:(?!x)(?:a|aa))*c"));
        let query = format!("?a={}b", "a".repeat(100));
        assert_hold(&json!({ "has": [hard] }), &[&query], true);
        assert_hold(&json!({ "missing": [hard] }), &[&query], true);
    }

    #[test]
    fn invalid_conditions_are_reported() {
        for (list, why) in [
            (json!({ "type": "header", "key": "a" }), "a list, such as"),
            (json!(["header"]), "not an object such as"),
            (json!([{ "key": "a" }]), "no `type`: write `header`"),
            (
                json!([{ "type": "method", "key": "a" }]),
                "unknown type `method`: use",
            ),
            (json!([{ "type": "query" }]), "type: 'query', key: 'name'"),
            (json!([{ "type": "cookie", "key": "" }]), "no `key`"),
            (
                json!([{ "type": "header", "key": "a b" }]),
                "invalid header name",
            ),
            (
                json!([{ "type": "header", "key": 1 }]),
                "`key` that is not a string",
            ),
            (
                json!([{ "type": "query", "key": "a", "value": true }]),
                "`value` that is not a string",
            ),
            (
                json!([{ "type": "query", "key": "a", "value": "(" }]),
                "not a regular expression: `(`",
            ),
            (
                json!([{ "type": "query", "key": "a", "values": "b" }]),
                "unknown key `values`",
            ),
            (json!([{ "type": "host" }]), "no `key`: write"),
            (
                json!([{ "type": "host", "key": "a", "value": "b" }]),
                "no `key`: write",
            ),
        ] {
            for key in ["has", "missing"] {
                let message = conditions(json!({ key: list })).unwrap_err();
                assert!(
                    message.contains(why) && message.contains(key),
                    "{list}: {message}"
                );
            }
        }
        assert!(
            conditions(json!({ "has": [], "missing": [] }))
                .unwrap()
                .is_none()
        );
    }
}
