//! A stored response: its headers, the settings of its route, and its body.

use std::{
    mem::size_of,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::RwLock;

use super::{
    body::Body,
    memory::{MemoryCharge, MemoryLedger, allocated},
    purge_log::LogMark,
    quota::Quota,
};
use crate::{
    base::encoding::Encoding,
    key::Key,
    policy::{Lifetime, Variance, Vary},
};

/// Settings of a route for a response, beyond what the RFC says.
#[derive(Clone, Debug)]
pub struct EntryRules {
    pub route: Arc<str>,
    /// Tags of the response for purges by tag, without duplicates.
    pub tags: Box<[Box<str>]>,
    /// A longer body, in bytes, is passed on and not stored.
    pub max_object: u64,
    /// True if the response may be stored in compressed forms too.
    pub is_compressible: bool,
    /// Memory quota of the route, if the route has one.
    pub quota: Option<Arc<Quota>>,
    /// True if the route stores responses that the origin forbids to store.
    pub keeps_private: bool,
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
#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub vary: Vary,
    pub variance: Variance,
    pub about: EntryRules,
    pub body: Arc<Body>,
    pub(crate) mark: LogMark,
    lifetime: Lifetime,
    /// Time of the soft purge in nanoseconds since 1970; 0 for none.
    stale_since: AtomicU64,
    pub(super) seat: Arc<EvictionState>,
    charge: MemoryCharge,
}

/// State of an entry for eviction. It outlives a refresh.
#[derive(Debug)]
pub(super) struct EvictionState {
    pub(super) id: u64,
    /// [`Key::hash`].
    pub(super) hash: u128,
    /// Hits since eviction last looked at the entry, at most [`EvictionState::MAX_FREQUENCY`].
    pub(super) frequency: AtomicU8,
    /// Nonzero if a compressed form was used since eviction last looked at the entry.
    form_used: AtomicU8,
    hits: AtomicU32,
    /// Position in the eviction queues; guarded by their lock.
    pub(super) node: AtomicU32,
    /// Bytes of headers, body and compressed forms.
    pub(super) bytes: AtomicU64,
    forms: RwLock<Option<Box<EncodedForms>>>,
    pub(super) quota: Option<Arc<Quota>>,
}

#[derive(Debug, Default)]
struct EncodedForms([Option<EncodedForm>; Encoding::ALL.len()]);

#[derive(Debug)]
struct EncodedForm {
    bytes: Bytes,
    charge: MemoryCharge,
}

fn place(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Zstd => 0,
        Encoding::Br => 1,
        Encoding::Gzip => 2,
    }
}

impl EvictionState {
    pub(super) const MAX_FREQUENCY: u8 = 3;

    /// Value of `node` for a seat that is in no queue.
    pub(super) const NOWHERE: u32 = u32::MAX;

    fn new(id: u64, key: &Key, quota: Option<Arc<Quota>>) -> Self {
        Self {
            id,
            hash: key.hash(),
            frequency: AtomicU8::new(0),
            form_used: AtomicU8::new(0),
            hits: AtomicU32::new(0),
            node: AtomicU32::new(Self::NOWHERE),
            bytes: AtomicU64::new(0),
            forms: RwLock::new(None),
            quota,
        }
    }

    /// Counts a hit. Mostly this writes no more than one counter of the entry.
    pub(super) fn touch(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        let frequency = self.frequency.load(Ordering::Relaxed);
        if frequency < Self::MAX_FREQUENCY {
            self.frequency.store(frequency + 1, Ordering::Relaxed);
        }
    }

    fn form(&self, encoding: Encoding) -> Option<Bytes> {
        let forms = self.forms.read();
        let form = forms.as_ref()?.0[place(encoding)].as_ref()?;
        if self.form_used.load(Ordering::Relaxed) == 0 {
            self.form_used.store(1, Ordering::Relaxed);
        }
        Some(form.bytes.clone())
    }

    /// Adds a compressed form. Returns `None` if the entry has it already, else true if it is the
    /// first form.
    pub(super) fn set_form(
        &self,
        ledger: &'static MemoryLedger,
        encoding: Encoding,
        bytes: &Bytes,
    ) -> Option<bool> {
        let mut forms = self.forms.write();
        let first = forms.is_none();
        let slot = &mut forms.get_or_insert_default().0[place(encoding)];
        if slot.is_some() {
            return None;
        }
        // A slice would keep the larger buffer that it is part of.
        let bytes = Bytes::copy_from_slice(bytes);
        let size = allocated(bytes.len()) + 32 + if first { size_of::<EncodedForms>() } else { 0 };
        let charge = MemoryCharge::new(ledger, size as u64);
        *slot = Some(EncodedForm { bytes, charge });
        Some(first)
    }

    pub(super) fn drop_forms(&self) {
        let forms = self.forms.write().take();
        drop(forms);
    }

    /// Returns the bytes of all forms.
    pub(super) fn forms_size(&self) -> u64 {
        let forms = self.forms.read();
        let forms = forms.iter().flat_map(|forms| forms.0.iter().flatten());
        forms.map(|form| form.charge.bytes()).sum()
    }

    /// Returns true if a form was used since the last call.
    pub(super) fn take_form_used(&self) -> bool {
        self.form_used.swap(0, Ordering::Relaxed) != 0
    }
}

impl Entry {
    pub(super) fn new(draft: &EntryDraft, id: u64, ledger: &'static MemoryLedger) -> Self {
        let quota = draft.about.quota.clone();
        let mut entry = Self {
            key: draft.key.clone(),
            status: draft.status,
            headers: own_headers(&draft.headers),
            vary: draft.vary.clone(),
            variance: draft.variance,
            about: draft.about.clone(),
            body: Arc::new(Body::growing()),
            mark: draft.mark,
            lifetime: draft.lifetime.clone(),
            stale_since: AtomicU64::new(0),
            seat: Arc::new(EvictionState::new(id, &draft.key, quota)),
            charge: MemoryCharge::new(ledger, 0),
        };
        let once = Body::SIZE + allocated(size_of::<EvictionState>() + 16);
        let size = entry.own_size() + once;
        entry.charge.set(size as u64);
        entry
    }

    /// Returns an entry for the same response with other headers.
    pub(super) fn refreshed(&self, refresh: &Refresh, ledger: &'static MemoryLedger) -> Self {
        let mut entry = Self {
            key: self.key.clone(),
            status: self.status,
            headers: own_headers(&refresh.headers),
            vary: refresh.vary.clone(),
            variance: refresh.variance,
            about: self.about.clone(),
            body: Arc::clone(&self.body),
            mark: refresh.mark,
            lifetime: refresh.lifetime.clone(),
            stale_since: AtomicU64::new(0),
            seat: Arc::clone(&self.seat),
            charge: MemoryCharge::new(ledger, 0),
        };
        let shared = self.charge.bytes() - self.own_size() as u64;
        entry.charge.set(entry.own_size() as u64 + shared);
        entry
    }

    /// Returns the age and the freshness of the response, with a soft purge applied.
    pub fn lifetime(&self) -> Lifetime {
        let mut lifetime = self.lifetime.clone();
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
        self.lifetime.response_time
    }

    /// Returns the time of the soft purge.
    pub fn stale_since(&self) -> Option<SystemTime> {
        let nanos = self.stale_since.load(Ordering::Relaxed);
        (nanos != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos))
    }

    /// Marks the entry as stale. The first soft purge counts; returns `false` if there was one
    /// before.
    pub(super) fn make_stale(&self, now: SystemTime) -> bool {
        let nanos = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let nanos = u64::try_from(nanos.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.stale_since
            .compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Returns the number of hits, over all refreshes.
    pub fn hits(&self) -> u32 {
        self.seat.hits.load(Ordering::Relaxed)
    }

    /// Returns the body in this content coding, if it was made ([`super::Store::add_form`]).
    pub fn form(&self, encoding: Encoding) -> Option<Bytes> {
        self.seat.form(encoding)
    }

    /// Returns true if the body is complete.
    pub fn is_complete(&self) -> bool {
        self.body.whole().is_some()
    }

    /// Returns the bytes of headers and body in memory.
    pub(super) fn size(&self) -> u64 {
        let body = self.body.whole().map_or(0, super::body::WholeBody::size);
        self.charge.bytes() + body
    }

    fn own_size(&self) -> usize {
        let tags = self.about.tags.iter().map(|tag| allocated(tag.len()));
        let vary = match &self.vary {
            Vary::Nothing | Vary::Everything => 0,
            Vary::Fields(names) => allocated(names.len() * size_of::<HeaderName>() + 16),
        };
        allocated(size_of::<Self>() + 16)
            + allocated(self.key.size() - KEY_INNER)
            + allocated(KEY_INNER + 16)
            + tags.sum::<usize>()
            + allocated(self.about.tags.len() * size_of::<Box<str>>())
            + vary
            + headers_size(&self.headers)
    }
}

/// Bytes that [`Key::size`] counts in addition to the text.
const KEY_INNER: usize = 48;

/// Copies the values into one allocation. As they come from the network, each would keep the whole
/// buffer that the header section was read into.
fn own_headers(headers: &HeaderMap) -> HeaderMap {
    let len = headers.values().map(HeaderValue::len).sum();
    let mut buffer = BytesMut::with_capacity(len);
    for value in headers.values() {
        buffer.extend_from_slice(value.as_bytes());
    }
    let mut rest = buffer.freeze();
    let mut own = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let bytes = rest.split_to(value.len());
        let mut copy = HeaderValue::from_maybe_shared(bytes).expect("it was a value before");
        copy.set_sensitive(value.is_sensitive());
        own.append(name, copy);
    }
    // A copy has room for what it holds, and this one for up to twice as much.
    own.clone()
}

/// Returns the bytes of a map made by [`own_headers`]: a table of positions, a list of names and
/// values, the values, and the names that `http` does not know.
fn headers_size(headers: &HeaderMap) -> usize {
    // A hash, the links to further values of the name, the name and the value.
    const ENTRY: usize = 24 + size_of::<HeaderName>() + size_of::<HeaderValue>();
    // A further value of a name, and its links.
    const FURTHER: usize = 40 + size_of::<HeaderValue>();
    let values: usize = headers.values().map(HeaderValue::len).sum();
    let names = headers.keys().map(|name| allocated(name.as_str().len()));
    let capacity = headers.capacity();
    allocated(headers.keys_len() * ENTRY)
        + allocated((headers.len() - headers.keys_len()) * FURTHER)
        + allocated((capacity + capacity / 3).next_power_of_two() * 4)
        + allocated(values)
        + 48
        + names.sum::<usize>()
}
