//! Locations of tokens in a request.

use std::borrow::Cow;

use edgeway_base::query;
use edgeway_core::chain::{CredentialPlace, Exchange, after_scheme};
use http::{HeaderName, HeaderValue, header};

const SCHEME: &str = "bearer";

/// Content of a location.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SourceContent<'a> {
    Nothing,
    Token(Cow<'a, str>),
    /// Several values, or a value that cannot be a token: the right one is unclear.
    Unclear,
}

/// Returns the location of this `kind`; `None` if `name` is invalid for it.
pub(super) fn location(kind: &str, name: &str) -> Option<CredentialPlace> {
    let is_plain = |separators: &str| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_graphic() && !separators.contains(c))
    };
    match kind {
        "header" => HeaderName::from_bytes(name.as_bytes())
            .ok()
            .map(|name| CredentialPlace::of_header(name, SCHEME)),
        "cookie" => is_plain("=;,\"").then(|| CredentialPlace::Cookie(name.into())),
        "query" => is_plain("&=#?%+").then(|| CredentialPlace::Query(name.into())),
        _ => None,
    }
}

/// Returns the token at a location. In headers it is behind `Bearer` (RFC 6750, 2.1), or bare in
/// those that have no other schemes.
pub(super) fn find<'a>(place: &'a CredentialPlace, ex: &Exchange<'a>) -> SourceContent<'a> {
    let headers = &ex.head.headers;
    match place {
        CredentialPlace::Header(name) => {
            let values = headers.get_all(name).iter();
            let token = |value: &'a HeaderValue| {
                after_scheme(value, SCHEME).unwrap_or_else(|| value.as_bytes().trim_ascii())
            };
            single(values.map(token), Cow::Borrowed)
        }
        CredentialPlace::Scheme(scheme) => {
            let values = headers.get_all(header::AUTHORIZATION).iter();
            single(
                values.filter_map(|value| after_scheme(value, scheme)),
                Cow::Borrowed,
            )
        }
        CredentialPlace::Cookie(name) => {
            single(query::cookies(headers, name.as_bytes()), Cow::Borrowed)
        }
        CredentialPlace::Query(name) => match query::query_of(ex.head.raw_path()) {
            Some(query) => single(query::values(query, name.as_bytes()), query::decoded),
            None => SourceContent::Nothing,
        },
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
