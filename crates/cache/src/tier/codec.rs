//! Encoding of an entry outside of memory.
//!
//! A version, a checksum of all that follows, the length of the metadata, the metadata (key,
//! status, headers, lifetime, tags), and the body as it is. A reader has to compare the key:
//! entries are found by a hash.
//!
//! Decoded data is checked against bounds, wherever it comes from: a checksum proves that bytes are
//! unchanged, but not who wrote them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::metrics::DiscardReason;
use crate::{
    base::units::whole_millis,
    key::Key,
    policy::{self, CacheRules, Lifetime, Variance, Vary},
    store::{Entry, EntryDraft, EntryRules, LogMark},
};

/// Version of this layout. Entries with another version are dropped.
pub(super) const VERSION: u8 = 2;
/// Version, checksum, length of the metadata.
const FIXED: usize = 9;

/// Maximum bytes of the metadata, key, headers and tags included.
pub(crate) const MAX_HEAD: usize = 1 << 20;
/// Maximum number of headers of a response, four times the limit for an origin over HTTP/1.
const MAX_HEADERS: usize = 1024;
const MAX_TAGS: usize = 1024;
const MAX_VARY: usize = 64;
/// Maximum lifetime: the value that `policy` makes of the largest number.
const MAX_SPAN: Duration = Duration::from_secs(1 << 31);

/// A decoded entry.
#[derive(Clone, Debug)]
pub(crate) struct Decoded {
    pub(crate) key: Key,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) lifetime: Lifetime,
    pub(crate) vary: Vary,
    pub(crate) variance: Variance,
    pub(crate) tags: Box<[Box<str>]>,
    pub(crate) is_compressible: bool,
    pub(crate) body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct EntryHeader {
    key: Vec<u8>,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970.
    response_time: u64,
    initial_age: u64,
    fresh_for: u64,
    stale_while_revalidate: u64,
    stale_if_error: u64,
    always_validate: bool,
    must_revalidate: bool,
    /// Empty for `Vary::Nothing`.
    vary: Vec<String>,
    variance: u128,
    tags: Vec<String>,
    is_compressible: bool,
}

/// Encodes an entry. Returns `None` if the body is incomplete or the response has `Vary: *`.
pub(crate) fn encode(entry: &Entry) -> Option<Vec<u8>> {
    let body = entry.body.whole()?;
    let lifetime = entry.lifetime();
    let names = entry.vary().names()?;
    let headers = entry.headers();
    let counts = [headers.len(), names.len(), entry.tags().len()];
    if !are_within_bounds(counts) {
        return None;
    }
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), value.as_bytes().to_vec())
    };
    let head = EntryHeader {
        key: entry.key().as_bytes().to_vec(),
        status: entry.status.as_u16(),
        headers: headers.iter().map(header).collect(),
        response_time: since_epoch(lifetime.response_time),
        initial_age: whole_millis(lifetime.initial_age),
        fresh_for: whole_millis(lifetime.fresh_for),
        stale_while_revalidate: whole_millis(lifetime.stale_while_revalidate),
        stale_if_error: whole_millis(lifetime.stale_if_error),
        always_validate: lifetime.always_validate,
        must_revalidate: lifetime.must_revalidate,
        vary: names,
        variance: entry.variance().0,
        tags: entry.tags().iter().map(ToString::to_string).collect(),
        is_compressible: entry.is_compressible(),
    };
    let head = postcard::to_allocvec(&head).ok()?;
    if head.len() > MAX_HEAD {
        return None;
    }
    let body_len = usize::try_from(body.len()).ok()?;
    let mut bytes = Vec::with_capacity(FIXED + head.len() + body_len);
    bytes.push(VERSION);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::try_from(head.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&head);
    for segment in body.segments() {
        bytes.extend_from_slice(segment);
    }
    let checksum = crc32fast::hash(&bytes[5..]);
    bytes[1..5].copy_from_slice(&checksum.to_be_bytes());
    Some(bytes)
}

/// Decodes an entry. `expected` is the key of the lookup, if it is known.
pub(crate) fn decode(mut bytes: Bytes, expected: Option<&Key>) -> Result<Decoded, DiscardReason> {
    if bytes.len() < FIXED {
        return Err(DiscardReason::Damaged);
    }
    if bytes.get_u8() != VERSION {
        return Err(DiscardReason::Version);
    }
    if bytes.get_u32() != crc32fast::hash(&bytes) {
        return Err(DiscardReason::Damaged);
    }
    let head_len = bytes.get_u32() as usize;
    if bytes.len() < head_len {
        return Err(DiscardReason::Damaged);
    }
    if head_len > MAX_HEAD {
        return Err(DiscardReason::Bounds);
    }
    let head = bytes.split_to(head_len);
    let head: EntryHeader = postcard::from_bytes(&head).map_err(|_| DiscardReason::Damaged)?;
    if expected.is_some_and(|expected| expected.as_bytes() != head.key) {
        return Err(DiscardReason::Key);
    }
    if !head.is_within_bounds() {
        return Err(DiscardReason::Bounds);
    }
    head.decoded(bytes).ok_or(DiscardReason::Damaged)
}

/// Checks the numbers of headers, of names in `Vary` and of tags.
fn are_within_bounds([headers, vary, tags]: [usize; 3]) -> bool {
    headers <= MAX_HEADERS && vary <= MAX_VARY && tags <= MAX_TAGS
}

impl EntryHeader {
    fn is_within_bounds(&self) -> bool {
        let spans = [
            self.initial_age,
            self.fresh_for,
            self.stale_while_revalidate,
            self.stale_if_error,
        ];
        are_within_bounds([self.headers.len(), self.vary.len(), self.tags.len()])
            && spans.iter().all(|span| *span <= whole_millis(MAX_SPAN))
    }

    fn decoded(self, body: Bytes) -> Option<Decoded> {
        let mut headers = HeaderMap::try_with_capacity(self.headers.len()).ok()?;
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers
                .try_append(name, HeaderValue::from_bytes(value).ok()?)
                .ok()?;
        }
        let millis = Duration::from_millis;
        Some(Decoded {
            key: Key::parse(&self.key)?,
            status: StatusCode::from_u16(self.status).ok()?,
            headers,
            lifetime: Lifetime {
                response_time: SystemTime::UNIX_EPOCH.checked_add(millis(self.response_time))?,
                initial_age: millis(self.initial_age),
                fresh_for: millis(self.fresh_for),
                stale_while_revalidate: millis(self.stale_while_revalidate),
                stale_if_error: millis(self.stale_if_error),
                always_validate: self.always_validate,
                must_revalidate: self.must_revalidate,
            },
            vary: Vary::from_names(self.vary.iter().map(String::as_str))?,
            variance: Variance(self.variance),
            tags: self.tags.into_iter().map(String::into_boxed_str).collect(),
            is_compressible: self.is_compressible,
            body,
        })
    }
}

impl Decoded {
    /// Returns true if a cache that received this response from its origin would store it: a check
    /// for entries that another gateway decided to store. `keeps_private`: the route stores what
    /// its origin forbids to store.
    pub(crate) fn may_be_stored(&self, keeps_private: bool) -> bool {
        let mut lengths = self.headers.get_all(header::CONTENT_LENGTH).iter();
        let is_complete = match (lengths.next(), lengths.next()) {
            (None, _) => true,
            (Some(one), None) => one.as_bytes() == self.body.len().to_string().as_bytes(),
            (Some(_), Some(_)) => false,
        };
        is_complete && policy::may_be_stored(self.status, &self.headers, keeps_private)
    }

    /// Returns the lifetime, at most as long as the rules allow. What they would not store is used no
    /// more without validation.
    fn allowed(&self, rules: Option<&CacheRules>) -> Lifetime {
        let before = self.lifetime.clone();
        let Some(rules) = rules else {
            return before;
        };
        let Some(now) = policy::again(self.status, &self.headers, &before, rules) else {
            return before.at_most(Duration::ZERO);
        };
        let while_revalidating = now.stale_while_revalidate;
        Lifetime {
            fresh_for: before.fresh_for.min(now.fresh_for),
            stale_while_revalidate: before.stale_while_revalidate.min(while_revalidating),
            stale_if_error: before.stale_if_error.min(now.stale_if_error),
            ..before
        }
    }

    /// Converts the entry for the store, with the current settings of the route rather than those
    /// it was stored with.
    pub(crate) fn draft(self, here: &EntryRules, mark: LogMark) -> (EntryDraft, Bytes) {
        let draft = EntryDraft {
            lifetime: self.allowed(here.route.rules.as_deref()),
            key: self.key,
            status: self.status,
            headers: self.headers,
            vary: self.vary,
            variance: self.variance,
            about: EntryRules {
                route: Arc::clone(&here.route),
                tags: self.tags,
                // Compressible only if the headers were prepared for that, and if the route
                // compresses here.
                is_compressible: self.is_compressible && here.is_compressible,
            },
            mark,
        };
        (draft, self.body)
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    whole_millis(since.unwrap_or_default())
}
