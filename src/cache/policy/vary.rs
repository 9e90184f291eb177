//! By which fields of the request answers differ, and what a request has in them (RFC 9111,
//! 4.1).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use ring::digest::{Context, SHA256};

use crate::{base::http::list_of, chain::RequestChanges};

/// `Vary` of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Vary {
    #[default]
    Nothing,
    /// Sorted, each once: `Vary: a, b` and `Vary: b, a` are the same.
    Fields(Arc<[HeaderName]>),
    /// `*`, or a field that cannot be read: by what, nobody knows.
    Everything,
}

/// What a request has in the fields that answers differ by; 0 where they differ by none.
///
/// A cryptographic hash, since here no bytes are compared: with another kind a client could
/// look for a header that is taken for that of other clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variance(pub u128);

impl Vary {
    pub fn of(headers: &HeaderMap) -> Self {
        const VARY: HeaderName = header::VARY;
        if !headers.contains_key(VARY) {
            return Self::Nothing;
        }
        let mut fields = Vec::new();
        for member in list_of(headers, &VARY) {
            // `*` is a letter of tokens, but no field has this name.
            match HeaderName::from_bytes(member) {
                Ok(name) if name.as_str() != "*" => fields.push(name),
                _ => return Self::Everything,
            }
        }
        fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        fields.dedup();
        if fields.is_empty() {
            return Self::Nothing;
        }
        Self::Fields(fields.into())
    }

    /// The same without `name`, for a field that the origin was not shown: it cannot have
    /// answered by it.
    #[must_use]
    pub fn without(self, name: &HeaderName) -> Self {
        let Self::Fields(fields) = &self else {
            return self;
        };
        if !fields.contains(name) {
            return self;
        }
        let left: Vec<HeaderName> = fields.iter().filter(|f| *f != name).cloned().collect();
        if left.is_empty() {
            Self::Nothing
        } else {
            Self::Fields(left.into())
        }
    }

    /// What `request` has in these fields.
    ///
    /// Values are the same if they differ only in what cannot matter: the lines that a list
    /// is parted into, white space round its commas, and of the three fields of negotiation
    /// their case and (`Accept-Encoding` only) order. A field that is absent is another
    /// thing than an empty one.
    pub fn variance(&self, request: &HeaderMap) -> Variance {
        let Self::Fields(fields) = self else {
            return Variance(0);
        };
        let mut text = Text(Context::new(&SHA256));
        for name in fields.iter() {
            text.part(name.as_str().as_bytes());
            // No other mark is the length of anything.
            if !request.contains_key(name) {
                text.0.update(&[0]);
                continue;
            }
            text.0.update(&[1]);
            match Shape::of(name) {
                Shape::List => text.list(request, name, false),
                Shape::FoldedList => text.list(request, name, true),
                Shape::Set => text.set(request, name),
                Shape::Whole => text.whole(request, name),
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

/// Headers of a request, as far as they are known to reach the origin.
///
/// What responses vary by is what the origin was sent (RFC 9110, 12.5.5), and that is not
/// what the client sent where the gateway writes a header or takes one away.
#[derive(Clone, Copy, Debug)]
pub struct SentHeaders<'h> {
    headers: &'h HeaderMap,
    /// Of which `headers` has the client's own value; `None` if they are what the origin gets.
    unchanged: Option<&'h Unchanged>,
}

/// Headers that reach the origin as the client sends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchanged(RequestChanges);

impl<'h> SentHeaders<'h> {
    /// All of them, as the origin gets them.
    pub fn whole(headers: &'h HeaderMap) -> Self {
        Self {
            headers,
            unchanged: None,
        }
    }

    /// Those of the client's that reach the origin as they are.
    pub fn of_client(headers: &'h HeaderMap, unchanged: &'h Unchanged) -> Self {
        Self {
            headers,
            unchanged: Some(unchanged),
        }
    }

    /// What the origin gets in the fields of `vary`; `None` if that cannot be told from these
    /// headers.
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

impl Unchanged {
    /// Of a route whose filters make these changes.
    pub fn new(changes: RequestChanges) -> Self {
        Self(changes)
    }

    pub fn contains(&self, name: &HeaderName) -> bool {
        is_left_alone(name) && !self.is_changed(name)
    }

    fn is_changed(&self, name: &HeaderName) -> bool {
        self.0 == RequestChanges::Any || self.names(name)
    }

    /// Tells that a filter of the route is known to change this header.
    pub fn names(&self, name: &HeaderName) -> bool {
        let RequestChanges::Only { names, prefixes } = &self.0 else {
            return false;
        };
        let begins = |prefix: &str| name.as_str().starts_with(prefix);
        names.contains(name) || prefixes.iter().any(|prefix| begins(prefix))
    }
}

/// Names that the gateway itself never writes and never takes away, whoever the client is.
/// A list of what is safe: a name that is missing here only costs time.
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

/// `Connection` names headers that end here (RFC 9110, 7.6.1).
fn names_headers_of_the_hop(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        let is = |word: &str| value.as_bytes().eq_ignore_ascii_case(word.as_bytes());
        !is("keep-alive") && !is("close")
    })
}

/// What may be done to a field's value without changing what it means.
enum Shape {
    List,
    /// A list of names whose case does not matter.
    FoldedList,
    /// The same, and order does not matter either.
    Set,
    /// No list: a comma is a comma.
    Whole,
}

impl Shape {
    fn of(name: &HeaderName) -> Self {
        match *name {
            // RFC 9110, 12.5.3: only weights say what is liked better.
            header::ACCEPT_ENCODING => Self::Set,
            // Libraries take the order of equal weights for a preference.
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

/// What is hashed: parts with their lengths, so that none runs into the next.
struct Text(Context);

impl Text {
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

    /// No part has this length.
    fn end(&mut self) {
        self.0.update(&u64::MAX.to_be_bytes());
    }
}
