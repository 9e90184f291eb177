//! Header values with `{names}` in them, split into pieces when they are compiled.

use std::sync::Arc;

use edgeway_base::{clock::Clock, expression::Undecided};
use edgeway_config::{diagnostic::Place, tree::Spanned};
use edgeway_core::{
    chain::{CompileContext, Exchange},
    limits::key::Source,
};
use http::{HeaderValue, response};

use super::{
    Destination, Encoding, Groups, Pattern,
    destination::PieceEncoding,
    lookup::{Lookup, Maps},
    path_text::push_encoded,
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
    Variable(Variable, PieceEncoding),
    /// Group of the regular expression that chose this result of a lookup table.
    Group(usize, PieceEncoding),
}

impl Piece {
    /// Returns true if the configuration has all texts that it stands for.
    fn is_of_configuration(&self) -> bool {
        match self {
            Self::Variable(Variable::Map(Some(lookup)), _) => lookup.fixed_results().is_some(),
            Self::Variable(Variable::Map(None), _) | Self::Text(_) => true,
            Self::Variable(..) | Self::Group(..) => false,
        }
    }
}

/// End of a placeholder whose value is not encoded.
const RAW: &str = "|raw";

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
        destination: Destination<'_>,
        code: &'static str,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let parsed = Names::with(cx, |names| Self::parse(text, destination, names));
        Self::checked(parsed, text, place, code, cx)
    }

    /// Compiles a text that is used once there is a response, and may come from it; reports its
    /// problem.
    pub fn compile_of_response(
        text: &str,
        place: Place,
        destination: Destination<'_>,
        code: &'static str,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let parsed = Names::with(cx, |names| {
            Self::parse_of_response(text, destination, None, names)
        });
        Self::checked(parsed, text, place, code, cx)
    }

    /// Compiles a text of rules, which come before any login, where an expression holds; reports its
    /// problem. `{group.1}` and `{group.NAME}` are groups of the expression.
    pub fn compile_with_groups(
        text: &Spanned<String>,
        destination: Destination<'_>,
        regex: Option<&Pattern>,
        code: &'static str,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let Spanned { value: text, place } = text;
        let parsed = Names::with(cx, |names| {
            Self::parse_of_response(text, destination, regex, names)?.of_request(text)
        });
        let parsed = match parsed {
            Ok(template) if template.needs_identity() => Err((
                format!("`{text}` is empty here: logins come later"),
                "let the backend decide by a header that `headers` sets to `{user}`".to_owned(),
            )),
            parsed => parsed,
        };
        Self::checked(parsed, text, *place, code, cx)
    }

    /// Reports the problem of a text, or what is doubtful about it.
    pub(super) fn checked(
        parsed: Result<Self, (String, String)>,
        text: &str,
        place: Place,
        code: &'static str,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let template = cx.at(place, code).reported(parsed)?;
        if template.has(|_, encoding| encoding == PieceEncoding::Raw) {
            cx.at(place, "edgeway::value::raw").warn(
                format!(
                    "`{text}` has a value as the client sent it: it may end the text around it"
                ),
                format!("leave `{RAW}` out, unless the value is made for this place"),
            );
        }
        if template.ends_authority() {
            cx.at(place, "edgeway::value::authority").warn(
                format!("`{text}` lets a client choose the host it is sent to"),
                "end the host with text: `https://shop.example.com/{query.next}`; or take the host \
                 from a map",
            );
        }
        Some(template)
    }

    /// Returns true if a variable or group has this property.
    fn has(&self, is_it: impl Fn(Option<&Variable>, PieceEncoding) -> bool) -> bool {
        let Self::Pieces(pieces) = self else {
            return false;
        };
        pieces.iter().any(|piece| match piece {
            Piece::Text(_) => false,
            Piece::Variable(variable, encoding) => is_it(Some(variable), *encoding),
            Piece::Group(_, encoding) => is_it(None, *encoding),
        })
    }

    /// Returns true if the host of a URL ends in a value that a client chooses.
    fn ends_authority(&self) -> bool {
        let Self::Pieces(pieces) = self else {
            return false;
        };
        let in_host = |encoding: &PieceEncoding| {
            matches!(encoding, PieceEncoding::Own(Encoding::Authority { .. }))
        };
        let ends = |next: Option<&Piece>| match next {
            None => true,
            Some(Piece::Text(text)) => text.starts_with(['/', '?', '#', ':']),
            Some(Piece::Variable(variable, _)) => variable.is_path(),
            Some(Piece::Group(..)) => false,
        };
        pieces.iter().enumerate().any(|(index, piece)| {
            let is_chosen = match piece {
                Piece::Text(_) => false,
                Piece::Variable(variable, encoding) => in_host(encoding) && variable.is_foreign(),
                Piece::Group(_, encoding) => in_host(encoding),
            };
            is_chosen && ends(pieces.get(index + 1))
        })
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
                [Piece::Variable(Variable::Map(lookup), _)] => lookup.as_ref(),
                _ => None,
            },
            Self::Fixed(_) => None,
        }
    }

    /// Adds the parts of a request that the value comes from and that a client may send twice:
    /// headers, cookies and names in the query.
    pub fn sources(&self, sources: &mut Vec<Source>) {
        let pieces = match self {
            Self::Fixed(_) => return,
            Self::Pieces(pieces) => pieces,
        };
        for piece in pieces {
            match piece {
                Piece::Variable(Variable::Header(name) | Variable::FromProxy(name), _) => {
                    sources.push(Source::Header(name.clone()));
                }
                Piece::Variable(Variable::Cookie(name), _) => {
                    sources.push(Source::Cookie(name.to_string()));
                }
                Piece::Variable(Variable::QueryValue(name) | Variable::Argument(name), _) => {
                    sources.push(Source::Query(name.to_string()));
                }
                Piece::Variable(Variable::Map(Some(lookup)), _) => lookup.sources(sources),
                Piece::Variable(..) | Piece::Text(_) | Piece::Group(..) => {}
            }
        }
    }

    /// Returns true if a cache key has to hold the value: nothing else in the key determines it.
    pub fn is_keyed(&self) -> bool {
        self.has(|variable, _| variable.is_some_and(Variable::is_keyed))
    }

    /// Parses a value of a request. Text in braces that looks like a name must be a variable; other
    /// braces are text, since values such as those of `NEL` are JSON.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub fn parse(
        text: &str,
        destination: Destination<'_>,
        names: &Names<'_>,
    ) -> Result<Self, (String, String)> {
        Self::parse_of_response(text, destination, None, names)?.of_request(text)
    }

    /// Parses a value that is used once there is a response, and may come from it. `{group.NAME}`
    /// and `{group.1}` are groups of `regex`.
    ///
    /// # Errors
    /// The message and the help for the user.
    pub(super) fn parse_of_response(
        text: &str,
        destination: Destination<'_>,
        regex: Option<&Pattern>,
        names: &Names<'_>,
    ) -> Result<Self, (String, String)> {
        let pieces = pieces(text, |before, written, after| {
            let (name, is_raw) = match written.split_once('|') {
                None => (written, false),
                Some((name, "raw")) => (name, true),
                Some((name, word)) => {
                    return Err((
                        format!("unknown word `{word}` in `{{{written}}}`"),
                        format!("write `{{{name}}}`, or `{{{name}{RAW}}}` for no encoding"),
                    ));
                }
            };
            let (encoding, is_safe) = match destination.encoding(before, after) {
                Some(PieceEncoding::Own(Encoding::Text)) if is_raw => {
                    return Err((
                        format!("`{RAW}` has no effect in `{text}`: values are not encoded here"),
                        format!("write `{{{name}}}`"),
                    ));
                }
                _ if is_raw => (PieceEncoding::Raw, true),
                Some(encoding) => (encoding, true),
                None => (PieceEncoding::Own(Encoding::Markup), false),
            };
            let piece = match (name.strip_prefix("group."), regex) {
                (Some(own), Some(regex)) => Piece::Group(group(own, regex)?, encoding),
                _ => Piece::Variable(variable(name, names)?, encoding),
            };
            if is_safe || piece.is_of_configuration() {
                return Ok(piece);
            }
            Err((
                format!(
                    "`{{{name}}}` is in a tag, a style, `srcdoc` or the address of a script, where no \
                     encoding makes a value safe"
                ),
                format!(
                    "move it to the text or a quoted attribute; or write `{{{name}{RAW}}}` if the \
                     client does not choose it"
                ),
            ))
        })?;
        if !destination.is_header() {
            return Ok(Self::Pieces(pieces.into()));
        }
        let mut texts = pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text),
            Piece::Variable(..) | Piece::Group(..) => None,
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
    fn needs_response(&self) -> bool {
        self.any(|own| {
            matches!(
                own,
                Variable::OfResponse(_) | Variable::CacheStatus | Variable::Backend
            )
        })
    }

    /// Returns true if the value comes from a status, which a request has none of itself.
    pub fn needs_status(&self) -> bool {
        self.any(|own| matches!(own, Variable::Status))
    }

    /// Returns true if no two requests have the same value.
    pub fn is_always_new(&self) -> bool {
        self.has(|variable, _| matches!(variable, Some(Variable::RequestId | Variable::Now(_))))
    }

    /// Returns true if the value comes from the user, whom only a login knows.
    pub fn needs_identity(&self) -> bool {
        self.any(|own| matches!(own, Variable::User))
    }

    /// Returns true if a variable that the value may come from has this property.
    pub(super) fn any(&self, is_it: fn(&Variable) -> bool) -> bool {
        self.has(|variable, _| variable.is_some_and(|own| own.any(is_it)))
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
        self.has(|variable, _| match variable {
            Some(Variable::Map(lookup)) => lookup.as_ref().is_some_and(|own| own.reads_path()),
            Some(variable) => variable.is_path(),
            None => false,
        })
    }

    /// Returns true if it has groups of an expression.
    pub fn has_groups(&self) -> bool {
        self.has(|variable, _| variable.is_none())
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
    pub fn target(
        &self,
        values: &Values<'_, '_>,
        groups: Option<&Groups<'_>>,
    ) -> Option<HeaderValue> {
        let to = match self.value_of(values, groups) {
            Some(to) if to.as_bytes().iter().all(u8::is_ascii_graphic) => to,
            _ => self.escaped(values, groups)?,
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
    fn escaped(&self, values: &Values<'_, '_>, groups: Option<&Groups<'_>>) -> Option<HeaderValue> {
        let (mut text, mut url) = (String::new(), String::new());
        let _undecided = self.write_with(values, groups, &mut text);
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
                Piece::Variable(variable, encoding) => {
                    let values = values.encoded(encoding.within(values.encoding));
                    written = variable.write(&values, text).and(written);
                }
                Piece::Group(index, encoding) => {
                    let group = groups.map_or("", |groups| groups.get(*index));
                    let encoding = encoding.within(values.encoding);
                    if values.has_groups_of_path {
                        encoding.write_decoded(group, text);
                    } else {
                        encoding.write(group, text);
                    }
                }
            }
        }
        written
    }
}

/// Splits a value into text and what stands for something else, which `of` finds by the text before
/// it, its name, and the text behind it.
fn pieces(
    text: &str,
    of: impl Fn(&str, &str, &str) -> Result<Piece, (String, String)>,
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
        let before = text.len() - rest.len() + open;
        let piece = of(&text[..before], name, &inside[name.len() + 1..])?;
        plain.push_str(&rest[..open]);
        pieces.extend((!plain.is_empty()).then(|| Piece::Text(std::mem::take(&mut plain).into())));
        pieces.push(piece);
        rest = &inside[name.len() + 1..];
    }
    plain.push_str(rest);
    pieces.extend((!plain.is_empty()).then(|| Piece::Text(plain.into())));
    Ok(pieces)
}

/// Bytes that stand for themselves in a URL, besides letters and digits.
const IN_URL: &[u8] = b"-._~:/?#[]@!$&'()*+,;=%";
/// The same in a path that is not encoded yet.
pub(super) const IN_PATH: &[u8] = b"-._~:/@!$&'()*+,;=";

/// Appends a text, percent-encoded but for letters, digits and these bytes.
pub(super) fn escape(value: &str, plain: &[u8], text: &mut String) {
    for char in value.chars() {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || plain.contains(&byte);
        if u8::try_from(char).is_ok_and(is_plain) {
            text.push(char);
        } else {
            push_encoded(text, char);
        }
    }
}

fn looks_like_a_name(text: &str) -> bool {
    let (text, word) = text.split_once('|').unwrap_or((text, ""));
    !text.is_empty()
        && word.bytes().all(|byte| byte.is_ascii_alphabetic())
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
