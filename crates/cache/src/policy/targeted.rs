//! Precedence of the fields with cache directives: `CDN-Cache-Control` (RFC 9213),
//! `Surrogate-Control`, then `Cache-Control`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::{
    IgnoredHeaders,
    directives::{self, Argument, Directives, FieldScope, MAX_SECONDS, StaleWindow},
};

pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Response header meant only for caches in front of the origin, needed again when the stored
/// response is validated.
pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// Directives of the origin for this cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub directives: Directives,
    /// True if `Expires` counts too: it does not beside a targeted field (RFC 9213, 2.2).
    pub reads_expires: bool,
}

impl Policy {
    pub(super) fn parse(headers: &HeaderMap) -> Self {
        Self::without(headers, IgnoredHeaders::default())
    }

    /// Reads the fields of a response, except for those that a route ignores.
    pub(super) fn without(headers: &HeaderMap, ignored: IgnoredHeaders) -> Self {
        if let Some(directives) = cdn(headers).or_else(|| surrogate(headers)) {
            return Self {
                directives,
                reads_expires: false,
            };
        }
        let written = if ignored.cache_control {
            Some(Directives::default())
        } else {
            Directives::parse(headers)
        };
        let directives = written.unwrap_or_else(|| {
            let mut none = Directives::default();
            // RFC 9111, 5.4 defines it for requests only. An origin that sends it alone does not
            // want the response stored.
            if super::request_directives::is_pragma_no_cache(headers) {
                none.no_cache = FieldScope::Whole;
            }
            none
        });
        Self {
            directives,
            reads_expires: !ignored.expires,
        }
    }
}

/// Parses `CDN-Cache-Control`, a dictionary of structured fields (RFC 9213). A field that is
/// invalid, empty, or gives a known directive a value of the wrong type is ignored.
fn cdn(headers: &HeaderMap) -> Option<Directives> {
    if !headers.contains_key(CDN_CACHE_CONTROL) {
        return None;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(CDN_CACHE_CONTROL)
        .iter()
        .map(http::HeaderValue::as_bytes)
        .collect();
    let members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut directives = Directives::default();
    for (key, entry) in &members {
        let ListEntry::Item(item) = entry else {
            if is_known(key.as_str()) {
                return None;
            }
            continue;
        };
        typed(&mut directives, key.as_str(), &item.bare_item)?;
    }
    Some(directives)
}

/// Sets one directive; `None` if the value has the wrong type.
fn typed(directives: &mut Directives, key: &str, value: &BareItem) -> Option<()> {
    let is_set = || value.as_boolean();
    match key {
        "max-age" => directives.max_age = Some(seconds(value)?),
        "s-maxage" => directives.s_maxage = Some(seconds(value)?),
        "stale-while-revalidate" => directives.stale_while_revalidate = Some(window(value)?),
        "stale-if-error" => directives.stale_if_error = Some(window(value)?),
        "no-store" => directives.no_store = is_set()?,
        "public" => directives.public = is_set()?,
        "must-revalidate" => directives.must_revalidate = is_set()?,
        "proxy-revalidate" => directives.proxy_revalidate = is_set()?,
        "must-understand" => directives.must_understand = is_set()?,
        "no-cache" => directives.no_cache = listed(value)?,
        "private" => directives.private = listed(value)?,
        _ => {}
    }
    Some(())
}

fn is_known(key: &str) -> bool {
    Directives::default().add(key.as_bytes(), &Argument::None)
}

fn seconds(value: &BareItem) -> Option<Duration> {
    let number = i64::from(value.as_integer()?);
    // Negative numbers mean stale, as in `Cache-Control`.
    Some(Duration::from_secs(u64::try_from(number).unwrap_or(0)).min(MAX_SECONDS))
}

fn window(value: &BareItem) -> Option<StaleWindow> {
    if value.as_boolean() == Some(true) {
        return Some(StaleWindow::Open);
    }
    seconds(value).map(StaleWindow::For)
}

fn listed(value: &BareItem) -> Option<FieldScope> {
    if let Some(is_set) = value.as_boolean() {
        return Some(if is_set {
            FieldScope::Whole
        } else {
            FieldScope::Absent
        });
    }
    let names = value.as_string()?;
    Some(FieldScope::fields(names.as_str().as_bytes()))
}

/// Parses `Surrogate-Control` of Edge Architecture 1.0: like `Cache-Control`, except for
/// `max-age=A+B` (stale responses may be used for `B`) and members for a named surrogate (`;here`),
/// which never means this gateway. A field without a known directive is ignored.
fn surrogate(headers: &HeaderMap) -> Option<Directives> {
    let mut directives = Directives::default();
    let mut is_understood = false;
    for line in headers.get_all(SURROGATE_CONTROL) {
        directives::each(line.as_bytes(), |name, argument| {
            if name.contains(&b';') || matches!(argument, Argument::Token(t) if t.contains(&b';')) {
                return;
            }
            if let Argument::Token(text) = argument
                && name.eq_ignore_ascii_case(b"max-age")
                && let Some(plus) = text.iter().position(|byte| *byte == b'+')
            {
                let part = |text| directives::seconds(text).unwrap_or_default();
                directives.max_age.get_or_insert(part(&text[..plus]));
                directives
                    .stale_while_revalidate
                    .get_or_insert(StaleWindow::For(part(&text[plus + 1..])));
                is_understood = true;
                return;
            }
            is_understood |= directives.add(name, argument);
        });
    }
    is_understood.then_some(directives)
}

/// Returns the fields that the origin asks not to store (RFC 9111, 5.2.2.4 and 5.2.2.7).
pub(super) fn unkept_fields(headers: &HeaderMap) -> Vec<HeaderName> {
    let named = |directives: &Directives| {
        let (no_cache, private) = (directives.no_cache.names(), directives.private.names());
        [no_cache, private].concat()
    };
    let mut fields = named(&Policy::parse(headers).directives);
    // Included even if a targeted field overrides it: the fields that it lists are meant for one
    // client.
    fields.extend(Directives::parse(headers).iter().flat_map(named));
    debug_assert!(!fields.contains(&header::CONTENT_TYPE));
    fields
}
