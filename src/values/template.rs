//! Header values with `{names}` in them, split into pieces when they are compiled.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use regex::{Captures, Regex};

use super::lookup::{Lookup, Maps, Named};
use crate::{
    base::{clock::Clock, host::host_of, net::IpText, query, units::Span},
    chain::{CompileContext, Exchange},
    config::diagnostic::closest,
    limits::key::Source,
};

/// A value as it is sent.
#[derive(Debug)]
pub(crate) enum Template {
    /// Value without a variable: made once.
    Fixed(HeaderValue),
    Pieces(Box<[Piece]>),
}

#[derive(Debug)]
pub(crate) enum Piece {
    Text(Box<str>),
    Variable(Variable),
    /// Group of the regular expression that chose this result of a lookup table.
    Group(usize),
}

#[derive(Clone, Debug)]
pub(crate) enum Variable {
    ClientIp,
    RequestId,
    Host,
    HostName,
    Route,
    Scheme,
    Method,
    Path,
    Query,
    /// Path and query.
    Uri,
    /// First value of a header of the request.
    Header(HeaderName),
    /// First value of a cookie of the request, as it was sent.
    Cookie(Box<str>),
    /// First value of a name in the query, decoded.
    QueryValue(Box<str>),
    /// The time of the response and this much more, as an HTTP date.
    Date(Duration, Clock),
    /// Result of a lookup table; `None` if the table has a problem that is reported.
    Map(Option<Arc<Lookup>>),
}

/// Meanings of names in a value, beside those that every request has.
pub(crate) struct Names<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) maps: &'a Maps,
}

impl Names<'_> {
    /// Calls `work` with the names that values of this configuration may have.
    pub(crate) fn with<T>(cx: &CompileContext<'_>, work: impl FnOnce(&Names<'_>) -> T) -> T {
        let maps = cx.shared.get::<Maps>().unwrap_or_default();
        work(&Names {
            clock: cx.clock,
            maps: &maps,
        })
    }
}

/// Beginning of a variable that is a date: `{date+30d}`.
const DATE: &str = "date+";

impl Variable {
    const ALL: [(&'static str, Self); 10] = [
        ("client.ip", Self::ClientIp),
        ("request_id", Self::RequestId),
        ("host", Self::Host),
        ("host.name", Self::HostName),
        ("method", Self::Method),
        ("path", Self::Path),
        ("query", Self::Query),
        ("uri", Self::Uri),
        ("route", Self::Route),
        ("scheme", Self::Scheme),
    ];

    fn write(&self, ex: &Exchange<'_>, text: &mut String) {
        let target = || String::from_utf8_lossy(ex.head.raw_path());
        match self {
            Self::ClientIp => text.push_str(IpText::of(ex.facts.client.ip).as_str()),
            Self::RequestId => text.push_str(ex.facts.request_id.as_str()),
            Self::Host => text.push_str(ex.host()),
            Self::HostName => match host_of(ex.host().as_bytes()) {
                Ok(name) => text.push_str(&name),
                Err(_) => text.push_str(ex.host()),
            },
            Self::Method => text.push_str(ex.head.method.as_str()),
            Self::Path => {
                let target = target();
                text.push_str(target.split('?').next().unwrap_or_default());
            }
            Self::Query => {
                let target = target();
                text.push_str(target.split_once('?').map_or("", |(_, query)| query));
            }
            Self::Uri => text.push_str(&target()),
            Self::Header(name) => {
                let value = ex.head.headers.get(name);
                text.push_str(
                    value
                        .and_then(|value| value.to_str().ok())
                        .unwrap_or_default(),
                );
            }
            Self::Cookie(name) => {
                let mut values = query::cookies(&ex.head.headers, name.as_bytes());
                push(text, values.next().unwrap_or_default());
            }
            Self::QueryValue(name) => {
                let query = query::query_of(ex.head.raw_path()).unwrap_or_default();
                let value = query::form_values(query, name.as_bytes()).next();
                push(text, &value.unwrap_or_default());
            }
            Self::Date(more, clock) => {
                text.push_str(&httpdate::fmt_http_date(clock.wall() + *more));
            }
            Self::Map(lookup) => {
                if let Some(lookup) = lookup {
                    lookup.write(ex, text);
                }
            }
            Self::Route => text.push_str(ex.facts.route.as_deref().unwrap_or_default()),
            Self::Scheme => text.push_str(ex.facts.client.scheme.as_str()),
        }
    }
}

impl Template {
    /// Returns the template of an empty text.
    pub(crate) fn empty() -> Self {
        Self::Fixed(HeaderValue::from_static(""))
    }

    /// Returns the text, if it has no placeholder.
    pub(super) fn fixed(&self) -> Option<&str> {
        match self {
            Self::Fixed(value) => value.to_str().ok(),
            Self::Pieces(_) => None,
        }
    }

    /// Returns the lookup table, if the value is the result of one and nothing else.
    pub(crate) fn lookup(&self) -> Option<&Arc<Lookup>> {
        match self {
            Self::Pieces(pieces) => match &**pieces {
                [Piece::Variable(Variable::Map(lookup))] => lookup.as_ref(),
                _ => None,
            },
            Self::Fixed(_) => None,
        }
    }

    /// Adds the parts of a request that the value comes from and that a client may send twice:
    /// headers, cookies and names in the query.
    pub(crate) fn sources(&self, found: &mut Vec<Source>) {
        let pieces = match self {
            Self::Fixed(_) => return,
            Self::Pieces(pieces) => pieces,
        };
        for piece in pieces {
            match piece {
                Piece::Variable(Variable::Header(name)) => {
                    found.push(Source::Header(name.clone()));
                }
                Piece::Variable(Variable::Cookie(name)) => {
                    found.push(Source::Cookie(name.to_string()));
                }
                Piece::Variable(Variable::QueryValue(name)) => {
                    found.push(Source::Query(name.to_string()));
                }
                Piece::Variable(Variable::Map(Some(lookup))) => lookup.sources(found),
                Piece::Variable(_) | Piece::Text(_) | Piece::Group(_) => {}
            }
        }
    }

    /// Parses a value. Text in braces that looks like a name must be a variable; other braces are
    /// text, since values such as those of `NEL` are JSON.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub(crate) fn parse(text: &str, names: &Names<'_>) -> Result<Self, (String, String)> {
        let pieces = pieces(text, |name| variable(name, names).map(Piece::Variable))?;
        Self::of(text, pieces)
    }

    /// Parses a result of a lookup table that this expression chooses: `{group.NAME}` and
    /// `{group.1}` are its groups.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub(super) fn parse_result(
        text: &str,
        regex: &Regex,
        names: &Names<'_>,
    ) -> Result<Self, (String, String)> {
        let pieces = pieces(text, |name| match name.strip_prefix("group.") {
            Some(own) => group(own, regex).map(Piece::Group),
            None => variable(name, names).map(Piece::Variable),
        })?;
        Self::of(text, pieces)
    }

    fn of(text: &str, pieces: Vec<Piece>) -> Result<Self, (String, String)> {
        let mut texts = pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text),
            Piece::Variable(_) | Piece::Group(_) => None,
        });
        if !texts.all(|text| HeaderValue::from_str(text).is_ok()) {
            return Err((
                format!("invalid header value `{}`", text.escape_debug()),
                "write plain text on one line".to_owned(),
            ));
        }
        match &pieces[..] {
            [] => Ok(Self::empty()),
            [Piece::Text(text)] => {
                let fixed = HeaderValue::from_str(text);
                Ok(fixed.map_or_else(|_| Self::empty(), Self::Fixed))
            }
            _ => Ok(Self::Pieces(pieces.into())),
        }
    }

    /// Parses a text that is not the value of a header, such as a body: it may have several lines.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub(crate) fn parse_text(text: &str, names: &Names<'_>) -> Result<Self, (String, String)> {
        let pieces = pieces(text, |name| variable(name, names).map(Piece::Variable))?;
        Ok(Self::Pieces(pieces.into()))
    }

    /// Returns the text of a body without placeholders.
    pub(crate) fn plain_text(&self) -> Option<&str> {
        match self {
            Self::Pieces(pieces) => match &**pieces {
                [] => Some(""),
                [Piece::Text(text)] => Some(text),
                _ => None,
            },
            Self::Fixed(_) => self.fixed(),
        }
    }

    /// Returns true if it has groups of an expression.
    pub(super) fn has_groups(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Pieces(pieces) => pieces.iter().any(|one| matches!(one, Piece::Group(_))),
        }
    }

    /// Returns the value for a request; `None` if it is empty, as with nginx, or not allowed in a
    /// header.
    pub(crate) fn value(&self, ex: &Exchange<'_>) -> Option<HeaderValue> {
        if let Self::Fixed(value) = self {
            return Some(value.clone());
        }
        let mut text = String::with_capacity(64);
        self.write(ex, &mut text);
        if text.is_empty() {
            return None;
        }
        HeaderValue::try_from(text).ok()
    }

    /// Returns the target of a redirect, with one slash at the beginning of a path: `//evil.test/`
    /// would be the address of another host.
    pub(crate) fn target(&self, ex: &Exchange<'_>) -> Option<HeaderValue> {
        let to = self.value(ex)?;
        let bytes = to.as_bytes();
        let slashes = bytes.iter().take_while(|byte| **byte == b'/').count();
        if slashes < 2 {
            return Some(to);
        }
        HeaderValue::from_bytes(&bytes[slashes - 1..]).ok()
    }

    /// Appends the text for a request.
    pub(crate) fn write(&self, ex: &Exchange<'_>, text: &mut String) {
        self.write_with(ex, None, text);
    }

    /// Appends the text for a request, with the groups of the expression that chose it.
    pub(super) fn write_with(
        &self,
        ex: &Exchange<'_>,
        groups: Option<&Captures<'_>>,
        text: &mut String,
    ) {
        let pieces = match self {
            Self::Fixed(value) => return push(text, value.as_bytes()),
            Self::Pieces(pieces) => pieces,
        };
        for piece in pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Variable(variable) => variable.write(ex, text),
                Piece::Group(index) => {
                    let group = groups.and_then(|groups| groups.get(*index));
                    text.push_str(group.map_or("", |group| group.as_str()));
                }
            }
        }
    }
}

/// Splits a value into text and what stands for something else, which `of` finds by its name.
fn pieces(
    text: &str,
    of: impl Fn(&str) -> Result<Piece, (String, String)>,
) -> Result<Vec<Piece>, (String, String)> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let inside = &rest[open + 1..];
        let name = inside.find('}').map(|close| &inside[..close]);
        let Some(name) = name.filter(|name| looks_like_a_name(name)) else {
            plain.push_str(&rest[..=open]);
            rest = inside;
            continue;
        };
        let piece = of(name)?;
        plain.push_str(&rest[..open]);
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
        }
        pieces.push(piece);
        rest = &inside[name.len() + 1..];
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain.into()));
    }
    Ok(pieces)
}

/// Appends bytes of a request, of which those that are not UTF-8 are replaced.
fn push(text: &mut String, bytes: &[u8]) {
    text.push_str(&String::from_utf8_lossy(bytes));
}

fn looks_like_a_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        || text.starts_with(DATE)
}

/// Returns the number of a group, named or numbered.
fn group(name: &str, regex: &Regex) -> Result<usize, (String, String)> {
    let number = name
        .parse()
        .ok()
        .filter(|number| *number < regex.captures_len());
    let named = || regex.capture_names().position(|own| own == Some(name));
    number.or_else(named).ok_or_else(|| {
        (
            format!("`{regex}` has no group `{name}`"),
            "write `(?<name>…)` in it and `{group.name}` in the result, or the group's number"
                .to_owned(),
        )
    })
}

/// Returns the lookup table of this name; `None` if it has a problem of its own.
fn map(name: &str, maps: &Maps) -> Result<Option<Arc<Lookup>>, (String, String)> {
    match maps.used(name) {
        Some(Named::Known(lookup)) => Ok(Some(lookup)),
        Some(Named::Broken) => Ok(None),
        None => {
            let help = match closest(name, maps.names()) {
                Some(meant) => format!("did you mean `{{map.{meant}}}`?"),
                None => format!("add `{name}` to the section `maps`"),
            };
            Err((format!("unknown map `{name}`"), help))
        }
    }
}

fn variable(name: &str, names: &Names<'_>) -> Result<Variable, (String, String)> {
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
    if let Some(header) = name.strip_prefix("header.")
        && let Ok(header) = HeaderName::try_from(header)
    {
        return Ok(Variable::Header(header));
    }
    match name.split_once('.') {
        Some(("map", own)) => return map(own, names.maps).map(Variable::Map),
        Some(("cookie", own)) if !own.is_empty() => return Ok(Variable::Cookie(own.into())),
        Some(("query", own)) if !own.is_empty() => return Ok(Variable::QueryValue(own.into())),
        _ => {}
    }
    let all = Variable::ALL.map(|(known, _)| known);
    let of_requests = [
        "header.NAME",
        "cookie.NAME",
        "query.NAME",
        "map.NAME",
        "date+30d",
    ];
    let known = || all.into_iter().chain(of_requests);
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
