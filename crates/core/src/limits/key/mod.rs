//! Keys of requests: a list of parts of a request, of which the first one present is used, and as a
//! fallback the client's address.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use derive_more::Display;
use http::HeaderName;
use ring::digest::{Context, SHA256};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use smart_default::SmartDefault;

use crate::{
    base::{
        net::{neighbourhood, subscriber},
        query,
    },
    chain::{Certificate, Exchange},
    config::{diagnostic::suggest, tree::OneOrMany},
};

/// Key of a bucket: 128 bits of a hash, which two clients share only by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u128);

/// The parts of a request that may identify a client, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, SmartDefault)]
#[serde(transparent)]
pub struct KeyList(#[default(OneOrMany(vec![KeyItem(vec![Source::ClientIp])]))] OneOrMany<KeyItem>);

/// Entry of a list: parts that must all be present, such as `client.ip+route`.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(
    description = "a part of a request: `client.ip`, `client.network`, `header:NAME`, `cookie:NAME`, \
                   `query:NAME`, `host`, `route`, `jwt.CLAIM`, `api_key`, `user` or \
                   `client.certificate`; or several joined by `+`"
)]
pub struct KeyItem(#[schemars(with = "String")] Vec<Source>);

/// A part of a request.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub enum Source {
    /// Address of the client; IPv6 by its /64, which is what one subscriber gets.
    #[display("client.ip")]
    ClientIp,
    /// Network of the client: the /24 of an IPv4 address, the /48 of an IPv6 one.
    #[display("client.network")]
    ClientNetwork,
    #[display("header:{_0}")]
    Header(HeaderName),
    #[display("cookie:{_0}")]
    Cookie(String),
    /// First value of a query parameter, decoded.
    #[display("query:{_0}")]
    Query(String),
    /// Host of the request, without its port.
    #[display("host")]
    Host,
    #[display("route")]
    Route,
    /// A claim of a verified token.
    #[display("jwt.{_0}")]
    Claim(String),
    /// Name of the API key.
    #[display("api_key")]
    ApiKey,
    /// User found by an identity filter.
    #[display("user")]
    User,
    /// SHA-256 of the client certificate.
    #[display("client.certificate")]
    Certificate,
}

/// Value of one part of a request, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue<'e> {
    Nothing,
    One(Cow<'e, [u8]>),
    /// Several values, or one that is too long: backends differ in which of them they use.
    Unclear,
}

/// Text of a request that a limit counts by, which a higher layer computes.
pub trait CountedText: fmt::Debug + Send + Sync {
    /// Returns true if the text depends on the client's identity.
    fn needs_identity(&self) -> bool;

    /// Appends the text; nothing for a request that is not counted.
    fn write(&self, ex: &Exchange<'_>, text: &mut String);
}

/// Hash functions for keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hashing {
    /// Keyed hash, for tables in memory. Without the seed a client cannot forge a collision.
    Seeded(u64, u64),
    /// Cryptographic hash, the same in each process, for tables that gateways share.
    Shared,
}

/// A hash in progress.
#[derive(Clone)]
pub struct Hasher(KeyHasher);

#[derive(Clone)]
enum KeyHasher {
    Sip(SipHasher13),
    Sha(Box<Context>),
}

/// Maximum length of a value. Longer ones count as missing: legitimate keys are short, and hashing
/// takes time.
const MAX_VALUE: usize = 4096;

/// Maximum number of joined parts. More would not identify clients any better.
const MAX_PARTS: usize = 4;

const NAMES: &str = "client.ip client.network header:NAME cookie:NAME query:NAME host route \
    jwt.CLAIM api_key user client.certificate";

impl KeyList {
    /// Returns the request's key. A request without any part of the list is counted by its client's
    /// address, exactly as with `client.ip`.
    pub fn resolve(&self, ex: &Exchange<'_>, hashing: Hashing) -> Key {
        self.resolve_after(hashing.begin(), ex)
    }

    /// Like [`Self::resolve`], where `prefix` has what already separates the bucket from others
    /// with the same key.
    pub fn resolve_after(&self, prefix: Hasher, ex: &Exchange<'_>) -> Key {
        for item in &self.0.0 {
            let mut hasher = prefix.clone();
            if item.0.iter().all(|source| source.feed(&mut hasher, ex)) {
                return hasher.finish();
            }
        }
        let mut hasher = prefix;
        Source::ClientIp.feed(&mut hasher, ex);
        hasher.finish()
    }

    /// Returns the entry that identifies this request; `None` if the request has none of them and
    /// its client's address is used.
    pub fn chosen(&self, ex: &Exchange<'_>) -> Option<&KeyItem> {
        let has_all = |item: &&KeyItem| item.0.iter().all(|source| source.value(ex).is_some());
        self.0.0.iter().find(has_all)
    }

    /// Returns true if the key depends on the client's identity.
    pub fn needs_identity(&self) -> bool {
        let mut sources = self.0.0.iter().flat_map(|item| &item.0);
        sources.any(Source::needs_identity)
    }
}

impl KeyItem {
    pub fn sources(&self) -> &[Source] {
        &self.0
    }
}

impl Source {
    /// Returns true if identity filters must have run.
    pub fn needs_identity(&self) -> bool {
        matches!(self, Self::Claim(_) | Self::ApiKey | Self::User)
    }

    /// Returns true if the client can choose the value freely. `has_open_route`: a route takes any
    /// host.
    pub fn is_claimed_by_client(&self, has_open_route: bool) -> bool {
        match self {
            Self::Header(_) | Self::Cookie(_) | Self::Query(_) => true,
            Self::Host => has_open_route,
            Self::ClientIp
            | Self::ClientNetwork
            | Self::Route
            | Self::Claim(_)
            | Self::ApiKey
            | Self::User
            | Self::Certificate => false,
        }
    }

    /// Returns the value of the part; `None` if it is absent, empty, or longer than any legitimate
    /// value.
    pub fn value<'e>(&'e self, ex: &'e Exchange<'_>) -> Option<Cow<'e, [u8]>> {
        let identity = ex.facts.identity.as_ref();
        let value: Cow<'_, [u8]> = match self {
            Self::ClientIp => octets(subscriber(ex.facts.client.ip)).into(),
            Self::ClientNetwork => octets(neighbourhood(ex.facts.client.ip)).into(),
            Self::Header(name) => {
                let first = only(ex.head.headers.get_all(name).iter())?;
                first.as_bytes().trim_ascii().into()
            }
            Self::Cookie(name) => {
                // An app that reads a hidden cookie would let a client have as many keys as it
                // likes.
                if query::may_hide_cookies(&ex.head.headers) {
                    return None;
                }
                let first = only(query::cookies(&ex.head.headers, name.as_bytes()))?;
                query::decoded(unquoted(first))
            }
            Self::Query(name) => {
                let query = query::query_of(ex.head.raw_path())?;
                let first = only(query::values(query, name.as_bytes()))?;
                query::form_decoded(first)
            }
            Self::Host => host(ex.host()).into(),
            Self::Route => ex.facts.route.as_deref().unwrap_or("-").as_bytes().into(),
            Self::Claim(path) => match identity?.claims.as_ref()?.text(path)? {
                Cow::Borrowed(text) => text.as_bytes().into(),
                Cow::Owned(text) => text.into_bytes().into(),
            },
            Self::ApiKey => identity?.api_key.as_deref()?.as_bytes().into(),
            Self::User => identity?.user.as_deref()?.as_bytes().into(),
            Self::Certificate => match &ex.facts.client.certificate {
                Certificate::Verified(shown) => shown.fingerprint.as_bytes().into(),
                Certificate::NotAsked | Certificate::Absent => return None,
            },
        };
        (1..=MAX_VALUE).contains(&value.len()).then_some(value)
    }

    /// Returns the value of the part, byte for byte as a backend gets it, for callers that must
    /// separate all values that a backend could tell apart.
    pub fn sent<'e>(&'e self, ex: &'e Exchange<'_>) -> KeyValue<'e> {
        match self {
            Self::Header(name) => {
                let lines = ex.head.headers.get_all(name).iter();
                KeyValue::read(lines.map(|line| line.as_bytes().trim_ascii()))
            }
            Self::Cookie(name) => KeyValue::read(query::cookies(&ex.head.headers, name.as_bytes())),
            Self::Query(name) => {
                let query = query::query_of(ex.head.raw_path()).unwrap_or_default();
                let pairs = query.split(|byte| *byte == b'&');
                // Many parsers read `name[]` and `name[x]` as `name`.
                let named = pairs.filter(|pair| {
                    let key = query::name_of(pair);
                    let rest = key.strip_prefix(name.as_bytes());
                    rest.is_some_and(|rest| matches!(rest, [] | [b'[', ..]))
                });
                KeyValue::read(named)
            }
            Self::Claim(path) => {
                let claims = ex.facts.identity.as_ref().and_then(|it| it.claims.as_ref());
                match (claims.and_then(|claims| claims.get(path)), self.value(ex)) {
                    (_, Some(value)) => KeyValue::One(value),
                    (None | Some(Value::Null), None) => KeyValue::Nothing,
                    // Such as a list.
                    (Some(_), None) => KeyValue::Unclear,
                }
            }
            Self::ClientIp
            | Self::ClientNetwork
            | Self::Host
            | Self::Route
            | Self::ApiKey
            | Self::User
            | Self::Certificate => self.value(ex).map_or(KeyValue::Nothing, KeyValue::One),
        }
    }

    /// Adds the part to the hash with its kind and name, so that values of different parts never
    /// collide; returns false if the request does not have it.
    fn feed(&self, hasher: &mut Hasher, ex: &Exchange<'_>) -> bool {
        // The usual key, without an allocation.
        if let Self::ClientIp = self {
            match subscriber(ex.facts.client.ip) {
                IpAddr::V4(address) => hasher.part(b'i', &address.octets()),
                IpAddr::V6(address) => hasher.part(b'i', &address.octets()),
            }
            return true;
        }
        let Some(value) = self.value(ex) else {
            return false;
        };
        let (kind, name) = match self {
            Self::ClientIp => (b'i', ""),
            Self::ClientNetwork => (b'n', ""),
            Self::Header(name) => (b'h', name.as_str()),
            Self::Cookie(name) => (b'c', name.as_str()),
            Self::Query(name) => (b'q', name.as_str()),
            Self::Host => (b'o', ""),
            Self::Route => (b'r', ""),
            Self::Claim(name) => (b'j', name.as_str()),
            Self::ApiKey => (b'k', ""),
            Self::User => (b'u', ""),
            Self::Certificate => (b'f', ""),
        };
        hasher.part(kind, name.as_bytes());
        hasher.part(b'=', &value);
        if let (Self::User, Some(cas)) = (self, user_cas(ex)) {
            hasher.part(b'a', &cas);
        }
        true
    }
}

impl<'e> KeyValue<'e> {
    fn read(mut values: impl Iterator<Item = &'e [u8]>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) if value.len() <= MAX_VALUE => Self::One(value.into()),
            (Some(_), _) => Self::Unclear,
        }
    }

    pub fn is_there(&self) -> bool {
        *self != Self::Nothing
    }
}

/// Returns an address as bytes. Lengths differ by family, so that an IPv4 address never equals an IPv6
/// one.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Returns the value of a name if it has one, or the same several times: some frameworks take the
/// first of several, others the last.
fn only<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)
}

/// Returns the digest of the CAs that vouch for the user of a request, if its certificate names it.
pub fn user_cas(ex: &Exchange<'_>) -> Option<[u8; 8]> {
    let Certificate::Verified(shown) = &ex.facts.client.certificate else {
        return None;
    };
    let user = ex.facts.identity.as_ref()?.user.as_deref()?;
    (shown.subject == *user).then(|| shown.cas.to_be_bytes())
}

/// Removes the quotes that may surround a cookie's value (RFC 6265, 4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

/// Returns a host, which is in lower case, without port and trailing dot.
fn host(host: &str) -> &[u8] {
    let end = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => colon,
        _ => host.len(),
    };
    host[..end].trim_end_matches('.').as_bytes()
}

impl Hashing {
    pub fn begin(self) -> Hasher {
        Hasher(match self {
            Self::Seeded(a, b) => KeyHasher::Sip(SipHasher13::new_with_keys(a, b)),
            Self::Shared => KeyHasher::Sha(Box::new(Context::new(&SHA256))),
        })
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed is a secret of the process.
        f.write_str(match self {
            Self::Seeded(..) => "Seeded",
            Self::Shared => "Shared",
        })
    }
}

impl Hasher {
    /// Adds one part: its kind, its length and its bytes, so that parts cannot be split in two
    /// ways.
    pub fn part(&mut self, kind: u8, value: &[u8]) {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes();
        let head = [kind, length[0], length[1], length[2], length[3]];
        // Short parts are written in one piece.
        let mut piece = [0; 24];
        if let Some(room) = piece.get_mut(..head.len() + value.len()) {
            let (start, rest) = room.split_at_mut(head.len());
            start.copy_from_slice(&head);
            rest.copy_from_slice(value);
            self.write(room);
        } else {
            self.write(&head);
            self.write(value);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            KeyHasher::Sip(hasher) => std::hash::Hasher::write(hasher, bytes),
            KeyHasher::Sha(context) => context.update(bytes),
        }
    }

    pub fn finish(self) -> Key {
        match self.0 {
            KeyHasher::Sip(hasher) => Key(hasher.finish128().as_u128()),
            KeyHasher::Sha(context) => {
                let digest = context.finish();
                let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
                Key(u128::from_be_bytes(first))
            }
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            let help = suggest(text, NAMES.split(' '), "parts of a request are");
            format!("unknown key `{text}`\nhelp: {help}")
        };
        let named = |kind: &str, name: &str| match name {
            "" => Err(format!(
                "`{text}` has no {kind} name\nhelp: write the name after it, such as `{kind}:x`"
            )),
            name => Ok(name.to_owned()),
        };
        if let Some(claim) = text.strip_prefix("jwt.") {
            return match claim {
                "" => Err(
                    "`jwt.` has no claim\nhelp: write the claim after it, such as `jwt.sub`".into(),
                ),
                claim => Ok(Self::Claim(claim.to_owned())),
            };
        }
        if let Some((kind, name)) = text.split_once(':') {
            return match kind {
                "header" => HeaderName::from_bytes(named(kind, name)?.as_bytes())
                    .map(Self::Header)
                    .map_err(|_| {
                        format!(
                            "invalid header name `{name}`\nhelp: write one such as \
                             `header:X-Client`"
                        )
                    }),
                "cookie" => named(kind, name).map(Self::Cookie),
                "query" => named(kind, name).map(Self::Query),
                _ => Err(unknown()),
            };
        }
        Ok(match text {
            "client.ip" => Self::ClientIp,
            "client.network" => Self::ClientNetwork,
            "host" => Self::Host,
            "route" => Self::Route,
            "api_key" => Self::ApiKey,
            "user" => Self::User,
            "client.certificate" => Self::Certificate,
            _ => return Err(unknown()),
        })
    }
}

impl FromStr for KeyItem {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sources: Vec<Source> = text
            .split('+')
            .map(|part| part.trim().parse())
            .collect::<Result<_, _>>()?;
        if sources.len() > MAX_PARTS {
            return Err(format!(
                "`{text}` has {} parts\nhelp: join {MAX_PARTS} at most",
                sources.len()
            ));
        }
        Ok(Self(sources))
    }
}

impl fmt::Display for KeyItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        put_joined(f, &self.0, "+")
    }
}

impl fmt::Display for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        put_joined(f, &self.0.0, ", ")
    }
}

fn put_joined(
    f: &mut fmt::Formatter<'_>,
    items: &[impl fmt::Display],
    separator: &str,
) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        let before = if index == 0 { "" } else { separator };
        write!(f, "{before}{item}")?;
    }
    Ok(())
}

edgeway_base::text_form!(Source);
edgeway_base::text_form!(KeyItem);
