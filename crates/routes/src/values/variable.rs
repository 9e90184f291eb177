//! Variables: what the `{names}` in a value stand for, of a request and of its response.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use edgeway_base::{
    clock::Clock, expression::Undecided, host::host_of, net::IpText, query, target::Target,
    units::Span,
};
use edgeway_config::diagnostic::closest;
use edgeway_core::chain::{CacheOutcome, Exchange, Protocol};
use http::{HeaderMap, HeaderName, StatusCode, header, response};

use super::{
    encoding::Encoding,
    lookup::{Lookup, Maps, UsedTable},
    path_text::decoded,
    template::Names,
};

/// Source of values: a request, and its response once there is one.
#[derive(Clone, Copy)]
pub struct Values<'a, 'e> {
    pub(super) ex: &'a Exchange<'e>,
    response: Option<(StatusCode, Option<&'a HeaderMap>)>,
    pub(super) encoding: Encoding,
    /// True if groups are those of a path without percent-encoding.
    pub(super) has_groups_of_path: bool,
    /// Path in place of the request's.
    path: Option<&'a [u8]>,
}

impl<'a, 'e> Values<'a, 'e> {
    pub fn of_request(ex: &'a Exchange<'e>) -> Self {
        Self {
            ex,
            response: None,
            encoding: Encoding::Text,
            has_groups_of_path: false,
            path: None,
        }
    }

    pub fn of_response(ex: &'a Exchange<'e>, response: &'a response::Parts) -> Self {
        let response = Some((response.status, Some(&response.headers)));
        Self {
            response,
            ..Self::of_request(ex)
        }
    }

    /// Values for a response of which only the status is known, such as that of an error.
    pub fn of_status(ex: &'a Exchange<'e>, status: StatusCode) -> Self {
        let response = Some((status, None));
        Self {
            response,
            ..Self::of_request(ex)
        }
    }

    /// The same values, of a request with this path.
    #[must_use]
    pub(super) fn at(self, path: &'a [u8]) -> Self {
        let path = Some(path);
        Self { path, ..self }
    }

    fn path(&self) -> &'a [u8] {
        let sent = || Target::new("", self.ex.head.raw_path()).path;
        self.path.unwrap_or_else(sent)
    }

    /// The same values, encoded for a place.
    #[must_use]
    pub(super) fn encoded(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }
}

#[derive(Clone, Debug)]
pub enum Variable {
    ClientIp,
    ClientPort,
    RequestId,
    Host,
    HostName,
    ListenerPort,
    Route,
    Scheme,
    Protocol,
    Method,
    Path,
    /// Path without percent-encoding, as locations are compared with it.
    PathDecoded,
    /// Path as the client sent it, without percent-encoding: no rewrite changes it.
    PathSent,
    Query,
    /// `?` if there is a query.
    QueryMark,
    /// `&` if there is a query.
    QueryAnd,
    /// Path and query.
    Uri,
    /// Name of the user whose credentials were accepted.
    User,
    /// First value of a header of the request; of `Cookie` all.
    Header(HeaderName),
    /// The same if a trusted proxy sent the request, and empty for any other client.
    FromProxy(HeaderName),
    /// First value of a cookie of the request, as it was sent.
    Cookie(Box<str>),
    /// First value of a name in the query, decoded.
    QueryValue(Box<str>),
    /// First value of a name in the query as it was sent; case does not matter.
    Argument(Box<str>),
    /// The time in seconds since 1970, with milliseconds.
    Now(Clock),
    /// The time of the response and this much more, as an HTTP date.
    Date(Duration, Clock),
    /// Result of a lookup table; `None` if the table has a problem that is reported.
    Map(Option<Arc<Lookup>>),
    /// Status of the response, or of the error whose page is asked for.
    Status,
    /// First value of a header of the response.
    OfResponse(HeaderName),
    /// Word of nginx for what the cache did.
    CacheStatus,
    /// Address of the backend that was asked.
    Backend,
}

/// Beginning of a variable that is a date: `{date+30d}`.
pub(super) const DATE: &str = "date+";

impl Variable {
    const ALL: [(&'static str, Self); 20] = [
        ("client.ip", Self::ClientIp),
        ("client.port", Self::ClientPort),
        ("request_id", Self::RequestId),
        ("host", Self::Host),
        ("host.name", Self::HostName),
        ("listener.port", Self::ListenerPort),
        ("method", Self::Method),
        ("path", Self::Path),
        ("path.decoded", Self::PathDecoded),
        ("path.sent", Self::PathSent),
        ("query", Self::Query),
        ("query_mark", Self::QueryMark),
        ("query_and", Self::QueryAnd),
        ("uri", Self::Uri),
        ("user", Self::User),
        ("route", Self::Route),
        ("scheme", Self::Scheme),
        ("protocol", Self::Protocol),
        ("status", Self::Status),
        ("cache.status", Self::CacheStatus),
    ];

    /// Returns true if the value, or one that a lookup table has it from, has this property.
    pub(super) fn any(&self, is_it: fn(&Self) -> bool) -> bool {
        match self {
            Self::Map(Some(lookup)) => lookup.any(is_it),
            own => is_it(own),
        }
    }

    /// Returns true if requests that are alike to a cache otherwise may differ in the value, so that a
    /// key with the value has to keep them apart.
    pub(super) fn is_keyed(&self) -> bool {
        match self {
            // They are in every key, or no other request or connection has the same one: nothing would
            // be stored for others.
            Self::Host
            | Self::HostName
            | Self::Path
            | Self::PathDecoded
            | Self::Scheme
            | Self::ClientPort
            | Self::RequestId
            | Self::Now(_)
            | Self::Date(..) => false,
            Self::ClientIp
            | Self::ListenerPort
            | Self::Route
            | Self::Protocol
            | Self::Method
            | Self::PathSent
            | Self::Query
            | Self::QueryMark
            | Self::QueryAnd
            | Self::Uri
            | Self::User
            | Self::Header(_)
            | Self::FromProxy(_)
            | Self::Cookie(_)
            | Self::QueryValue(_)
            | Self::Argument(_)
            | Self::Map(_)
            | Self::Status
            | Self::OfResponse(_)
            | Self::CacheStatus
            | Self::Backend => true,
        }
    }

    /// Appends the value in the encoding of `values`. What the configuration says
    /// itself, such as the result of a lookup table, is not encoded.
    pub(super) fn write(
        &self,
        values: &Values<'_, '_>,
        text: &mut String,
    ) -> Result<(), Undecided> {
        let encoding = values.encoding;
        if encoding == Encoding::Text || self.is_encoded_for(encoding) {
            return self.write_plain(values, text);
        }
        let mut plain = String::new();
        let written = self.write_plain(values, &mut plain);
        match (self, encoding) {
            // It is encoded already, but for what only a query divides.
            (Self::Path, Encoding::Query | Encoding::QueryValue) => {
                text.push_str(&plain.replace('&', "%26").replace('+', "%2B"));
            }
            (Self::PathDecoded | Self::PathSent | Self::QueryValue(_), _) => {
                encoding.write_decoded(&plain, text);
            }
            _ => encoding.write(&plain, text),
        }
        written
    }

    /// Returns true if the value is written as it is to a place with this encoding.
    fn is_encoded_for(&self, encoding: Encoding) -> bool {
        match (self, encoding) {
            (_, Encoding::Text) | (Self::Map(_), _) => true,
            (
                _,
                Encoding::Markup
                | Encoding::Attribute
                | Encoding::Link
                | Encoding::Script
                | Encoding::Json
                | Encoding::Quoted
                | Encoding::Parameter,
            ) => false,
            (Self::QueryMark | Self::QueryAnd, _) => true,
            // Parts of a target as they were sent.
            (own, Encoding::QueryValue) => matches!(own, Self::Argument(_)),
            (own, Encoding::Query) => matches!(own, Self::Argument(_) | Self::Query | Self::Uri),
            (own, Encoding::UrlPath) => matches!(own, Self::Path | Self::Uri | Self::Query),
            (own, Encoding::UrlStart { .. }) => {
                matches!(own, Self::Path | Self::Uri | Self::Scheme)
            }
            (own, Encoding::Authority { .. }) => {
                matches!(own, Self::Path | Self::Uri | Self::Host | Self::HostName)
            }
        }
    }

    /// Returns true for a path, which begins with a slash.
    pub(super) fn is_path(&self) -> bool {
        matches!(
            self,
            Self::Path | Self::PathDecoded | Self::PathSent | Self::Uri
        )
    }

    /// Returns true if a client chooses the value, and its own host and path are not it.
    pub(super) fn is_foreign(&self) -> bool {
        match self {
            Self::Map(Some(lookup)) => lookup.fixed_results().is_none(),
            Self::Map(None) | Self::Host | Self::HostName | Self::ListenerPort | Self::Scheme => {
                false
            }
            own => !own.is_path(),
        }
    }

    /// Appends the value; an error is that of a lookup table, whose default it is then.
    fn write_plain(&self, values: &Values<'_, '_>, text: &mut String) -> Result<(), Undecided> {
        let ex = values.ex;
        let target = || String::from_utf8_lossy(ex.head.raw_path());
        match self {
            Self::ClientIp => text.push_str(IpText::new(ex.facts.client.ip).as_str()),
            Self::ClientPort => number(text, ex.facts.client.port),
            Self::RequestId => text.push_str(ex.facts.request_id.as_str()),
            Self::Host => text.push_str(ex.host()),
            Self::HostName => match host_of(ex.host().as_bytes()) {
                Ok(name) => text.push_str(&name),
                Err(_) => text.push_str(ex.host()),
            },
            Self::ListenerPort => number(text, ex.facts.client.listener_port),
            Self::Method => text.push_str(ex.head.method.as_str()),
            Self::Protocol => text.push_str(match ex.facts.client.protocol {
                // As nginx writes it.
                Protocol::Http2 => "HTTP/2.0",
                other => other.as_str(),
            }),
            Self::Path => push(text, values.path()),
            Self::PathDecoded => text.push_str(&decoded(values.path())),
            Self::PathSent => {
                let path = ex.sent_target().split(|byte| *byte == b'?').next();
                text.push_str(&decoded(path.unwrap_or_default()));
            }
            Self::Query => {
                let target = target();
                text.push_str(target.split_once('?').map_or("", |(_, query)| query));
            }
            Self::QueryMark | Self::QueryAnd => {
                let query = query::query_of(ex.head.raw_path());
                if query.is_some_and(|query| !query.is_empty()) {
                    text.push(if matches!(self, Self::QueryMark) {
                        '?'
                    } else {
                        '&'
                    });
                }
            }
            Self::Uri => push(text, values.path.unwrap_or_else(|| ex.sent_target())),
            Self::User => {
                let identity = ex.facts.identity.as_ref();
                text.push_str(identity.and_then(|own| own.user.as_deref()).unwrap_or(""));
            }
            Self::Header(name) if *name == header::COOKIE => cookies(&ex.head.headers, text),
            Self::FromProxy(_) if !ex.facts.client.is_trusted => {}
            Self::Header(name) | Self::FromProxy(name) => first(&ex.head.headers, name, text),
            Self::Cookie(name) => {
                let mut values = query::cookies(&ex.head.headers, name.as_bytes());
                push(text, values.next().unwrap_or_default());
            }
            Self::QueryValue(name) => {
                let query = query::query_of(ex.head.raw_path()).unwrap_or_default();
                let value = query::form_values(query, name.as_bytes()).next();
                push(text, &value.unwrap_or_default());
            }
            Self::Argument(name) => {
                let query = query::query_of(ex.head.raw_path()).unwrap_or_default();
                push(text, argument(query, name).unwrap_or_default());
            }
            Self::Now(clock) => {
                let now = clock.wall().duration_since(std::time::UNIX_EPOCH);
                let now = now.unwrap_or_default();
                // Writing to a string cannot fail.
                let _written = write!(text, "{}.{:03}", now.as_secs(), now.subsec_millis());
            }
            Self::Date(more, clock) => {
                text.push_str(&httpdate::fmt_http_date(clock.wall() + *more));
            }
            Self::Map(lookup) => {
                if let Some(lookup) = lookup {
                    return lookup.write(values, text);
                }
            }
            Self::Route => text.push_str(ex.facts.route.as_deref().unwrap_or_default()),
            Self::Scheme => text.push_str(ex.facts.client.scheme.as_str()),
            Self::Status => {
                let page = ex.facts.rerouted.as_ref().and_then(|own| own.page);
                let status = values.response.map(|(status, _)| status);
                let status = status.or(page.map(|page| page.of));
                text.push_str(status.as_ref().map_or("", StatusCode::as_str));
            }
            Self::OfResponse(name) => {
                if let Some((status, Some(headers))) = values.response
                    && !is_left_out(ex, status, name)
                {
                    first(headers, name, text);
                }
            }
            Self::CacheStatus => text.push_str(cache_status(ex)),
            Self::Backend => {
                text.push_str(ex.facts.upstream.backend.as_deref().unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Returns true for a header that the client does not get: the type of a file that it has already
/// (304), which is removed once all filters have seen it.
fn is_left_out(ex: &Exchange<'_>, status: StatusCode, name: &HeaderName) -> bool {
    status == StatusCode::NOT_MODIFIED
        && *name == header::CONTENT_TYPE
        && ex.facts.upstream.backend.is_none()
}

fn number(text: &mut String, number: u16) {
    // Writing to a string cannot fail.
    let _written = write!(text, "{number}");
}

/// Appends the first value of a header.
fn first(headers: &HeaderMap, name: &HeaderName, text: &mut String) {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    text.push_str(value.unwrap_or_default());
}

/// Appends all cookies: several lines are one list (RFC 9113, 8.2.3), also over HTTP/1.1.
fn cookies(headers: &HeaderMap, text: &mut String) {
    for (index, line) in headers.get_all(header::COOKIE).iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "; " });
        push(text, line.as_bytes());
    }
}

/// Appends bytes of a request, of which those that are not UTF-8 are replaced.
pub(super) fn push(text: &mut String, bytes: &[u8]) {
    text.push_str(&String::from_utf8_lossy(bytes));
}

/// Returns the first value of a name in a query as it was sent, whatever the case of the name.
fn argument<'q>(query: &'q [u8], name: &str) -> Option<&'q [u8]> {
    let mut pairs = query.split(|byte| *byte == b'&');
    pairs.find_map(|pair| {
        let (key, value) = pair.split_at_checked(name.len())?;
        let value = value.strip_prefix(b"=")?;
        key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
    })
}

/// Returns what the cache did, in nginx's words (`$upstream_cache_status`); empty on a route without
/// a cache.
fn cache_status(ex: &Exchange<'_>) -> &'static str {
    ex.facts.cache.map_or("", |facts| match facts.outcome {
        // nginx does not ask the cache for another method than `GET` and `HEAD`.
        CacheOutcome::Bypass if facts.why == Some("method") => "",
        outcome => outcome.name(),
    })
}

/// Returns the lookup table of this name; `None` if it has a problem of its own.
fn map(name: &str, maps: &Maps) -> Result<Option<Arc<Lookup>>, (String, String)> {
    match maps.used(name) {
        Some(UsedTable::Known(lookup)) => Ok(Some(lookup)),
        Some(UsedTable::Broken) => Ok(None),
        None => {
            let help = match closest(name, maps.names()) {
                Some(meant) => format!("did you mean `{{map.{meant}}}`?"),
                None => format!("add `{name}` to the section `maps`"),
            };
            Err((format!("unknown map `{name}`"), help))
        }
    }
}

/// Forms of names that are not whole names.
const OTHERS: &str = "now backend header.NAME proxy.NAME cookie.NAME query.NAME arg.NAME \
    response.NAME map.NAME date+30d";

/// Returns the variable of this name, or the message and the help for the user.
pub(super) fn variable(name: &str, names: &Names<'_>) -> Result<Variable, (String, String)> {
    if let Some(more) = name.strip_prefix(DATE) {
        return match more.parse::<Span>() {
            Ok(span) => Ok(Variable::Date(span.0, names.clock.clone())),
            Err(error) => Err((
                format!("invalid time in `{{{name}}}`: {error}"),
                "write `{date+30d}` for the time in 30 days".to_owned(),
            )),
        };
    }
    if let Some((_, variable)) = Variable::ALL.iter().find(|(known, _)| *known == name) {
        return Ok(variable.clone());
    }
    match name {
        "now" => return Ok(Variable::Now(names.clock.clone())),
        "backend" => return Ok(Variable::Backend),
        _ => {}
    }
    let header = |key: &str| HeaderName::try_from(key).ok();
    match name.split_once('.') {
        Some(("header", key)) if let Some(key) = header(key) => return Ok(Variable::Header(key)),
        Some(("proxy", key)) if let Some(key) = header(key) => return Ok(Variable::FromProxy(key)),
        Some(("response", key)) if let Some(key) = header(key) => {
            return Ok(Variable::OfResponse(key));
        }
        Some(("map", key)) => return map(key, names.maps).map(Variable::Map),
        Some(("cookie", key)) if !key.is_empty() => return Ok(Variable::Cookie(key.into())),
        Some(("query", key)) if !key.is_empty() => return Ok(Variable::QueryValue(key.into())),
        Some(("arg", key)) if !key.is_empty() => return Ok(Variable::Argument(key.into())),
        _ => {}
    }
    let all = Variable::ALL.map(|(known, _)| known);
    let known = || all.into_iter().chain(OTHERS.split(' '));
    let help = match closest(name, known()) {
        Some(meant) => format!("did you mean `{{{meant}}}`?"),
        None => format!(
            "use one of {}",
            known()
                .map(|n| format!("`{{{n}}}`"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    Err((format!("unknown variable `{{{name}}}`"), help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_found_as_nginx_finds_it() {
        for (query, name, expected) in [
            ("a=1&b=2", "b", Some("2")),
            ("B=%20x", "b", Some("%20x")),
            ("ab=1&b=", "b", Some("")),
            ("b&b=3", "b", Some("3")),
            ("xb=3", "b", None),
            ("", "b", None),
        ] {
            let found = argument(query.as_bytes(), name);
            assert_eq!(found, expected.map(str::as_bytes), "{query}");
        }
    }
}
