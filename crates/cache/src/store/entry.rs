//! A stored response: its headers and times, the settings of its route, and its body.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use edgeway_base::units::whole_nanos;
use http::{HeaderMap, HeaderName, StatusCode};

use super::{
    body::Body,
    headers::StoredHeaders,
    memory::MemoryLedger,
    purge_log::{LogMark, StoredMark},
    quota::Quota,
};
use crate::{
    allocation::allocated,
    base::encoding::Encoding,
    key::Key,
    policy::{CacheRules, Lifetime, Variance, Vary},
};

/// Settings of a route for all of its responses.
#[derive(Clone, Debug)]
pub struct RouteRules {
    pub name: Arc<str>,
    /// A longer body, in bytes, is passed on and not stored.
    pub max_object: u64,
    /// Memory quota of the route, if the route has one.
    pub quota: Option<Arc<Quota>>,
    /// True if the route stores responses that the origin forbids to store.
    pub keeps_private: bool,
    /// Rules that bound the lifetime of a response that another process or another configuration has
    /// stored.
    pub rules: Option<Box<CacheRules>>,
}

/// Settings for a response, beyond what the RFC says.
#[derive(Clone, Debug)]
pub struct EntryRules {
    pub route: Arc<RouteRules>,
    /// Tags of the response for purges by tag, without duplicates.
    pub tags: Box<[Box<str>]>,
    /// True if the response may be stored in compressed forms too.
    pub is_compressible: bool,
}

/// A response that is about to be stored.
#[derive(Clone, Debug)]
pub struct EntryDraft {
    pub key: Key,
    pub status: StatusCode,
    /// Headers to store: without hop-by-hop fields and fields that must not be stored.
    pub headers: HeaderMap,
    pub lifetime: Lifetime,
    pub vary: Vary,
    pub variance: Variance,
    pub about: EntryRules,
    /// Taken before the request to the origin.
    pub mark: LogMark,
}

/// New headers for a stored response, from a 304.
#[derive(Clone, Debug)]
pub struct Refresh {
    pub old: Arc<Entry>,
    /// Headers of the old entry with those of the 304 merged in.
    pub headers: HeaderMap,
    pub lifetime: Lifetime,
    pub vary: Vary,
    pub variance: Variance,
    pub mark: LogMark,
}

/// A stored response, or one that is being stored. An entry never changes except for its counters,
/// its compressed forms and the mark of a soft purge. A 304 makes a new entry with the same body.
///
/// A million of them are in memory, so the parts that most responses lack are in boxes, and times
/// are numbers: `tests::small_entries_stay_small` pins the size.
#[derive(Debug)]
pub struct Entry {
    pub body: Arc<Body>,
    headers: StoredHeaders,
    /// `Vary`, unless it is [`Vary::Nothing`].
    varies: Option<Box<(Vary, Variance)>>,
    rules: Arc<RouteRules>,
    lifetime: StoredLifetime,
    mark: StoredMark,
    /// Time of the soft purge in nanoseconds since 1970; 0 for none.
    stale_since: AtomicU64,
    /// Bytes of the entry in the account, without those of its body.
    charged: u32,
    pub status: StatusCode,
    flags: u8,
}

/// Bits of [`Entry::flags`].
const ALWAYS_VALIDATE: u8 = 1;
const MUST_REVALIDATE: u8 = 2;
const IS_COMPRESSIBLE: u8 = 4;

/// A [`Lifetime`] without its flags, in nanoseconds.
#[derive(Debug)]
struct StoredLifetime {
    /// Since 1970.
    response_time: u64,
    initial_age: u64,
    fresh_for: u64,
    stale_while_revalidate: u64,
    stale_if_error: u64,
}

impl StoredLifetime {
    fn new(lifetime: &Lifetime) -> Self {
        Self {
            response_time: since_epoch(lifetime.response_time),
            initial_age: whole_nanos(lifetime.initial_age),
            fresh_for: whole_nanos(lifetime.fresh_for),
            stale_while_revalidate: whole_nanos(lifetime.stale_while_revalidate),
            stale_if_error: whole_nanos(lifetime.stale_if_error),
        }
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    whole_nanos(since.unwrap_or_default())
}

impl Entry {
    pub(super) fn new(draft: &EntryDraft, ledger: &'static MemoryLedger) -> Self {
        let compressible = if draft.about.is_compressible {
            IS_COMPRESSIBLE
        } else {
            0
        };
        let body = Body::growing(draft.key.clone(), draft.about.tags.clone(), ledger);
        let variant = (&draft.vary, draft.variance);
        let (headers, rules) = (
            StoredHeaders::new(&draft.headers),
            Arc::clone(&draft.about.route),
        );
        let mut entry = Self::assemble(body, headers, rules, &draft.lifetime, variant, draft.mark);
        entry.status = draft.status;
        entry.flags |= compressible;
        entry
    }

    /// Returns an entry for the same response with other headers.
    pub(super) fn refreshed(&self, refresh: &Refresh) -> Self {
        let variant = (&refresh.vary, refresh.variance);
        let (body, rules) = (Arc::clone(&self.body), Arc::clone(&self.rules));
        let headers = StoredHeaders::new(&refresh.headers);
        let mut entry = Self::assemble(
            body,
            headers,
            rules,
            &refresh.lifetime,
            variant,
            refresh.mark,
        );
        entry.status = self.status;
        entry.flags |= self.flags & IS_COMPRESSIBLE;
        entry
    }

    fn assemble(
        body: Arc<Body>,
        headers: StoredHeaders,
        rules: Arc<RouteRules>,
        lifetime: &Lifetime,
        (vary, variance): (&Vary, Variance),
        mark: LogMark,
    ) -> Self {
        let mut flags = 0;
        if lifetime.always_validate {
            flags |= ALWAYS_VALIDATE;
        }
        if lifetime.must_revalidate {
            flags |= MUST_REVALIDATE;
        }
        let varies = *vary != Vary::Nothing || variance != Variance::default();
        let mut entry = Self {
            body,
            headers,
            varies: varies.then(|| Box::new((vary.clone(), variance))),
            rules,
            lifetime: StoredLifetime::new(lifetime),
            mark: mark.into(),
            stale_since: AtomicU64::new(0),
            charged: 0,
            status: StatusCode::OK,
            flags,
        };
        entry.charged = u32::try_from(entry.own_size()).unwrap_or(u32::MAX);
        let live = &entry.body.ledger.live;
        live.fetch_add(entry.charged.into(), Ordering::Relaxed);
        entry
    }

    pub fn key(&self) -> &Key {
        &self.body.key
    }

    /// Returns the headers to send, as a map of its own.
    pub fn headers(&self) -> HeaderMap {
        self.headers.to_map()
    }

    /// Returns the fields that select the response, and the hash of their values in its request.
    pub fn vary(&self) -> &Vary {
        self.varies.as_ref().map_or(&Vary::Nothing, |it| &it.0)
    }

    /// Returns the hash of the values that select the response.
    pub fn variance(&self) -> Variance {
        self.varies.as_ref().map_or(Variance::default(), |it| it.1)
    }

    /// Returns the tags for purges by tag, without duplicates.
    pub fn tags(&self) -> &[Box<str>] {
        &self.body.tags
    }

    /// Returns the name of the route that the response was stored for.
    pub fn route(&self) -> &str {
        &self.rules.name
    }

    /// Returns true if the response may be stored in compressed forms too.
    pub fn is_compressible(&self) -> bool {
        self.flags & IS_COMPRESSIBLE != 0
    }

    pub(super) fn rules(&self) -> &RouteRules {
        &self.rules
    }

    pub(super) fn quota(&self) -> Option<&Arc<Quota>> {
        self.rules.quota.as_ref()
    }

    pub(crate) fn mark(&self) -> LogMark {
        self.mark.get()
    }

    /// Returns the age and the freshness of the response, with a soft purge applied.
    pub fn lifetime(&self) -> Lifetime {
        let stored = &self.lifetime;
        let mut lifetime = Lifetime {
            response_time: self.response_time(),
            initial_age: Duration::from_nanos(stored.initial_age),
            fresh_for: Duration::from_nanos(stored.fresh_for),
            stale_while_revalidate: Duration::from_nanos(stored.stale_while_revalidate),
            stale_if_error: Duration::from_nanos(stored.stale_if_error),
            always_validate: self.flags & ALWAYS_VALIDATE != 0,
            must_revalidate: self.flags & MUST_REVALIDATE != 0,
        };
        if let Some(since) = self.stale_since() {
            // Freshness ends at the age that it had when it was purged, so the windows for serving
            // it stale start there.
            let passed = since
                .duration_since(lifetime.response_time)
                .unwrap_or_default();
            lifetime.fresh_for = lifetime.fresh_for.min(lifetime.initial_age + passed);
        }
        lifetime
    }

    /// Returns the time when the headers arrived.
    pub fn response_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.lifetime.response_time)
    }

    /// Returns the time of the soft purge.
    pub fn stale_since(&self) -> Option<SystemTime> {
        let nanos = self.stale_since.load(Ordering::Relaxed);
        (nanos != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos))
    }

    /// Marks the entry as stale. The first soft purge counts; returns `false` if there was one
    /// before.
    pub(super) fn make_stale(&self, now: SystemTime) -> bool {
        let nanos = since_epoch(now).max(1);
        self.stale_since
            .compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Returns the number of hits, over all refreshes.
    pub fn hits(&self) -> u32 {
        self.body.eviction.hits()
    }

    /// Returns how much the response is requested: its hits, and a share of the hits of responses
    /// that it has replaced, which shrinks with each replacement.
    pub fn popularity(&self) -> u32 {
        self.body.eviction.popularity()
    }

    /// Returns the body in this content coding, if it was made ([`super::Store::add_form`]).
    pub fn form(&self, encoding: Encoding) -> Option<Bytes> {
        self.body.eviction.form(encoding)
    }

    /// Returns the body as a file, if it was made ([`super::Store::add_file`]).
    pub fn file(&self) -> Option<Arc<OwnedFd>> {
        self.body.eviction.file()
    }

    /// Returns true if the body is complete.
    pub fn is_complete(&self) -> bool {
        self.body.whole().is_some()
    }

    /// Returns the bytes of headers and body in memory.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.charged) + self.body.size() as u64
    }

    fn own_size(&self) -> usize {
        let varies = self.varies.as_ref().map_or(0, |varies| {
            let fields = match &varies.0 {
                Vary::Nothing | Vary::Everything => 0,
                Vary::Fields(names) => allocated(names.len() * size_of::<HeaderName>() + 16),
            };
            allocated(size_of::<(Vary, Variance)>()) + fields
        });
        // The counts of references.
        allocated(size_of::<Self>() + 16) + self.headers.size() + varies + self.mark.size()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let live = &self.body.ledger.live;
        live.fetch_sub(self.charged.into(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the allocator: an entry and its body take one of 128 bytes each.
    #[test]
    fn small_entries_stay_small() {
        assert!(size_of::<Entry>() + 16 <= 128, "{}", size_of::<Entry>());
        assert!(size_of::<Body>() + 16 <= 128, "{}", size_of::<Body>());
    }

    #[test]
    fn a_lifetime_is_kept_to_the_nanosecond() {
        let lifetime = Lifetime {
            response_time: SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789),
            initial_age: Duration::new(3, 1),
            fresh_for: Duration::from_secs(1 << 31),
            stale_while_revalidate: Duration::from_millis(1),
            stale_if_error: Duration::ZERO,
            always_validate: true,
            must_revalidate: false,
        };
        let stored = StoredLifetime::new(&lifetime);
        assert_eq!(stored.response_time, 1_800_000_000_123_456_789);
        assert_eq!(
            Duration::from_nanos(stored.initial_age),
            lifetime.initial_age
        );
        assert_eq!(Duration::from_nanos(stored.fresh_for), lifetime.fresh_for);
        assert_eq!(whole_nanos(Duration::MAX), u64::MAX);
    }
}
