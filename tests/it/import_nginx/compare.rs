//! Differences between two sides of one request: towards the client, and towards the backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::DateTime;

use super::{
    draft::Drawn,
    origin::{CASE, Seen},
    wire::Outcome,
};
use crate::support::verify;

/// Response headers that are not compared, each with the reason.
const NOT_COMPARED: [(&str, &str); 6] = [
    ("date", "the time of the response"),
    ("server", "the name of the program that responds"),
    (
        "connection",
        "of this connection alone; reuse is compared by itself",
    ),
    ("keep-alive", "of this connection alone"),
    ("transfer-encoding", "the framing; the body is compared"),
    ("content-length", "the framing; the body is compared"),
];

/// Headers of requests to backends that are not compared, each with the reason.
const NOT_SENT: [(&str, &str); 4] = [
    ("connection", "of the connection to the backend alone"),
    ("keep-alive", "of the connection to the backend alone"),
    (
        "transfer-encoding",
        "the framing; the length of the body is compared",
    ),
    (
        "content-length",
        "the framing; the length of the body is compared",
    ),
];

/// Value of [`What::Reuse`] where the gateway closes a connection after a response of its own.
pub(super) const CLOSED_BY_ITSELF: &str = "closed after a response of its own";

/// Property in which two sides differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// No response, or a broken one.
    Broken,
    Status,
    Header(String),
    Body,
    /// The connection takes another request, or not.
    Reuse,
    /// The backends that were asked, each as often as it was.
    Asked,
    Method,
    Target,
    Sent(String),
    SentBody,
    /// Page of an error: one side has its own, the other that of a backend.
    Page,
    /// Request to a service that decides who may pass.
    Checked,
}

impl fmt::Display for What {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(out, "response header {name}"),
            Self::Sent(name) => write!(out, "header {name} to the backend"),
            Self::Asked => write!(out, "backends asked"),
            Self::Method => write!(out, "method to the backend"),
            Self::Target => write!(out, "target to the backend"),
            Self::Page => write!(out, "page of an error"),
            Self::Checked => write!(out, "request to the auth service"),
            Self::SentBody => write!(out, "body to the backend"),
            other => write!(out, "{}", format!("{other:?}").to_lowercase()),
        }
    }
}

/// Difference with both values.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) what: What,
    pub(super) nginx: String,
    pub(super) own: String,
}

impl Difference {
    /// Returns true if the two sides have the responses of the origin to different requests.
    pub(super) fn is_of_stored(&self) -> bool {
        matches!(&self.what, What::Header(name) if name == "x-served")
    }
}

/// Everything that one side made of one request, in neutral words.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) outcome: Outcome,
    pub(super) seen: Vec<Seen>,
    /// Client address and number of the request on its connection.
    pub(super) key: String,
}

/// Compares what two sides made of a request.
pub(super) fn differences(request: &Drawn, nginx: &Record, own: &Record) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut add = |what: What, nginx: String, own: String| {
        if nginx != own {
            found.push(Difference { what, nginx, own });
        }
    };
    let broken = |record: &Record| record.outcome.broken.clone().unwrap_or_default();
    add(What::Broken, broken(nginx), broken(own));
    let status = |record: &Record| record.outcome.status.to_string();
    add(What::Status, status(nginx), status(own));
    let asked = |record: &Record| {
        let backends = record.seen.iter().map(|seen| seen.group.clone());
        backends.collect::<Vec<_>>().join(" ")
    };
    add(What::Asked, asked(nginx), asked(own));
    // With another status, or from another backend, everything else follows from that.
    if nginx.outcome.status == own.outcome.status && nginx.outcome.broken == own.outcome.broken {
        response(request, &nginx.outcome, &own.outcome, &mut add);
    }
    if asked(nginx) == asked(own) {
        for (theirs, ours) in nginx.seen.iter().zip(&own.seen) {
            sent(theirs, ours, &mut add);
        }
    }
    found
}

fn response(
    request: &Drawn,
    nginx: &Outcome,
    own: &Outcome,
    add: &mut impl FnMut(What, String, String),
) {
    let is_made = |outcome: &Outcome| outcome.header("x-backend").is_none();
    // Any server may close a connection; one that is kept longer harms nobody.
    if nginx.is_kept && !own.is_kept {
        let what = if is_made(own) {
            CLOSED_BY_ITSELF
        } else {
            "false"
        };
        add(What::Reuse, "true".to_owned(), what.to_owned());
    }
    // Pages of errors that a server makes itself are compared by their status.
    let is_page = nginx.status >= 300 && is_made(nginx) && is_made(own);
    if nginx.status >= 400 && is_made(nginx) != is_made(own) {
        let whose = |outcome: &Outcome| if is_made(outcome) { "own" } else { "backend's" };
        add(What::Page, whose(nginx).to_owned(), whose(own).to_owned());
        return;
    }
    let mut fields = BTreeMap::<&str, [Vec<&str>; 2]>::new();
    for (side, outcome) in [nginx, own].into_iter().enumerate() {
        for (name, value) in &outcome.fields {
            fields.entry(name).or_default()[side].push(value);
        }
    }
    for (name, [theirs, ours]) in fields {
        let is_of_page = is_page
            && matches!(
                name,
                "content-type" | "content-encoding" | "etag" | "last-modified"
            );
        if theirs == ours || is_of_page || NOT_COMPARED.iter().any(|(given, _)| *given == name) {
            continue;
        }
        let values = |outcome: &Outcome, values: &[&str]| {
            let mut all: Vec<String> = match name {
                "expires" if is_same_time(nginx, own) => Vec::new(),
                "expires" => values.iter().map(|text| moved(outcome, text)).collect(),
                "location" => values.iter().map(|text| resolved(request, text)).collect(),
                // As `content-encoding`: whether a page of its own is worth it, each says itself.
                "vary" if is_page => {
                    let list = values.join(",").to_lowercase();
                    vec![listed(&list.replace("accept-encoding", ""))]
                }
                "vary" | "cache-control" => vec![listed(&values.join(","))],
                _ => values.iter().map(ToString::to_string).collect(),
            };
            all.sort();
            all.join(" + ")
        };
        let [theirs, ours] = [values(nginx, &theirs), values(own, &ours)];
        add(What::Header(name.to_owned()), theirs, ours);
    }
    if is_page {
        return;
    }
    if nginx.body == own.body {
        return;
    }
    let body = |outcome: &Outcome| {
        let coding = outcome.header("content-encoding").unwrap_or_default();
        let plain = verify::decoded(coding, &outcome.body);
        let plain = plain.unwrap_or_else(|_| outcome.body.clone());
        let text = String::from_utf8_lossy(&plain).into_owned();
        if text.len() > 200 {
            let digest = verify::digest(&plain);
            return format!("{} bytes, {digest}", plain.len());
        }
        text
    };
    add(What::Body, body(nginx), body(own));
}

/// Returns true if both responses expire after the same time, but for some seconds: they were made at
/// different moments.
fn is_same_time(nginx: &Outcome, own: &Outcome) -> bool {
    let time = |text: &str| DateTime::parse_from_rfc2822(text).ok();
    let left = |outcome: &Outcome| {
        let expires = outcome.header("expires").and_then(time)?;
        let date = outcome.header("date").and_then(time)?;
        (expires >= date).then(|| (expires - date).num_seconds())
    };
    let both = left(nginx).zip(left(own));
    both.is_some_and(|(theirs, ours)| (theirs - ours).abs() <= 5)
}

/// `Expires` relative to the time of the response.
fn moved(outcome: &Outcome, expires: &str) -> String {
    let time = |text: &str| DateTime::parse_from_rfc2822(text).ok();
    match (time(expires), outcome.header("date").and_then(time)) {
        (Some(expires), Some(date)) if expires > date => {
            // Both dates are whole seconds, taken at different moments.
            let seconds = (expires - date).num_seconds();
            format!("in {} s", (seconds + 5) / 10 * 10)
        }
        _ => expires.to_owned(),
    }
}

/// Words of a list header, in order and lower case.
fn listed(text: &str) -> String {
    let words = text.split(',').map(|word| word.trim().to_ascii_lowercase());
    let words: BTreeSet<String> = words.filter(|word| !word.is_empty()).collect();
    words.into_iter().collect::<Vec<_>>().join(",")
}

/// Makes `Location` absolute: a path means the same as the URL with the request's own host
/// (RFC 9110, 10.2.2), and so does the default port.
fn resolved(request: &Drawn, location: &str) -> String {
    let host = request.header("host").unwrap_or_default();
    if location.starts_with('/') && !location.starts_with("//") {
        return format!("//{host}{location}").to_ascii_lowercase_host();
    }
    let rest = location.split_once(':').map_or(location, |(_, rest)| rest);
    let is_own = rest.strip_prefix("//").and_then(|rest| {
        let (place, _) = rest.split_once('/')?;
        let name = |place: &str| place.split(':').next().unwrap_or_default().to_lowercase();
        (name(place) == name(host)).then_some(())
    });
    match is_own {
        // nginx adds its own port, which is the usual one of the scheme in the shape.
        Some(()) if location.starts_with("http://") || rest.contains(":@443/") => {
            rest.to_ascii_lowercase_host()
        }
        _ => location.to_owned(),
    }
}

/// Returns a value without what is another one for each request: an id that a server drew, or the
/// time in milliseconds.
fn lasting(value: &str) -> &str {
    let is_id = value.len() == 32
        && value
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let digits = value.trim_start_matches("t=");
    let is_time = digits.len() == 14 && digits.starts_with('1') && digits.as_bytes()[10] == b'.';
    match (is_id, is_time) {
        (true, _) => "an id",
        (_, true) => "a time",
        _ => value,
    }
}

/// URLs without their scheme.
trait Host {
    fn to_ascii_lowercase_host(&self) -> String;
}

impl Host for str {
    fn to_ascii_lowercase_host(&self) -> String {
        let (place, path) = self[2..].split_at(self[2..].find('/').unwrap_or(self.len() - 2));
        let name = place.split(':').next().unwrap_or_default();
        format!("//{}{path}", name.to_lowercase())
    }
}

fn sent(nginx: &Seen, own: &Seen, add: &mut impl FnMut(What, String, String)) {
    if nginx.is_check() {
        // By these a service decides.
        const DECISIVE: [&str; 3] = ["cookie", "authorization", "x-original-uri"];
        add(What::Method, nginx.method.clone(), own.method.clone());
        add(What::Target, nginx.target.clone(), own.target.clone());
        for name in DECISIVE {
            let value = |seen: &Seen| seen.header(name).unwrap_or_default().to_owned();
            if nginx.header(name).is_some() {
                add(What::Sent(name.to_owned()), value(nginx), value(own));
            }
        }
        let text = |seen: &Seen| {
            let others = seen.headers.iter();
            let others = others.filter(|(name, _)| !DECISIVE.contains(&&**name));
            format!("{:?}", others.collect::<Vec<_>>())
        };
        add(What::Checked, text(nginx), text(own));
        return;
    }
    add(What::Method, nginx.method.clone(), own.method.clone());
    add(What::Target, nginx.target.clone(), own.target.clone());
    add(What::SentBody, nginx.body.to_string(), own.body.to_string());
    let mut values = BTreeMap::<&str, [Vec<&str>; 2]>::new();
    for (side, seen) in [nginx, own].into_iter().enumerate() {
        for (name, value) in &seen.headers {
            values.entry(name).or_default()[side].push(value);
        }
    }
    for (name, [theirs, ours]) in values {
        if name == CASE || NOT_SENT.iter().any(|(given, _)| *given == name) {
            continue;
        }
        let what = What::Sent(name.to_owned());
        let [theirs, ours] = [theirs, ours].map(|values| {
            let values = values.iter().map(|value| lasting(value));
            values.collect::<Vec<_>>().join(" + ")
        });
        add(what, theirs, ours);
    }
}
