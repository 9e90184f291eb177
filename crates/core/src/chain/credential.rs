//! Credentials in a request: what filters identify clients by, and what no backend gets.

use std::fmt;

use edgeway_base::query;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Part of a request by which a filter identifies the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub place: CredentialPlace,
    /// True if no backend gets it, also that of another route which takes the request over.
    pub is_stripped: bool,
}

impl Credential {
    /// Returns the credential in a header that backends get as well.
    pub fn sent_on(name: HeaderName) -> Self {
        Self {
            place: CredentialPlace::Header(name),
            is_stripped: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialPlace {
    Header(HeaderName),
    /// `Authorization` with this scheme, in lower case: others are for other filters or the app.
    Scheme(&'static str),
    Cookie(Box<str>),
    Query(Box<str>),
}

impl CredentialPlace {
    /// Returns the place of a credential in a header, which has a scheme if that is `Authorization`.
    pub fn of_header(name: HeaderName, scheme: &'static str) -> Self {
        if name == header::AUTHORIZATION {
            Self::Scheme(scheme)
        } else {
            Self::Header(name)
        }
    }

    /// Returns the header that has the credential; `None` if it is in the query.
    pub fn header(&self) -> Option<HeaderName> {
        match self {
            Self::Header(name) => Some(name.clone()),
            Self::Scheme(_) => Some(header::AUTHORIZATION),
            Self::Cookie(_) => Some(header::COOKIE),
            Self::Query(_) => None,
        }
    }

    /// Returns true if a client shows something here, valid or not. Cookies as a whole say nothing,
    /// and a query says itself which response it is for.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Header(name) => *name != header::COOKIE && headers.contains_key(name),
            Self::Scheme(_) => headers.contains_key(header::AUTHORIZATION),
            Self::Cookie(name) => query::cookies(headers, name.as_bytes()).next().is_some(),
            Self::Query(_) => false,
        }
    }

    /// Removes the credential from the headers for a backend.
    pub fn strip(&self, headers: &mut HeaderMap) {
        match self {
            Self::Header(name) => {
                headers.remove(name);
            }
            Self::Scheme(scheme) => {
                let mut values = headers.get_all(header::AUTHORIZATION).iter();
                if values.any(|value| after_scheme(value, scheme).is_some()) {
                    headers.remove(header::AUTHORIZATION);
                }
            }
            Self::Cookie(name) => strip_cookie(headers, name.as_bytes()),
            // Removed from the target.
            Self::Query(_) => {}
        }
    }
}

impl fmt::Display for CredentialPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "the header `{name}`"),
            Self::Scheme(_) => write!(f, "the header `{}`", header::AUTHORIZATION),
            Self::Cookie(name) => write!(f, "the cookie `{name}`"),
            Self::Query(name) => write!(f, "the query parameter `{name}`"),
        }
    }
}

/// Returns what is behind a scheme, in lower case, in the value of a header; `None` if the value has
/// another one.
pub fn after_scheme<'v>(value: &'v HeaderValue, scheme: &str) -> Option<&'v [u8]> {
    let value = value.as_bytes().trim_ascii();
    let (word, rest) = value.split_at_checked(scheme.len())?;
    let is_own = word.eq_ignore_ascii_case(scheme.as_bytes());
    (is_own && rest.first().is_none_or(|byte| *byte == b' ')).then(|| rest.trim_ascii())
}

fn strip_cookie(headers: &mut HeaderMap, name: &[u8]) {
    if query::cookies(headers, name).next().is_none() {
        return;
    }
    let mut remaining: Vec<u8> = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let key = pair.split(|byte| *byte == b'=').next();
            if pair.is_empty() || key.map(<[u8]>::trim_ascii_end) == Some(name) {
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
