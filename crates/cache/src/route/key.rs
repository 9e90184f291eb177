//! Cache keys of a route's requests.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};

use crate::{
    base::query,
    chain::{Exchange, KeyBuilder, host::public_host},
    key::Key,
    limits::key::{KeyItem, KeyValue, Source, user_cas},
    name_set::NameSet,
};

/// Parts of the cache key beside scheme, host and path.
#[derive(Debug, Default)]
pub struct KeyRules {
    pub query: Query,
    /// True if parameters outside the key still reach the origin.
    pub passes_unkeyed: bool,
    /// Parts of the request by which responses differ.
    pub by: Box<[KeyItem]>,
}

/// Query parameters that are part of the key, as sent and in their order.
#[derive(Debug, Default)]
pub enum Query {
    #[default]
    All,
    Without(NameSet),
    Only(NameSet),
}

impl KeyRules {
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.by.iter().flat_map(KeyItem::sources)
    }

    /// Returns the cookies of a request that are part of the key, as one line; `None` if it has none.
    pub fn cookies_of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut line = Vec::new();
        let mut names = Vec::new();
        for source in self.sources() {
            let Source::Cookie(name) = source else {
                continue;
            };
            if names.contains(&name) {
                continue;
            }
            names.push(name);
            for value in query::cookies(headers, name.as_bytes()) {
                if !line.is_empty() {
                    line.extend_from_slice(b"; ");
                }
                line.extend_from_slice(name.as_bytes());
                line.push(b'=');
                line.extend_from_slice(value);
            }
        }
        let line = (!line.is_empty()).then_some(line)?;
        HeaderValue::from_bytes(&line).ok()
    }

    /// Returns true if the key identifies this one client: by a proven identity, not by something
    /// that many clients share, such as a role.
    pub fn names(&self, ex: &Exchange<'_>) -> bool {
        let is_one = |source: &Source| match source {
            Source::Claim(claim) => claim == "sub",
            Source::User | Source::ApiKey | Source::Certificate => true,
            _ => false,
        };
        let mut naming = self.sources().filter(|source| is_one(source));
        naming.any(|source| source.value(ex).is_some())
    }

    /// Returns `target` as sent to the origin when other clients may get the response: without those
    /// parameters of the client's own query, its last `len` bytes, that are not part of the key,
    /// except those named `retained`. `None` if the target stays as it is.
    pub fn target_of(&self, target: &[u8], len: usize, retained: Option<&[u8]>) -> Option<Vec<u8>> {
        if self.passes_unkeyed || self.query.is_all() || len == 0 {
            return None;
        }
        let (written, tail) = target.split_at(target.len().checked_sub(len + 1)?);
        // `?`, or `&` behind what the gateway wrote.
        let (mut separator, query) = tail.split_at(1);
        let stays = |parameter: &&[u8]| {
            self.query.counts(parameter)
                || retained.is_some_and(|retained| query::name_of(parameter) == retained)
        };
        let mut parameters = query.split(|byte| *byte == b'&');
        if parameters.all(|parameter| stays(&parameter)) {
            return None;
        }
        let mut sent = written.to_vec();
        for parameter in query.split(|byte| *byte == b'&').filter(stays) {
            sent.extend_from_slice(separator);
            sent.extend_from_slice(parameter);
            separator = b"&";
        }
        Some(sent)
    }

    /// Returns the part of a query (without its `?`) that belongs to the key.
    pub fn query_of<'q>(&self, query: Option<&'q [u8]>) -> Option<Cow<'q, [u8]>> {
        query.and_then(|query| self.query.select(query))
    }

    /// Builds the key of the request; `parts` holds what filters and the app add, and `canonical` is
    /// the query in place of that of the request. Returns an error if the value of a part is
    /// ambiguous: backends differ in which of several values they use.
    pub fn key(
        &self,
        ex: &Exchange<'_>,
        mut parts: KeyBuilder,
        canonical: Option<&[u8]>,
    ) -> Result<Key, &'static str> {
        for item in &self.by {
            for source in item.sources() {
                let value = match source.sent(ex) {
                    KeyValue::Nothing => None,
                    KeyValue::One(value) => Some(value),
                    KeyValue::Unclear => return Err("unclear"),
                };
                // An absent value differs from an empty one.
                parts.part(
                    if value.is_some() { "by" } else { "by none of" },
                    source.to_string().as_bytes(),
                );
                parts.part("=", &value.unwrap_or_default());
                if source.needs_identity()
                    && let Some(issuer) = issuer(ex)
                {
                    // Two issuers may give the same name to two people.
                    parts.part("issuer", issuer.as_bytes());
                }
                if let (Source::User, Some(cas)) = (source, user_cas(ex)) {
                    parts.part("cas", &cas);
                }
            }
        }
        if let Some(written) = ex.written_target() {
            parts.part("moved", written);
        }
        // Another page is the same for all URLs that lead to it, and its query is the gateway's.
        let rerouted = ex.facts.rerouted.as_ref();
        let is_page = rerouted.is_some_and(|rerouted| rerouted.own_query.is_none());
        let target = if is_page {
            ex.head.raw_path()
        } else {
            ex.sent_target()
        };
        let (path, query) = match target.iter().position(|byte| *byte == b'?') {
            Some(at) => (&target[..at], Some(&target[at + 1..])),
            None => (target, None),
        };
        let query = match canonical.or(query) {
            query if is_page => query.map(Cow::Borrowed),
            query => self.query_of(query),
        };
        Ok(Key::new(
            ex.facts.client.scheme.as_str(),
            public_host(ex.head, &ex.facts.client),
            path,
            query.as_deref(),
            parts.as_bytes(),
        ))
    }
}

fn issuer<'e>(ex: &'e Exchange<'_>) -> Option<Cow<'e, str>> {
    let claims = ex.facts.identity.as_ref()?.claims.as_ref()?;
    claims.text("iss")
}

impl Query {
    /// Returns true if all parameters are part of the key.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// Returns true if a parameter is part of the key, by its decoded name.
    fn counts(&self, parameter: &[u8]) -> bool {
        let name = || query::name_of(parameter);
        match self {
            Self::All => true,
            Self::Without(names) => !names.contains(&name()),
            Self::Only(names) => names.contains(&name()),
        }
    }

    /// Returns the part of a query that belongs to the key; `None` if nothing is left.
    fn select<'q>(&self, query: &'q [u8]) -> Option<Cow<'q, [u8]>> {
        let counts = |parameter: &&[u8]| self.counts(parameter);
        let mut parameters = query.split(|byte| *byte == b'&');
        if parameters.all(|parameter| counts(&parameter)) {
            return Some(Cow::Borrowed(query));
        }
        let counted: Vec<&[u8]> = query.split(|byte| *byte == b'&').filter(counts).collect();
        (!counted.is_empty()).then(|| Cow::Owned(counted.join(&b'&')))
    }
}
