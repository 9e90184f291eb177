//! Compiled cache settings of one route: which requests bypass the cache, how keys are built, and
//! the lifetimes beside those of the origin.

mod client_directives;
mod key;
mod tags;
#[cfg(test)]
mod tests;
mod uses;

use std::time::Duration;

use http::{HeaderMap, header};

pub use self::{
    client_directives::ClientDirectives,
    key::{KeyRules, Query},
    tags::{TAGS, TagProblem, TagTemplate, tags_of},
    uses::{MinUses, UseCounts},
};
use super::{
    name_set::NameSet,
    nextjs::PageCache,
    policy::{self, CacheRules},
    store::Entry,
};
use crate::{
    base::query,
    chain::{Certificate, Exchange},
    limits::key::{KeyItem, Source},
};

/// Rules that apply beside RFC 9111.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The rules of the upstream's `app`.
    #[default]
    App,
    /// No further rules.
    Strict,
}

/// Stored responses of which a `Range` gets a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ranges {
    #[default]
    Any,
    /// Only responses whose origin announces ranges (`Accept-Ranges`).
    Announced,
}

/// Cookie with the time at which a client has changed data by a server action, in milliseconds since
/// 1970.
pub const CHANGED_COOKIE: &str = "edgeway-changed";

/// The cache settings of one route.
#[derive(Debug)]
pub struct RouteCachePolicy {
    pub mode: Mode,
    pub pages: PageCache,
    /// Rules for upstreams without a specific `app`.
    pub plain: CacheRules,
    /// Rules for `app: nextjs`.
    pub nextjs: CacheRules,
    pub key: KeyRules,
    /// Parts of a request that bypass the cache when present.
    pub bypass: Box<[KeyItem]>,
    /// Cookies that do not identify a client.
    pub anonymous: NameSet,
    pub max_object: u64,
    pub tags: Box<[TagTemplate]>,
    pub purge_on_write: bool,
    /// `max-age` for browsers, in place of the origin's.
    pub browser_ttl: Option<Duration>,
    /// Limit for clients whose `Cache-Control` may send requests to the origin past a fresh
    /// response.
    pub client_directives: Option<ClientDirectives>,
    /// The same for clients whose server action has changed something since then.
    pub after_changes: ClientDirectives,
    /// Time that a request waits for another request's response before it goes to the origin
    /// itself.
    pub wait: Duration,
    /// Bytes of the store that responses of this route may use.
    pub quota: Option<u64>,
    /// True to ask the origin for the whole response where a `HEAD` or a range finds nothing stored.
    pub fetches_whole: bool,
    pub ranges: Ranges,
    /// True to keep stored responses when a write of the same URL succeeds.
    pub keeps_on_write: bool,
    /// Requests until a response is stored; with the first if absent.
    pub min_uses: Option<MinUses>,
}

/// Ways in which a request may be personal to a shared cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is personal")]
pub struct PersonalHeaders {
    /// The request has cookies that are not known to be anonymous.
    pub has_cookies: bool,
    /// The request has `Authorization`, or its client has proven its identity in another way.
    pub has_identity: bool,
    /// The request came with a client certificate.
    pub has_certificate: bool,
    /// The key identifies this client: its responses reach no other client.
    pub is_named: bool,
    /// The gateway writes what only this client's own request has.
    pub is_written: bool,
}

impl PersonalHeaders {
    /// Returns true if the headers allow this request to use a response stored for other clients.
    pub fn may_read(self, stored: &Entry) -> bool {
        if !self.has_identity && !self.has_certificate {
            return true;
        }
        let headers = stored.headers();
        (!self.has_identity || policy::allows_authorization(&headers))
            && (!self.has_certificate || policy::is_for_everybody(&headers))
    }

    /// Returns true if only the client's own request is the same to the origin: filters know who sent
    /// it, which do not run for requests in the background, or the gateway writes parts of it.
    pub fn is_known(self) -> bool {
        self.is_named || self.has_identity || self.has_certificate || self.is_written
    }

    /// Returns true if a response to this request may be personal and yet be found by other
    /// clients.
    pub fn is_shared_by_mistake(self) -> bool {
        !self.is_named && (self.has_cookies || self.has_identity || self.has_certificate)
    }
}

impl RouteCachePolicy {
    /// Returns the rules besides the origin's headers, for a Next.js app or for others.
    pub fn rules(&self, is_nextjs: bool) -> &CacheRules {
        if is_nextjs { &self.nextjs } else { &self.plain }
    }

    /// Returns the part of the request that makes it bypass the cache, if there is one.
    pub fn bypass(&self, ex: &Exchange<'_>) -> Option<&KeyItem> {
        let has = |item: &&KeyItem| item.sources().iter().all(|s| s.sent(ex).is_there());
        self.bypass.iter().find(has)
    }

    /// Returns true if responses are stored that the origin forbids to store.
    pub fn keeps_private(&self) -> bool {
        self.plain.force || self.plain.ignored.cache_control
    }

    /// Returns true if cookies of some names change the key of a request or make it bypass the
    /// cache.
    pub fn goes_by_cookies(&self) -> bool {
        let bypass = self.bypass.iter().flat_map(KeyItem::sources);
        let mut all = self.key.sources().chain(bypass);
        all.any(|source| matches!(source, Source::Cookie(_)))
    }

    /// Returns in which ways a response to this request may be personal.
    pub fn personal(&self, ex: &Exchange<'_>) -> PersonalHeaders {
        let headers = &ex.head.headers;
        if self.key.names(ex) {
            return PersonalHeaders {
                is_named: true,
                ..PersonalHeaders::default()
            };
        }
        PersonalHeaders {
            has_cookies: self.has_cookies(headers),
            has_identity: headers.contains_key(header::AUTHORIZATION)
                || ex.facts.identity.is_some(),
            has_certificate: matches!(ex.facts.client.certificate, Certificate::Verified(_)),
            ..PersonalHeaders::default()
        }
    }

    fn has_cookies(&self, headers: &HeaderMap) -> bool {
        if self.anonymous.is_all() || !headers.contains_key(header::COOKIE) {
            return false;
        }
        if !query::are_cookies_clear(headers) {
            // The app may read other cookies than these.
            return true;
        }
        let is_known = |name: &[u8]| {
            self.anonymous.contains(name)
                || self
                    .key
                    .sources()
                    .any(|source| matches!(source, Source::Cookie(key) if key.as_bytes() == name))
        };
        !query::cookie_names(headers).all(is_known)
    }
}
