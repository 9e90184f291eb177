//! `Cache-Control` of a response, parsed leniently: an invalid value never extends a response's
//! life.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

use crate::base::http::{decimal, list};

/// Maximum of any time, 68 years (RFC 9111, 1.2.2).
pub(super) const MAX_SECONDS: Duration = Duration::from_secs(1 << 31);

/// Directives that matter to a shared cache.
///
/// The first of repeated directives counts (RFC 9111, 4.2.1), and the stricter of contradicting
/// ones (4.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a directive")]
pub(super) struct Directives {
    pub no_store: bool,
    pub no_cache: FieldScope,
    pub private: FieldScope,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    /// `Some(0)` also for an invalid value: the response is stale (RFC 9111, 4.2.1).
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub stale_while_revalidate: Option<StaleWindow>,
    pub stale_if_error: Option<StaleWindow>,
}

/// Directive that may be limited to a list of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum FieldScope {
    #[default]
    Absent,
    Whole,
    Fields(Vec<HeaderName>),
}

/// Time for which a stale response may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleWindow {
    /// No number given, as in the `stale-while-revalidate` of Next.js 14.
    Open,
    For(Duration),
}

/// Argument of a directive, after its `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Argument<'a> {
    None,
    Token(&'a [u8]),
    Quoted(Vec<u8>),
    /// White space around the `=`, or text after the closing quote.
    Malformed,
}

impl Argument<'_> {
    /// Returns the seconds, quoted or not. `None` for an invalid number; large ones are capped at
    /// [`MAX_SECONDS`].
    pub(super) fn seconds(&self) -> Option<Duration> {
        match self {
            Self::Token(text) => seconds(text),
            Self::Quoted(text) => seconds(text),
            Self::None | Self::Malformed => None,
        }
    }

    fn window(&self) -> StaleWindow {
        match self {
            Self::None => StaleWindow::Open,
            _ => StaleWindow::For(self.seconds().unwrap_or_default()),
        }
    }

    fn listed(&self) -> FieldScope {
        match self {
            Self::Quoted(names) => FieldScope::fields(names),
            // `no-cache=1` names no field. RFC 9111 would accept tokens as names; the whole
            // response is the stricter reading.
            Self::None | Self::Token(_) | Self::Malformed => FieldScope::Whole,
        }
    }
}

impl FieldScope {
    /// Parses a list of field names. Returns the whole response if a name is invalid, if the list
    /// is empty, or if the response would be unusable without one of the fields.
    pub(super) fn fields(names: &[u8]) -> Self {
        let mut fields = Vec::new();
        for name in list(names) {
            match HeaderName::from_bytes(name) {
                Ok(name) if !describes_the_body(&name) => fields.push(name),
                _ => return Self::Whole,
            }
        }
        if fields.is_empty() {
            return Self::Whole;
        }
        Self::Fields(fields)
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    pub(super) fn names(&self) -> &[HeaderName] {
        match self {
            Self::Fields(fields) => fields,
            Self::Absent | Self::Whole => &[],
        }
    }

    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Whole, _) | (_, Self::Absent) => {}
            (Self::Fields(fields), Self::Fields(more)) => fields.extend(more),
            (_, other) => *self = other,
        }
    }
}

fn describes_the_body(name: &HeaderName) -> bool {
    let mut names = "content-encoding content-length content-range content-type vary".split(' ');
    names.any(|own| name == own)
}

/// Parses a number of seconds; `None` if it is invalid.
pub(super) fn seconds(text: &[u8]) -> Option<Duration> {
    number(text).map(|number| Duration::from_secs(number).min(MAX_SECONDS))
}

/// Parses a number that consists of digits alone. One that overflows is the largest.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| decimal(text).unwrap_or(u64::MAX))
}

impl Directives {
    /// Parses `Cache-Control`; `None` if there is no such field.
    pub(super) fn parse(headers: &HeaderMap) -> Option<Self> {
        let mut is_there = false;
        let mut directives = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            is_there = true;
            each(line.as_bytes(), |name, argument| {
                directives.add(name, argument);
            });
        }
        is_there.then_some(directives)
    }

    /// Adds a directive, in any case. Returns true if the directive is known here.
    pub(super) fn add(&mut self, name: &[u8], argument: &Argument<'_>) -> bool {
        let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
        let age = || argument.seconds().unwrap_or_default();
        if is("max-age") {
            self.max_age.get_or_insert_with(age);
        } else if is("s-maxage") {
            self.s_maxage.get_or_insert_with(age);
        } else if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache.add(argument.listed());
        } else if is("private") {
            self.private.add(argument.listed());
        } else if is("public") {
            self.public = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("stale-while-revalidate") {
            self.stale_while_revalidate
                .get_or_insert_with(|| argument.window());
        } else if is("stale-if-error") {
            self.stale_if_error.get_or_insert_with(|| argument.window());
        } else {
            return false;
        }
        true
    }

    /// Returns the freshness lifetime that the directives set. `Expires` is not part of it.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.s_maxage.or(self.max_age)
    }
}

/// Calls `visit` with each directive of a line and its argument.
pub(super) fn each(line: &[u8], mut visit: impl FnMut(&[u8], &Argument<'_>)) {
    for member in list(line) {
        if is_closed(member) {
            one(member, &mut visit);
        } else {
            // An unclosed quote would hide a `no-store` behind it.
            for part in member.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                one(part, &mut visit);
            }
        }
    }
}

fn one(member: &[u8], visit: &mut impl FnMut(&[u8], &Argument<'_>)) {
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
        visit(member, &Argument::None);
        return;
    };
    let (name, value) = (&member[..equals], &member[equals + 1..]);
    let is_spaced = name.last().is_some_and(u8::is_ascii_whitespace)
        || value.first().is_some_and(u8::is_ascii_whitespace);
    let argument = if is_spaced {
        Argument::Malformed
    } else if value.first() == Some(&b'"') {
        unquoted(value).map_or(Argument::Malformed, Argument::Quoted)
    } else {
        Argument::Token(value)
    };
    visit(name.trim_ascii_end(), &argument);
}

/// Returns the text of a quoted string; `None` if the value is anything else.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => text.push(*bytes.next()?),
            b'"' => return None,
            _ => text.push(*byte),
        }
    }
    Some(text)
}

/// Returns true if every quoted string in it is closed.
fn is_closed(member: &[u8]) -> bool {
    let mut is_quoted = false;
    let mut bytes = member.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if is_quoted => drop(bytes.next()),
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
    }
    !is_quoted
}
