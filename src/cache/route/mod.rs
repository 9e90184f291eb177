//! What one route says of its cache, compiled: whose requests go past it, by which key
//! answers are found, and how long they last beside what the origin says.

mod client_directives;
mod key;
mod tags;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::{HeaderMap, header};

pub use self::{
    client_directives::ClientDirectives,
    key::{KeyRules, Query},
    tags::{SURROGATE_CONTROL, TAGS, TagProblem, TagTemplate, tags_of},
};
use super::{
    names::Names,
    nextjs::PageCache,
    policy::{self, Rules},
};
use crate::{
    base::query,
    chain::{Certificate, Exchange},
    limits::key::{KeyItem, Source},
};

/// Which rules hold beside RFC 9111.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those of the upstream's `app`.
    #[default]
    App,
    /// None.
    Strict,
}

/// One route's cache.
#[derive(Debug)]
pub struct Policy {
    pub mode: Mode,
    pub pages: PageCache,
    /// For apps of no kind in particular.
    pub plain: Rules,
    /// For `app: nextjs`.
    pub nextjs: Rules,
    pub key: KeyRules,
    /// A request that has any of these goes past the cache.
    pub bypass: Box<[KeyItem]>,
    /// Cookies that say nothing of who asks.
    pub anonymous: Names,
    pub max_object: u64,
    pub tags: Box<[TagTemplate]>,
    pub purge_on_write: bool,
    /// What browsers are told instead of the origin's `max-age`.
    pub browser_ttl: Option<Duration>,
    /// Clients may have their requests sent to the origin past what is fresh.
    pub client_directives: Option<ClientDirectives>,
    /// For how long a request waits for another one's answer before it asks the origin itself.
    pub wait: Duration,
    /// Bytes that answers of this route may take up of the store.
    pub quota: Option<u64>,
}

/// Who asks, as far as a shared cache must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a way to be somebody"
)]
pub struct Personal {
    /// It has cookies that are not known to say nothing.
    pub has_cookies: bool,
    /// It has `Authorization`, or has proven who it is in another way.
    pub has_identity: bool,
    /// It came with a certificate of its own.
    pub has_certificate: bool,
    /// The key names this client: its answer reaches nobody else.
    pub is_named: bool,
}

impl Personal {
    /// Whether what is stored for others is for this request too, as far as `headers` of the
    /// stored response say.
    pub fn may_read(self, headers: &HeaderMap) -> bool {
        (!self.has_identity || policy::allows_authorization(headers))
            && (!self.has_certificate || policy::is_for_everybody(headers))
    }

    /// An answer to this request may be meant for its client alone, and others may find it.
    pub fn is_shared_by_mistake(self) -> bool {
        !self.is_named && (self.has_cookies || self.has_identity || self.has_certificate)
    }
}

impl Policy {
    /// The part of the request that sends it past the cache, if one does.
    pub fn bypass(&self, ex: &Exchange<'_>) -> Option<&KeyItem> {
        let has = |item: &&KeyItem| item.sources().iter().all(|s| s.sent(ex).is_there());
        self.bypass.iter().find(has)
    }

    /// Tells that cookies of some names decide where a response is looked for, or whether.
    pub fn goes_by_cookies(&self) -> bool {
        let bypass = self.bypass.iter().flat_map(KeyItem::sources);
        let mut all = self.key.sources().chain(bypass);
        all.any(|source| matches!(source, Source::Cookie(_)))
    }

    /// Whom an answer to this request may be meant for.
    pub fn personal(&self, ex: &Exchange<'_>) -> Personal {
        let headers = &ex.head.headers;
        if self.key.names(ex) {
            return Personal {
                is_named: true,
                ..Personal::default()
            };
        }
        Personal {
            has_cookies: self.has_cookies(headers),
            has_identity: headers.contains_key(header::AUTHORIZATION)
                || ex.facts.identity.is_some(),
            has_certificate: matches!(ex.facts.client.certificate, Certificate::Verified(_)),
            is_named: false,
        }
    }

    fn has_cookies(&self, headers: &HeaderMap) -> bool {
        if self.anonymous.is_all() || !headers.contains_key(header::COOKIE) {
            return false;
        }
        if !query::are_cookies_clear(headers) {
            // The app behind may read others than these.
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
