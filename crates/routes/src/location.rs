//! Locations as in nginx, as they are written: an exact path, a prefix or a regular expression,
//! each within others or not.

use std::ops::Range;

use derive_more::Display;
use edgeway_base::expression::Expression;
use regex::bytes::Regex;

use super::InvalidValue;

/// A location, and those around it, the outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
#[display("{}{own}", self.around())]
pub(super) struct PlacedLocation {
    pub(super) within: Vec<Location>,
    pub(super) own: Location,
}

/// A location as written.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub(super) enum Location {
    #[display("= {}", String::from_utf8_lossy(_0))]
    Exact(Vec<u8>),
    #[display("{}{}", if *is_final { "^~ " } else { "" }, String::from_utf8_lossy(text))]
    Prefix {
        text: Vec<u8>,
        /// True with `^~`: regular expressions are not considered.
        is_final: bool,
    },
    #[display("~{} {text}", if *ignores_case { "*" } else { "" })]
    Regex { text: String, ignores_case: bool },
}

impl Location {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        let regex = |regex: &str, ignores_case| {
            let regex = regex.trim_start();
            if regex.is_empty() {
                return Err(InvalidValue::new(
                    format!("invalid location `{text}`: it has no regular expression"),
                    "write one behind the `~`, such as `~ \\.php$`",
                ));
            }
            let location = Self::Regex {
                text: regex.to_owned(),
                ignores_case,
            };
            Matcher::compile(&location).map(|_| location)
        };
        if let Some(rest) = text.strip_prefix("~*") {
            return regex(rest, true);
        }
        if let Some(rest) = text.strip_prefix('~') {
            return regex(rest, false);
        }
        if let Some(rest) = text.strip_prefix("^~") {
            return Ok(Self::Prefix {
                text: plain(text, rest.trim_start())?,
                is_final: true,
            });
        }
        if let Some(rest) = text.strip_prefix('=') {
            return Ok(Self::Exact(plain(text, rest.trim_start())?));
        }
        Ok(Self::Prefix {
            text: plain(text, text)?,
            is_final: false,
        })
    }

    pub(super) fn is_prefix(&self) -> bool {
        matches!(self, Self::Prefix { .. })
    }

    /// Returns true if `inner` can be within this location.
    fn may_have(&self, inner: &Self) -> bool {
        match (self, inner) {
            (Self::Prefix { .. } | Self::Regex { .. }, Self::Regex { .. }) => true,
            (Self::Prefix { text, .. }, Self::Prefix { text: path, .. } | Self::Exact(path)) => {
                path.starts_with(text)
            }
            _ => false,
        }
    }

    /// Returns the names of its groups.
    pub(super) fn names(&self) -> Vec<String> {
        match Matcher::compile(self) {
            Ok(Some(matcher)) => matcher.names(),
            _ => Vec::new(),
        }
    }

    /// Returns its forms in every reading of a path: in lower case and without a final slash.
    pub(super) fn folded(&self) -> Vec<Self> {
        let small = |text: &[u8]| text.to_ascii_lowercase();
        let trimmed = |text: &[u8]| match text {
            [start @ .., b'/'] if !start.is_empty() => Some(small(start)),
            _ => None,
        };
        match self {
            Self::Exact(text) => {
                let shorter = trimmed(text).map(Self::Exact);
                shorter
                    .into_iter()
                    .chain([Self::Exact(small(text))])
                    .collect()
            }
            Self::Prefix { text, is_final } => {
                let same = Self::Prefix {
                    text: small(text),
                    is_final: *is_final,
                };
                let shorter = trimmed(text).map(Self::Exact);
                shorter.into_iter().chain([same]).collect()
            }
            // Beside one that ignores case already, it stays another expression.
            Self::Regex { text, ignores_case } => vec![Self::Regex {
                text: Self::pattern(text, !ignores_case),
                ignores_case: true,
            }],
        }
    }

    /// Returns the pattern with its flags.
    pub(super) fn pattern(text: &str, ignores_case: bool) -> String {
        let flag = if ignores_case { "(?i)" } else { "" };
        format!("{flag}{text}")
    }
}

impl PlacedLocation {
    /// Parses the texts of `within` and `location`.
    pub(super) fn parse<'a>(
        within: impl IntoIterator<Item = &'a str>,
        text: &str,
    ) -> Result<Self, InvalidValue> {
        let within: Result<Vec<Location>, _> = within.into_iter().map(Location::parse).collect();
        let placed = Self {
            within: within?,
            own: Location::parse(text)?,
        };
        let wrong = placed
            .within
            .iter()
            .zip(placed.chain().skip(1))
            .find(|(outer, inner)| !outer.may_have(inner))
            .map(|(outer, inner)| format!("the location `{inner}` cannot be within `{outer}`"));
        match wrong {
            None => Ok(placed),
            Some(wrong) => Err(InvalidValue::new(
                wrong,
                "a prefix may contain longer paths and regular expressions, an expression may \
                 contain other expressions, and `=` contains nothing",
            )),
        }
    }

    /// Returns the locations around it as text.
    pub(super) fn around(&self) -> String {
        let texts = self.within.iter().map(|outer| format!("{outer} > "));
        texts.collect::<Vec<_>>().concat()
    }

    /// Returns the locations around it and itself.
    pub(super) fn chain(&self) -> impl Iterator<Item = &Location> {
        self.within.iter().chain([&self.own])
    }

    /// Returns its forms in every reading of a path.
    pub(super) fn folded(&self) -> Vec<Self> {
        // The last form is of the same kind.
        let around = self.within.iter().map(|outer| outer.folded().pop());
        let within: Vec<Location> = around.flatten().collect();
        let placed = |own| Self {
            within: within.clone(),
            own,
        };
        self.own.folded().into_iter().map(placed).collect()
    }
}

/// Checks that requests can have this path once it is decoded.
fn plain(whole: &str, path: &str) -> Result<Vec<u8>, InvalidValue> {
    let refuse = |why: &str, help: String| {
        Err(InvalidValue::new(
            format!("invalid location `{whole}`: {why}"),
            help,
        ))
    };
    if path.starts_with('@') {
        return refuse(
            "a name with `@` is not a path",
            "write the route that it stands for".to_owned(),
        );
    }
    if !path.starts_with('/') {
        return refuse(
            "it does not begin with `/`",
            format!("write `/{path}`, or `~ {path}` for a regular expression"),
        );
    }
    if let Some((before, _)) = path.split_once('?') {
        return refuse(
            "it has a query",
            format!("write `{before}` and the query in `query`"),
        );
    }
    if path.contains('%') {
        return refuse(
            "locations are compared with decoded paths",
            "write the characters themselves, such as a space for `%20`".to_owned(),
        );
    }
    let is_dot = |segment: &str| segment == "." || segment == "..";
    if path.contains("//") || path.split('/').any(is_dot) {
        return refuse(
            "empty and dot segments are removed before paths are compared",
            "write the path without them".to_owned(),
        );
    }
    Ok(path.as_bytes().to_vec())
}

/// A compiled regular expression.
#[derive(Debug)]
pub(super) enum Matcher {
    /// In linear time.
    Plain(Regex),
    /// With look-around or back-references.
    Around(Box<Expression>),
}

impl Matcher {
    /// Compiles the expression of a location; `None` if it has none.
    pub(super) fn compile(location: &Location) -> Result<Option<Self>, InvalidValue> {
        let Location::Regex { text, ignores_case } = location else {
            return Ok(None);
        };
        let pattern = Location::pattern(text, *ignores_case);
        let problem = match super::regex(&pattern) {
            Ok(regex) => return Ok(Some(Self::Plain(regex))),
            Err(problem) => problem,
        };
        match Expression::parse(&pattern, false) {
            Ok(regex) => Ok(Some(Self::Around(Box::new(regex)))),
            Err(_) => Err(InvalidValue {
                help: "the syntax is that of Rust's `regex`, with look-around and back-references"
                    .to_owned(),
                ..problem
            }),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Plain(regex) => {
                let names = regex.capture_names().flatten();
                names.map(str::to_owned).collect()
            }
            Self::Around(regex) => {
                let names = regex.names().into_iter().flatten();
                names.map(str::to_owned).collect()
            }
        }
    }

    /// Returns the range of a group in the path.
    pub(super) fn range(&self, path: &[u8], name: &str) -> Option<Range<usize>> {
        match self {
            Self::Plain(regex) => Some(regex.captures(path)?.name(name)?.range()),
            Self::Around(regex) => {
                // A path that is not UTF-8 has other offsets once it is converted.
                let text = std::str::from_utf8(path).ok()?;
                Some(regex.groups(text).ok()??.name(name)?.range())
            }
        }
    }
}
