//! Locations of tokens in a request, and removal of tokens from them.

use std::borrow::Cow;

use edgeway_base::query;
use edgeway_core::chain::Exchange;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// A location of a token.
#[derive(Debug)]
pub(super) enum TokenSource {
    Header(HeaderName),
    Cookie(Box<str>),
    Query(Box<str>),
}

/// Content of a location.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SourceContent<'a> {
    Nothing,
    Token(Cow<'a, str>),
    /// Several values, or a value that cannot be a token: the right one is unclear.
    Unclear,
}

impl TokenSource {
    /// Creates a location; `None` if `name` is invalid for its `kind`.
    pub(super) fn new(kind: &str, name: &str) -> Option<Self> {
        let is_plain = |separators: &str| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !separators.contains(c))
        };
        match kind {
            "header" => HeaderName::from_bytes(name.as_bytes())
                .ok()
                .map(Self::Header),
            "cookie" => is_plain("=;,\"").then(|| Self::Cookie(name.into())),
            "query" => is_plain("&=#?%+").then(|| Self::Query(name.into())),
            _ => None,
        }
    }

    pub(super) fn find<'a>(&'a self, ex: &Exchange<'a>) -> SourceContent<'a> {
        match self {
            Self::Header(name) => {
                let values = ex.head.headers.get_all(name).iter();
                let takes_bare = *name != header::AUTHORIZATION;
                single(
                    values.filter_map(|value| credentials(value, takes_bare)),
                    Cow::Borrowed,
                )
            }
            Self::Cookie(name) => single(
                query::cookies(&ex.head.headers, name.as_bytes()),
                Cow::Borrowed,
            ),
            Self::Query(name) => match query::query_of(ex.head.raw_path()) {
                Some(query) => single(query::values(query, name.as_bytes()), query::decoded),
                None => SourceContent::Nothing,
            },
        }
    }

    /// Returns the header that [`Self::strip`] changes, if any.
    pub(super) fn header(&self) -> Option<HeaderName> {
        match self {
            Self::Header(name) => Some(name.clone()),
            Self::Cookie(_) => Some(header::COOKIE),
            Self::Query(_) => None,
        }
    }

    /// Removes the token from the headers for the backend.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        match self {
            Self::Header(name) => {
                let takes_bare = *name != header::AUTHORIZATION;
                if headers
                    .get_all(name)
                    .iter()
                    .any(|value| credentials(value, takes_bare).is_some())
                {
                    headers.remove(name);
                }
            }
            Self::Cookie(name) => strip_cookie(headers, name.as_bytes()),
            // Removed from the target of every request.
            Self::Query(_) => {}
        }
    }

    /// Describes the location for `edgeway explain`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Header(name) => format!("the header `{name}`"),
            Self::Cookie(name) => format!("the cookie `{name}`"),
            Self::Query(name) => format!("the query parameter `{name}`"),
        }
    }
}

/// Returns the token in a header: after `Bearer` (RFC 6750, 2.1), or bare where that is allowed.
/// `None` for other schemes, which belong to other filters or the app.
fn credentials(value: &HeaderValue, takes_bare: bool) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let value = value.as_bytes().trim_ascii();
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case(SCHEME) && rest.first().is_none_or(|b| *b == b' ') =>
        {
            Some(rest.trim_ascii())
        }
        _ => takes_bare.then_some(value),
    }
}

/// Returns the only non-empty value.
fn single<'a>(
    values: impl Iterator<Item = &'a [u8]>,
    decode: fn(&'a [u8]) -> Cow<'a, [u8]>,
) -> SourceContent<'a> {
    let mut values = values.filter(|value| !value.is_empty());
    let Some(value) = values.next() else {
        return SourceContent::Nothing;
    };
    if values.next().is_some() {
        return SourceContent::Unclear;
    }
    let text = match decode(value) {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    text.map_or(SourceContent::Unclear, SourceContent::Token)
}

fn strip_cookie(headers: &mut HeaderMap, name: &[u8]) {
    if query::cookies(headers, name).next().is_none() {
        return;
    }
    let mut remaining: Vec<u8> = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let own = pair.split(|byte| *byte == b'=').next();
            if pair.is_empty() || own.map(<[u8]>::trim_ascii_end) == Some(name) {
                continue;
            }
            if !remaining.is_empty() {
                remaining.extend_from_slice(b"; ");
            }
            remaining.extend_from_slice(pair);
        }
    }
    headers.remove(header::COOKIE);
    if let Ok(value) = HeaderValue::from_bytes(&remaining)
        && !remaining.is_empty()
    {
        headers.insert(header::COOKIE, value);
    }
}
