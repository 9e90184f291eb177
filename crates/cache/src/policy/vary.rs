//! Request fields that select a stored response, and their values in a request (RFC 9111, 4.1).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use ring::digest::{Context, SHA256};

use super::IgnoredHeaders;
use crate::{base::http::list_of, chain::RequestChanges};

/// `Vary` of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Vary {
    #[default]
    Nothing,
    /// Listed fields, sorted and without repeats: `Vary: a, b` and `Vary: b, a` are the same.
    Fields(Arc<[HeaderName]>),
    /// `*`, or an invalid field name: the selecting fields are unknown.
    Everything,
}

/// Hash of a request's values in the fields that the responses vary by; 0 if they vary by none.
///
/// The hash is cryptographic, since no bytes are compared here: with a weaker one a client could
/// search for a header that collides with that of other clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variance(pub u128);

impl Vary {
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut fields = Vec::new();
        for member in list_of(headers, &header::VARY) {
            // `*` is a valid token character, but no field has this name.
            match HeaderName::from_bytes(member) {
                Ok(name) if name.as_str() != "*" => fields.push(name),
                _ => return Self::Everything,
            }
        }
        fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        fields.dedup();
        Self::of_fields(fields)
    }

    /// Returns the `Vary` that lists these fields.
    pub(crate) fn of_fields(fields: Vec<HeaderName>) -> Self {
        if fields.is_empty() {
            Self::Nothing
        } else {
            Self::Fields(fields.into())
        }
    }

    /// Reads what [`Vary::names`] returned; `None` if a name is invalid.
    pub(crate) fn from_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<Self> {
        let fields = names.into_iter().map(|name| name.parse().ok());
        Some(Self::of_fields(fields.collect::<Option<_>>()?))
    }

    /// Returns the listed fields; `None` if the selecting fields are unknown.
    pub(crate) fn fields(&self) -> Option<&[HeaderName]> {
        match self {
            Self::Nothing => Some(&[]),
            Self::Fields(fields) => Some(fields),
            Self::Everything => None,
        }
    }

    /// Returns the names of the listed fields; `None` if the selecting fields are unknown.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        let fields = self.fields()?.iter();
        Some(fields.map(|name| name.as_str().to_owned()).collect())
    }

    /// Returns the fields by which the responses of a route differ that may ignore `Vary`. Encoded
    /// bytes are not for every client, whatever the route says.
    pub fn unless_ignored(headers: &HeaderMap, ignored: IgnoredHeaders) -> Self {
        if !ignored.vary {
            return Self::parse(headers);
        }
        if headers.contains_key(header::CONTENT_ENCODING) {
            Self::Fields(Arc::from([header::ACCEPT_ENCODING]))
        } else {
            Self::Nothing
        }
    }

    /// Removes `name`, for a field that was not sent to the origin: the response cannot depend on
    /// it.
    #[must_use]
    pub fn without(self, name: &HeaderName) -> Self {
        let Self::Fields(fields) = &self else {
            return self;
        };
        if !fields.contains(name) {
            return self;
        }
        Self::of_fields(fields.iter().filter(|f| *f != name).cloned().collect())
    }

    /// Hashes the values of these fields in `request`.
    ///
    /// Values are equal if they differ only in insignificant ways: how a list is split into lines,
    /// white space around its commas, and for the three negotiation fields their case and
    /// (`Accept-Encoding` only) order. An absent field differs from an empty one.
    pub fn variance(&self, request: &HeaderMap) -> Variance {
        let Self::Fields(fields) = self else {
            return Variance(0);
        };
        let mut text = HashInput(Context::new(&SHA256));
        for name in fields.iter() {
            text.part(name.as_str().as_bytes());
            // No other mark here is a length.
            if !request.contains_key(name) {
                text.0.update(&[0]);
                continue;
            }
            text.0.update(&[1]);
            match Normalization::for_header(name) {
                Normalization::List => text.list(request, name, false),
                Normalization::FoldedList => text.list(request, name, true),
                Normalization::Set => text.set(request, name),
                Normalization::Whole => text.whole(request, name),
            }
        }
        let digest = text.0.finish();
        let (half, _) = digest
            .as_ref()
            .split_first_chunk::<16>()
            .expect("SHA-256 has 32 bytes");
        Variance(u128::from_be_bytes(*half))
    }
}

/// Request headers whose values at the origin are known.
///
/// Responses vary by the headers sent to the origin (RFC 9110, 12.5.5). These differ from the
/// client's where the gateway sets or removes a header.
#[derive(Clone, Copy, Debug)]
pub struct SentHeaders<'h> {
    headers: &'h HeaderMap,
    /// Headers with the client's own value; `None` if `headers` are those sent to the origin.
    unchanged: Option<&'h UnchangedHeaders>,
}

/// Headers that reach the origin as the client sends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnchangedHeaders(RequestChanges);

impl<'h> SentHeaders<'h> {
    /// Wraps all headers, as sent to the origin.
    pub fn whole(headers: &'h HeaderMap) -> Self {
        Self {
            headers,
            unchanged: None,
        }
    }

    /// Wraps the client's headers, of which those in `unchanged` reach the origin as they are.
    pub fn of_client(headers: &'h HeaderMap, unchanged: &'h UnchangedHeaders) -> Self {
        Self {
            headers,
            unchanged: Some(unchanged),
        }
    }

    /// Returns the variance of the request as sent to the origin; `None` if these headers do not
    /// determine it.
    pub fn variance(&self, vary: &Vary) -> Option<Variance> {
        if let (Vary::Fields(fields), Some(unchanged)) = (vary, self.unchanged)
            && (names_headers_of_the_hop(self.headers)
                || !fields.iter().all(|name| unchanged.contains(name)))
        {
            return None;
        }
        Some(vary.variance(self.headers))
    }
}

impl UnchangedHeaders {
    /// Builds the set for a route whose filters make these changes.
    pub fn new(changes: RequestChanges) -> Self {
        Self(changes)
    }

    pub fn contains(&self, name: &HeaderName) -> bool {
        is_left_alone(name) && !self.is_changed(name)
    }

    fn is_changed(&self, name: &HeaderName) -> bool {
        self.0 == RequestChanges::Any || self.names(name)
    }

    /// Returns true if a filter of the route is known to change this header.
    pub fn names(&self, name: &HeaderName) -> bool {
        self.0.names_header(name.as_str())
    }
}

/// Returns true for names that the gateway itself never sets or removes for any client. The list is
/// an allowlist: a missing name only costs time.
pub fn is_left_alone(name: &HeaderName) -> bool {
    match *name {
        header::ACCEPT
        | header::ACCEPT_CHARSET
        | header::ACCEPT_ENCODING
        | header::ACCEPT_LANGUAGE
        | header::AUTHORIZATION
        | header::COOKIE
        | header::DNT
        | header::ORIGIN
        | header::REFERER
        | header::USER_AGENT => true,
        _ => {
            let name = name.as_str();
            name.starts_with("sec-")
                || name.starts_with("next-router-")
                || matches!(name, "rsc" | "next-url" | "save-data" | "x-requested-with")
        }
    }
}

/// Returns true if `Connection` lists hop-by-hop fields (RFC 9110, 7.6.1).
fn names_headers_of_the_hop(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        let is = |word: &str| value.as_bytes().eq_ignore_ascii_case(word.as_bytes());
        !is("keep-alive") && !is("close")
    })
}

/// Normalization of a field's value that keeps its meaning.
enum Normalization {
    List,
    /// List of case-insensitive names.
    FoldedList,
    /// List of case-insensitive names in any order.
    Set,
    /// Not a list: commas are part of the value.
    Whole,
}

impl Normalization {
    fn for_header(name: &HeaderName) -> Self {
        match *name {
            // RFC 9110, 12.5.3: only weights express a preference.
            header::ACCEPT_ENCODING => Self::Set,
            // Libraries treat the order of equal weights as a preference.
            header::ACCEPT_LANGUAGE | header::ACCEPT_CHARSET => Self::FoldedList,
            header::COOKIE
            | header::USER_AGENT
            | header::AUTHORIZATION
            | header::PROXY_AUTHORIZATION
            | header::REFERER
            | header::ORIGIN
            | header::HOST => Self::Whole,
            _ => Self::List,
        }
    }
}

/// Input of the hash: parts with their lengths, so that no part runs into the next.
struct HashInput(Context);

impl HashInput {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn folded(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        let mut buffer = [0; 64];
        for chunk in bytes.chunks(buffer.len()) {
            let buffer = &mut buffer[..chunk.len()];
            buffer.copy_from_slice(chunk);
            buffer.make_ascii_lowercase();
            self.0.update(buffer);
        }
    }

    fn list(&mut self, request: &HeaderMap, name: &HeaderName, folds: bool) {
        for member in list_of(request, name) {
            if folds {
                self.folded(member);
            } else {
                self.part(member);
            }
        }
        self.end();
    }

    fn set(&mut self, request: &HeaderMap, name: &HeaderName) {
        let mut members: Vec<Vec<u8>> = list_of(request, name)
            .map(|member| {
                let bytes = member.iter().filter(|byte| !byte.is_ascii_whitespace());
                bytes.map(u8::to_ascii_lowercase).collect()
            })
            .collect();
        members.sort_unstable();
        members.dedup();
        for member in &members {
            self.part(member);
        }
        self.end();
    }

    fn whole(&mut self, request: &HeaderMap, name: &HeaderName) {
        for line in request.get_all(name) {
            self.part(line.as_bytes().trim_ascii());
        }
        self.end();
    }

    /// Marks the end; a part never has this length.
    fn end(&mut self) {
        self.0.update(&u64::MAX.to_be_bytes());
    }
}
