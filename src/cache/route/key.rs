//! From a request to the key of its answer.

use std::borrow::Cow;

use crate::{
    cache::{key::Key, names::Names},
    chain::{Exchange, KeyBuilder, host::public_host},
    limits::key::{KeyItem, Source},
};

/// What a route's answers are found by, beside scheme, host and path.
#[derive(Debug, Default)]
pub struct KeyRules {
    pub query: Query,
    /// Parts of the request that answers differ by.
    pub by: Box<[KeyItem]>,
}

/// Which parameters of the query count. Those that do stay as sent and in their order.
#[derive(Debug, Default)]
pub enum Query {
    #[default]
    All,
    Without(Names),
    Only(Names),
}

impl KeyRules {
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.by.iter().flat_map(KeyItem::sources)
    }

    /// Whether the key names this one client: by what it has proven to be, and not by what
    /// many are, such as its role.
    pub fn names(&self, ex: &Exchange<'_>) -> bool {
        let is_one = |source: &Source| match source {
            Source::Claim(claim) => claim == "sub",
            Source::User | Source::ApiKey => true,
            _ => false,
        };
        let mut naming = self.sources().filter(|source| is_one(source));
        naming.any(|source| source.value(ex).is_some())
    }

    /// What counts of a query (without its `?`).
    pub fn query_of<'q>(&self, query: Option<&'q [u8]>) -> Option<Cow<'q, [u8]>> {
        query.and_then(|query| self.query.of(query))
    }

    /// The key of the request's answer; `parts` holds what filters and the app add.
    pub fn key(&self, ex: &Exchange<'_>, mut parts: KeyBuilder) -> Key {
        for item in &self.by {
            for source in item.sources() {
                let value = source.value(ex);
                // What is absent differs from what is empty.
                parts.part(
                    if value.is_some() { "by" } else { "by none of" },
                    source.to_string().as_bytes(),
                );
                parts.part("=", &value.unwrap_or_default());
            }
        }
        let target = ex.head.raw_path();
        let (path, query) = match target.iter().position(|byte| *byte == b'?') {
            Some(at) => (&target[..at], Some(&target[at + 1..])),
            None => (target, None),
        };
        let query = self.query_of(query);
        let host = public_host(ex.head, &ex.facts.client);
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        Key::new(
            ex.facts.client.scheme.as_str(),
            &host,
            path,
            query.as_deref(),
            parts.as_bytes(),
        )
    }
}

impl Query {
    /// What counts of a query; `None` if nothing is left of it.
    fn of<'q>(&self, query: &'q [u8]) -> Option<Cow<'q, [u8]>> {
        let counts = |parameter: &&[u8]| {
            let name = parameter.split(|byte| *byte == b'=').next();
            let name = name.unwrap_or_default();
            match self {
                Self::All => true,
                Self::Without(names) => !names.contains(name),
                Self::Only(names) => names.contains(name),
            }
        };
        let mut parameters = query.split(|byte| *byte == b'&');
        if parameters.all(|parameter| counts(&parameter)) {
            return Some(Cow::Borrowed(query));
        }
        let kept: Vec<&[u8]> = query.split(|byte| *byte == b'&').filter(counts).collect();
        (!kept.is_empty()).then(|| Cow::Owned(kept.join(&b'&')))
    }
}
