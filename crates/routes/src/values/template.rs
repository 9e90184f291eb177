//! Header values with `{names}` in them, split into pieces when they are compiled.

use std::sync::Arc;

use edgeway_base::{clock::Clock, expression::Undecided};
use edgeway_config::diagnostic::Place;
use edgeway_core::{
    chain::{CompileContext, Exchange},
    limits::key::Source,
};
use http::{HeaderValue, response};
use percent_encoding::percent_encode_byte;

use super::{
    Groups, Pattern,
    lookup::{Lookup, Maps},
    variable::{DATE, Values, Variable, push, variable},
};

/// A value as it is sent.
#[derive(Clone, Debug)]
pub enum Template {
    /// Value without a variable: made once.
    Fixed(HeaderValue),
    Pieces(Box<[Piece]>),
}

#[derive(Clone, Debug)]
pub enum Piece {
    Text(Box<str>),
    Variable(Variable),
    /// Group of the regular expression that chose this result of a lookup table.
    Group(usize),
}

/// Meanings of names in a value, beside those that every request has.
pub struct Names<'a> {
    pub clock: &'a Clock,
    pub maps: &'a Maps,
}

impl Names<'_> {
    /// Calls `work` with the names that values of this configuration may have.
    pub fn with<T>(cx: &CompileContext<'_>, work: impl FnOnce(&Names<'_>) -> T) -> T {
        let maps = cx.shared.get::<Maps>().unwrap_or_default();
        work(&Names {
            clock: cx.clock,
            maps: &maps,
        })
    }
}

impl Template {
    /// Compiles a text for requests; reports its problem.
    pub fn compile(
        text: &str,
        place: Place,
        code: &'static str,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let parsed = Names::with(cx, |names| Self::parse(text, names));
        cx.reported(place, code, parsed)
    }

    /// Returns the template of an empty text.
    pub fn empty() -> Self {
        Self::Fixed(HeaderValue::from_static(""))
    }

    /// Returns the text, if it has no placeholder.
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Self::Fixed(value) => value.to_str().ok(),
            Self::Pieces(_) => None,
        }
    }

    /// Returns the lookup table, if the value is the result of one and nothing else.
    pub fn lookup(&self) -> Option<&Arc<Lookup>> {
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
    pub fn sources(&self, found: &mut Vec<Source>) {
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
                Piece::Variable(Variable::QueryValue(name) | Variable::Argument(name)) => {
                    found.push(Source::Query(name.to_string()));
                }
                Piece::Variable(Variable::Map(Some(lookup))) => lookup.sources(found),
                Piece::Variable(_) | Piece::Text(_) | Piece::Group(_) => {}
            }
        }
    }

    /// Returns true if a cache key has to hold the value: nothing else in the key determines it.
    pub fn is_keyed(&self) -> bool {
        let is_keyed = |piece: &Piece| matches!(piece, Piece::Variable(own) if own.is_keyed());
        match self {
            Self::Fixed(_) => false,
            Self::Pieces(pieces) => pieces.iter().any(is_keyed),
        }
    }

    /// Parses a value of a request. Text in braces that looks like a name must be a variable; other
    /// braces are text, since values such as those of `NEL` are JSON.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub fn parse(text: &str, names: &Names<'_>) -> Result<Self, (String, String)> {
        Self::parse_of_response(text, names)?.of_request(text)
    }

    /// Parses a value that is used once there is a response, and may come from it.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub fn parse_of_response(text: &str, names: &Names<'_>) -> Result<Self, (String, String)> {
        let pieces = pieces(text, |name| variable(name, names).map(Piece::Variable))?;
        Self::from_pieces(text, pieces)
    }

    /// Returns an error if the value comes from a response.
    fn of_request(self, text: &str) -> Result<Self, (String, String)> {
        if self.needs_response() {
            return Err((
                format!("`{text}` is a value of the response, which is not there yet"),
                "use it in `response` of `headers`, or in a page of `error_pages`".to_owned(),
            ));
        }
        Ok(self)
    }

    /// Returns true if the value comes from a response.
    pub(super) fn needs_response(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Pieces(pieces) => pieces.iter().any(|piece| match piece {
                Piece::Variable(variable) => variable.needs_response(),
                Piece::Text(_) | Piece::Group(_) => false,
            }),
        }
    }

    /// Parses a result of a lookup table that this expression chooses: `{group.NAME}` and
    /// `{group.1}` are its groups.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub(super) fn parse_result(
        text: &str,
        regex: &Pattern,
        names: &Names<'_>,
    ) -> Result<Self, (String, String)> {
        Self::from_pieces(text, Self::pieces_of(text, regex, names)?)
    }

    fn pieces_of(
        text: &str,
        regex: &Pattern,
        names: &Names<'_>,
    ) -> Result<Vec<Piece>, (String, String)> {
        pieces(text, |name| match name.strip_prefix("group.") {
            Some(own) => group(own, regex).map(Piece::Group),
            None => variable(name, names).map(Piece::Variable),
        })
    }

    fn from_pieces(text: &str, pieces: Vec<Piece>) -> Result<Self, (String, String)> {
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
    pub fn parse_text(text: &str, names: &Names<'_>) -> Result<Self, (String, String)> {
        Self::parse_text_of_response(text, names)?.of_request(text)
    }

    /// Parses a text as [`Self::parse_text`] does, of a response whose status is known.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub fn parse_text_of_response(text: &str, names: &Names<'_>) -> Result<Self, (String, String)> {
        let pieces = pieces(text, |name| variable(name, names).map(Piece::Variable))?;
        Ok(Self::Pieces(pieces.into()))
    }

    /// Parses a text that is used where an expression holds: `{group.1}` and `{group.NAME}` are its
    /// groups.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub fn parse_with_groups(
        text: &str,
        regex: Option<&Pattern>,
        names: &Names<'_>,
    ) -> Result<Self, (String, String)> {
        let parsed = match regex {
            Some(regex) => Self::pieces_of(text, regex, names)?,
            None => pieces(text, |name| variable(name, names).map(Piece::Variable))?,
        };
        Self::Pieces(parsed.into()).of_request(text)
    }

    /// Returns the text of a body without placeholders.
    pub fn plain_text(&self) -> Option<&str> {
        match self {
            Self::Pieces(pieces) => match &**pieces {
                [] => Some(""),
                [Piece::Text(text)] => Some(text),
                _ => None,
            },
            Self::Fixed(_) => self.fixed(),
        }
    }

    /// Returns true if the value comes from the path, so that spellings matter.
    pub fn reads_path(&self) -> bool {
        let Self::Pieces(pieces) = self else {
            return false;
        };
        pieces.iter().any(|piece| match piece {
            Piece::Variable(Variable::Map(lookup)) => {
                lookup.as_ref().is_some_and(|lookup| lookup.reads_path())
            }
            Piece::Variable(
                Variable::Path | Variable::PathDecoded | Variable::PathSent | Variable::Uri,
            ) => true,
            Piece::Variable(_) | Piece::Text(_) | Piece::Group(_) => false,
        })
    }

    /// Returns true if it has groups of an expression.
    pub fn has_groups(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Pieces(pieces) => pieces.iter().any(|one| matches!(one, Piece::Group(_))),
        }
    }

    /// Returns the value for a request; `None` if it is empty, as with nginx, or not allowed in a
    /// header.
    pub fn value(&self, ex: &Exchange<'_>) -> Option<HeaderValue> {
        self.value_of(&Values::of_request(ex), None)
    }

    /// Returns the value for a response, as [`Self::value`] does.
    pub fn response_value(
        &self,
        ex: &Exchange<'_>,
        response: &response::Parts,
    ) -> Option<HeaderValue> {
        self.value_of(&Values::of_response(ex, response), None)
    }

    fn value_of(
        &self,
        values: &Values<'_, '_>,
        groups: Option<&Groups<'_>>,
    ) -> Option<HeaderValue> {
        if let Self::Fixed(value) = self {
            return Some(value.clone());
        }
        let mut text = String::with_capacity(64);
        // A header has no third value: the table's default stands.
        let _undecided = self.write_with(values, groups, &mut text);
        if text.is_empty() {
            return None;
        }
        HeaderValue::try_from(text).ok()
    }

    /// Returns the target of a redirect, with one slash at the beginning of a path: `//evil.test/`
    /// and `/\evil.test/` would be the address of another host.
    pub fn target(&self, ex: &Exchange<'_>) -> Option<HeaderValue> {
        self.target_with(ex, None)
    }

    /// Returns the target of a redirect as [`Self::target`] does, with the groups of an expression.
    pub fn target_with(
        &self,
        ex: &Exchange<'_>,
        groups: Option<&Groups<'_>>,
    ) -> Option<HeaderValue> {
        let to = match self.value_of(&Values::of_request(ex), groups) {
            Some(to) if to.as_bytes().iter().all(u8::is_ascii_graphic) => to,
            _ => self.escaped(ex, groups)?,
        };
        let bytes = to.as_bytes();
        // Browsers take a backslash for a slash.
        let slashes = bytes.iter().take_while(|byte| matches!(byte, b'/' | b'\\'));
        let slashes = slashes.count();
        if slashes < 2 {
            return Some(to);
        }
        HeaderValue::from_bytes(&[b"/", &bytes[slashes..]].concat()).ok()
    }

    /// Returns the value as a URL, of which what no URL has is percent-encoded.
    #[cold]
    fn escaped(&self, ex: &Exchange<'_>, groups: Option<&Groups<'_>>) -> Option<HeaderValue> {
        let (mut text, mut url) = (String::new(), String::new());
        let _undecided = self.write_with(&Values::of_request(ex), groups, &mut text);
        escape(&text, IN_URL, &mut url);
        HeaderValue::try_from(url)
            .ok()
            .filter(|url| !url.is_empty())
    }

    /// Appends the text for a request.
    ///
    /// # Errors
    /// Fails if an expression of a lookup table would take too much work: its default is appended.
    pub fn write(&self, ex: &Exchange<'_>, text: &mut String) -> Result<(), Undecided> {
        self.write_with(&Values::of_request(ex), None, text)
    }

    /// Appends the text for a request, with the groups of the expression that chose it.
    pub fn write_with(
        &self,
        values: &Values<'_, '_>,
        groups: Option<&Groups<'_>>,
        text: &mut String,
    ) -> Result<(), Undecided> {
        let mut written = Ok(());
        let pieces = match self {
            Self::Fixed(value) => {
                push(text, value.as_bytes());
                return written;
            }
            Self::Pieces(pieces) => pieces,
        };
        for piece in pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Variable(variable) => written = variable.write(values, text).and(written),
                Piece::Group(index) => {
                    let group = groups.map_or("", |groups| groups.get(*index));
                    values.encoding.write(group, text);
                }
            }
        }
        written
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

/// Bytes that stand for themselves in a URL, besides letters and digits.
const IN_URL: &[u8] = b"-._~:/?#[]@!$&'()*+,;=%";
/// The same in a path that is not encoded yet.
const IN_PATH: &[u8] = b"-._~:/@!$&'()*+,;=";

/// Appends a text, percent-encoded but for letters, digits and these bytes.
pub(super) fn escape(value: &str, plain: &[u8], text: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(percent_encode_byte(byte));
        }
    }
}

/// Returns a path without percent-encoding as a request has it.
pub fn encoded_path(path: &str) -> String {
    let mut text = String::with_capacity(path.len() + 8);
    escape(path, IN_PATH, &mut text);
    text
}

fn looks_like_a_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        || text.starts_with(DATE)
}

/// Returns the number of a group, named or numbered.
fn group(name: &str, pattern: &Pattern) -> Result<usize, (String, String)> {
    pattern.group(name).ok_or_else(|| {
        (
            format!("`{}` has no group `{name}`", pattern.text()),
            "write `(?<name>…)` in it and `{group.name}` in the result, or the group's number"
                .to_owned(),
        )
    })
}
