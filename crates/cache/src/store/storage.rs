//! Adapter of the store to Pingora's cache phases.
//!
//! Pingora's own variance, metadata formats and eviction are not used: a lookup carries the request
//! headers ([`RequestedLookup`]) and gets the selected variant, a miss carries the [`EntryDraft`], a revalidation
//! the [`Refresh`].

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::{Error, ErrorType, OkOrErr, OrErr, Result, http::ResponseHeader};
use pingora_cache::{
    CacheKey, CacheMeta, HitHandler, MissHandler, Storage,
    key::{CacheHashKey, CompactCacheKey},
    storage::{HandleHit, HandleMiss, MissFinishType, PurgeOutcome, PurgeTarget, PurgeType},
    trace::SpanHandle,
};

use super::{Client, Entry, EntryDraft, Fill, Reader, Refresh, Store};
use crate::{
    key::Key,
    policy::{SentHeaders, UnchangedHeaders},
    purge::PurgeEffect,
};

/// The lookup of a request, in the extensions of its [`CacheKey`].
#[derive(Clone, Debug)]
pub struct RequestedLookup {
    pub key: Key,
    /// Headers that select the variant.
    pub headers: Arc<HeaderMap>,
    /// Headers that keep the client's value; `None` if `headers` are those sent to the origin.
    pub unchanged: Option<Arc<UnchangedHeaders>>,
}

impl RequestedLookup {
    /// Returns the headers that select the variant.
    pub fn sent(&self) -> SentHeaders<'_> {
        match &self.unchanged {
            Some(unchanged) => SentHeaders::of_client(&self.headers, unchanged),
            None => SentHeaders::whole(&self.headers),
        }
    }

    /// Returns the key for Pingora: its locks and its purges of one key use [`Key::hash`].
    pub fn into_cache_key(self) -> CacheKey {
        let mut key = CacheKey::new(self.key.as_bytes(), String::new());
        key.set_primary_bin_override(self.key.hash().to_be_bytes());
        key.extensions.insert(self);
        key
    }
}

impl Entry {
    /// Returns the headers and times in Pingora's form. Nothing is encoded.
    pub fn meta(self: &Arc<Self>) -> Result<CacheMeta> {
        let headers = self.headers();
        let mut header = ResponseHeader::build(self.status, Some(headers.len()))?;
        for (name, value) in &headers {
            header.append_header(name.clone(), value)?;
        }
        let lifetime = self.lifetime();
        // Time at which its age was zero: the freshness lifetime starts there.
        let born = lifetime.response_time.checked_sub(lifetime.initial_age);
        let born = born.unwrap_or(SystemTime::UNIX_EPOCH);
        let fresh_for = if lifetime.always_validate {
            lifetime.fresh_for.min(lifetime.initial_age)
        } else {
            lifetime.fresh_for
        };
        // Pingora takes the last instant for fresh, RFC 9111, 4.2 does not.
        let fresh_until = born
            .checked_add(fresh_for)
            .unwrap_or(lifetime.response_time + Duration::from_hours(24 * 365))
            - Duration::from_nanos(1);
        let seconds = |window: Duration| u32::try_from(window.as_secs()).unwrap_or(u32::MAX);
        let mut meta = CacheMeta::new(
            fresh_until,
            lifetime.response_time,
            seconds(lifetime.stale_while_revalidate),
            seconds(lifetime.stale_if_error),
            header,
        );
        meta.set_epoch_override(born);
        meta.extensions_mut().insert(Arc::clone(self));
        Ok(meta)
    }
}

#[async_trait]
impl Storage for Store {
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _trace: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(wanted) = key.extensions.get::<RequestedLookup>() else {
            return Ok(None);
        };
        let Some(entry) = self.find(&wanted.key, wanted.sent()).entry else {
            return Ok(None);
        };
        let Some(reader) = entry.body.reader() else {
            return Ok(None);
        };
        Ok(Some((entry.meta()?, Box::new(Hit::new(reader)))))
    }

    /// Returns the reader of the request that writes.
    async fn lookup_streaming_write(
        &'static self,
        _key: &CacheKey,
        tag: Option<&[u8]>,
        _trace: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let number = tag.and_then(|tag| tag.try_into().ok());
        let number = number.map(u64::from_be_bytes).unwrap_or_default();
        let entry = self
            .fills
            .lock()
            .get(&number)
            .and_then(std::sync::Weak::upgrade);
        let Some(entry) = entry else {
            return Ok(None);
        };
        let attached = entry.body.filling().map(|filling| filling.attach(true));
        let reader = Reader::open(&entry.body, attached);
        Ok(Some((entry.meta()?, Box::new(Hit::new(reader)))))
    }

    async fn get_miss_handler(
        &'static self,
        _key: &CacheKey,
        meta: &CacheMeta,
        _trace: &SpanHandle,
    ) -> Result<MissHandler> {
        let draft = meta.extensions().get::<Arc<EntryDraft>>();
        let draft = draft.or_err(ErrorType::InternalError, "a response to store has no draft")?;
        let mut fill = Fill::begin(self, draft);
        if let Some(client) = meta.extensions().get::<Arc<dyn Client>>() {
            fill.set_client(client);
        }
        Ok(Box::new(Miss {
            tag: fill.number.to_be_bytes(),
            written: 0,
            fill,
        }))
    }

    async fn update_meta(
        &'static self,
        _key: &CacheKey,
        meta: &CacheMeta,
        _trace: &SpanHandle,
    ) -> Result<bool> {
        let refresh = meta.extensions().get::<Arc<Refresh>>();
        let refresh = refresh.or_err(
            ErrorType::InternalError,
            "a validated response has no new headers",
        )?;
        Ok(self.refresh_with(refresh).is_some())
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        _purge_type: PurgeType,
        _trace: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let is_found = self.purge_one(target.key(), PurgeEffect::Hard);
        Ok(if is_found {
            PurgeOutcome::Purged(None)
        } else {
            PurgeOutcome::NotFound
        })
    }

    async fn expire(
        &'static self,
        target: PurgeTarget<'_>,
        _trace: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let is_found = self.purge_one(target.key(), PurgeEffect::Soft);
        Ok(if is_found {
            PurgeOutcome::Expired
        } else {
            PurgeOutcome::NotFound
        })
    }

    fn support_streaming_partial_write(&self) -> bool {
        true
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

impl Store {
    /// Purges one key with all its variants, for Pingora.
    fn purge_one(&self, key: &CompactCacheKey, effect: PurgeEffect) -> bool {
        let hash = u128::from_be_bytes(key.primary_bin());
        let mut part = self.shard(hash).write();
        let slots: Vec<_> = part.shard.variants_by_hash(&self.hashes, hash).collect();
        let slots = slots.into_iter().map(|(at, _)| at).collect();
        let (removed, count) = self.apply(&mut part, slots, effect);
        self.charge_shard(&mut part);
        drop(part);
        drop(removed);
        count > 0
    }
}

/// Reads an entry for Pingora.
///
/// If Pingora reads for a client while the origin still sends, or after a 304, it ends with a task
/// for which no body filter is called. So the end is reported twice here: first as an empty piece,
/// which passes the filters and at which [`has_ended`] is true, then as `None`.
#[derive(Debug)]
struct Hit {
    reader: Reader,
    has_ended: bool,
}

impl Hit {
    fn new(reader: Reader) -> Self {
        Self {
            reader,
            has_ended: false,
        }
    }
}

/// Returns true once `handler` has been read to its end and has returned the empty piece that marks
/// it.
pub fn has_ended(handler: &HitHandler) -> bool {
    let hit = handler.as_any().downcast_ref::<Hit>();
    hit.is_some_and(|hit| hit.has_ended)
}

/// Detaches `handler` from a body that is still being written: its client has gone.
pub fn leave(handler: &mut HitHandler) {
    if let Some(hit) = handler.as_any_mut().downcast_mut::<Hit>() {
        hit.reader.leave();
    }
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let next = self.reader.next().await;
        let next = next.or_err(ErrorType::ReadError, "while reading from the cache")?;
        if next.is_none() && !self.has_ended {
            self.has_ended = true;
            return Ok(Some(Bytes::new()));
        }
        Ok(next)
    }

    async fn finish(
        self: Box<Self>,
        _storage: &'static (dyn Storage + Sync),
        _key: &CacheKey,
        _trace: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        self.reader.can_seek()
    }

    /// Reports no support for several ranges: the end of each would look like the end of the body.
    fn can_seek_multipart(&self) -> bool {
        false
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        if self.reader.seek(start as u64, end.map(|end| end as u64)) {
            return Ok(());
        }
        Error::e_explain(
            ErrorType::InternalError,
            format!("cannot seek to byte {start} of a stored body"),
        )
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// Writes an entry for Pingora.
#[derive(Debug)]
struct Miss {
    fill: Fill,
    tag: [u8; 8],
    written: usize,
}

#[async_trait]
impl HandleMiss for Miss {
    async fn write_body(&mut self, data: Bytes, _eof: bool) -> Result<()> {
        self.written += data.len();
        let written = self.fill.write(data).await;
        written.or_err(ErrorType::WriteError, "while writing to the cache")
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        let finished = self.fill.finish();
        finished.or_err(ErrorType::WriteError, "while writing to the cache")?;
        Ok(MissFinishType::Created(self.written))
    }

    fn streaming_write_tag(&self) -> Option<&[u8]> {
        Some(&self.tag)
    }
}
