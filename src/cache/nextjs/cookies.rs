//! Lists of cookies by name.

use http::HeaderValue;

/// Cookies that scripts of analytics and advertising set for themselves: no app renders by
/// them, and hardly a visitor comes without.
pub const ANALYTICS: &[&str] = &[
    "_ga", "_ga_*", "_gid", "_gat*", "_gcl_*", "__utm*", "_fbp", "_fbc", "_pk_*", "_hj*", "_clck",
    "_clsk", "_uet*", "_ttp",
];

/// Names of cookies; one that ends in `*` stands for all that begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieNames(Box<[Box<str>]>);

impl Default for CookieNames {
    fn default() -> Self {
        Self::new(ANALYTICS.iter().copied())
    }
}

impl CookieNames {
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(Box::from).collect())
    }

    fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|own| match own.strip_suffix('*') {
            Some(start) => name.starts_with(start.as_bytes()),
            None => name == own.as_bytes(),
        })
    }

    /// Whether every cookie of this line is on the list.
    pub(super) fn have_all(&self, line: &HeaderValue) -> bool {
        names(line).all(|name| self.has(name))
    }
}

/// The names in one `Cookie` line. A pair without `=` is a cookie too, whose name is all of it.
pub(super) fn names(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|byte| *byte == b';')
        .map(|pair| {
            let name = pair.split(|byte| *byte == b'=').next();
            name.unwrap_or_default().trim_ascii()
        })
        .filter(|name| !name.is_empty())
}
