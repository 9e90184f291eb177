//! Sources of images that are made here: files of an app, and its responses.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use edgeway_cache::{route::TAGS, store::LogMark};
use edgeway_files::ServedFile;
use http::HeaderMap;
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::{ImageFailure, SourceFailure};

/// Sources that are in memory at once, of those from apps and of those from other servers.
const MAX_FETCHED: usize = 16;

/// Size of each of them.
pub(super) const MAX_FETCHED_SIZE: usize = 16 << 20;

/// Source of an image.
pub enum ImageSource {
    /// A file of the app, and the seconds for which it is fresh.
    File(Arc<ServedFile>, u64),
    Fetched(Arc<FetchedSource>),
}

/// Response that images are made of, in its place in memory.
pub struct FetchedSource {
    bytes: Bytes,
    etag: Option<String>,
    /// Seconds for which it is fresh.
    age: u64,
    /// Headers with its tags, which images made of it have too.
    tags: HeaderMap,
    _place: FetchPlace,
}

/// Sources that are asked for.
pub(super) struct SourceFetches {
    places: Places,
    in_flight: Mutex<HashMap<SourceKey, Weak<SourceCell>>>,
}

/// Identity of a source while it is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SourceKey {
    pub(super) upstream: Arc<str>,
    pub(super) build: u128,
    pub(super) source: Box<str>,
    /// A source may have changed before a purge: later requests ask for it again.
    pub(super) mark: LogMark,
}

type SourceCell = OnceCell<Result<Arc<FetchedSource>, SourceFailure>>;

/// Part in a fetch that several requests wait for. The last one to leave removes it, and so does the
/// first one that has the source: later ones ask again.
struct Joined<'f> {
    fetches: &'f SourceFetches,
    key: SourceKey,
    cell: Arc<SourceCell>,
}

/// Places for sources in memory.
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Places in the queue for them.
    queue: Semaphore,
}

/// Place of one source.
pub type FetchPlace = OwnedSemaphorePermit;

impl Places {
    /// Creates places for which at most `queue` requests wait.
    pub(super) fn new(queue: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_FETCHED)),
            queue: Semaphore::new(queue),
        }
    }

    /// Returns a place, once there is one; `None` if too many wait already.
    async fn take(&self) -> Option<FetchPlace> {
        let free = Arc::clone(&self.free);
        let permit = if let Ok(permit) = Arc::clone(&free).try_acquire_owned() {
            permit
        } else {
            let _waits = self.queue.try_acquire().ok()?;
            free.acquire_owned().await.ok()?
        };
        Some(permit)
    }
}

impl SourceFetches {
    pub(super) fn new(places: Places) -> Self {
        Self {
            places,
            in_flight: Mutex::default(),
        }
    }

    /// Returns the source that `fetch` returns, once for all requests that want it meanwhile.
    pub(super) async fn get<F>(
        &self,
        key: SourceKey,
        fetch: impl FnOnce(FetchPlace) -> F,
    ) -> Result<Arc<FetchedSource>, SourceFailure>
    where
        F: Future<Output = Result<FetchedSource, SourceFailure>>,
    {
        let joined = self.join(key);
        let fetched = joined.cell.get_or_init(|| async {
            let place = self.places.take().await;
            let place = place.ok_or(ImageFailure::QueueFull)?;
            fetch(place).await.map(Arc::new)
        });
        fetched.await.clone()
    }

    fn join(&self, key: SourceKey) -> Joined<'_> {
        let mut in_flight = self.in_flight.lock();
        let joined = in_flight.get(&key).and_then(Weak::upgrade);
        let cell = joined.unwrap_or_else(|| {
            let cell = Arc::default();
            in_flight.insert(key.clone(), Arc::downgrade(&cell));
            cell
        });
        Joined {
            fetches: self,
            key,
            cell,
        }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.fetches.in_flight.lock();
        let cell = in_flight.get(&self.key);
        let is_own = cell.is_some_and(|cell| cell.as_ptr() == Arc::as_ptr(&self.cell));
        // Others join under the same lock.
        if is_own && (self.cell.initialized() || Arc::strong_count(&self.cell) == 1) {
            in_flight.remove(&self.key);
        }
    }
}

impl FetchedSource {
    /// Creates a source with this entity tag, which is fresh for `age` seconds.
    pub fn new(bytes: Bytes, etag: Option<String>, age: u64, place: FetchPlace) -> Self {
        Self {
            bytes,
            etag,
            age,
            tags: HeaderMap::new(),
            _place: place,
        }
    }

    /// Adds the tags of a response with these headers.
    #[must_use]
    pub fn with_tags(mut self, headers: &HeaderMap) -> Self {
        for name in &TAGS {
            for value in headers.get_all(name) {
                self.tags.append(name, value.clone());
            }
        }
        self
    }
}

impl ImageSource {
    pub(super) fn read(&self) -> Option<Bytes> {
        match self {
            Self::File(file, _) => file.read().ok(),
            Self::Fetched(source) => Some(source.bytes.clone()),
        }
    }

    /// Returns the entity tag of an image that is this source.
    pub(super) fn etag(&self) -> String {
        let tag = match self {
            Self::File(file, _) => format!("W/\"{:x}-{:x}\"", file.size(), file.modified_millis()),
            Self::Fetched(source) => match &source.etag {
                Some(etag) => etag.clone(),
                None => return etag_of(&source.bytes),
            },
        };
        URL_SAFE_NO_PAD.encode(tag)
    }

    pub(super) fn tags(&self) -> HeaderMap {
        match self {
            Self::File(..) => HeaderMap::new(),
            Self::Fetched(source) => source.tags.clone(),
        }
    }

    /// Returns the seconds for which it is fresh.
    pub(super) fn age(&self) -> u64 {
        match self {
            Self::File(_, age) => *age,
            Self::Fetched(source) => source.age,
        }
    }
}

/// Returns the entity tag of an image that was made.
pub(super) fn etag_of(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn key(source: &str) -> SourceKey {
        SourceKey {
            upstream: "web".into(),
            build: 1,
            source: source.into(),
            mark: LogMark::default(),
        }
    }

    /// Invariant: requests that want a source at the same time fetch it once, later ones again, and
    /// nothing of it is kept, also if one of them leaves.
    #[tokio::test]
    async fn a_source_is_fetched_once_for_all_who_wait() {
        let fetches = SourceFetches::new(Places::new(0));
        let fetched = AtomicU32::new(0);
        let get = |source: &'static str| {
            let fetched = &fetched;
            fetches.get(key(source), move |place| async move {
                fetched.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                match source {
                    "bad" => Err(ImageFailure::Source.into()),
                    _ => Ok(FetchedSource::new(Bytes::from_static(b"x"), None, 0, place)),
                }
            })
        };
        let (one, two, bad, other) = tokio::join!(get("a"), get("a"), get("bad"), get("b"));
        assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
        let failed = SourceFailure::Left(ImageFailure::Source);
        assert!(bad.is_err_and(|failure| failure == failed) && other.is_ok());
        assert_eq!(fetched.load(Ordering::Relaxed), 3);
        assert!(get("a").await.is_ok());
        assert_eq!(fetched.load(Ordering::Relaxed), 4);
        assert!(fetches.in_flight.lock().is_empty());

        // Who began it leaves, and another one takes over.
        let mut first = Box::pin(get("c"));
        let mut second = Box::pin(get("c"));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_ok());
        assert_eq!(fetched.load(Ordering::Relaxed), 6);
        let mut alone = Box::pin(get("d"));
        assert!(futures_util::poll!(&mut alone).is_pending());
        drop(alone);
        assert!(fetches.in_flight.lock().is_empty());
    }

    #[tokio::test]
    async fn sources_in_memory_are_bounded() {
        for queue in [0, 2] {
            let fetches = SourceFetches::new(Places::new(queue));
            let get = |number: usize| {
                fetches.get(key(&number.to_string()), |place| async move {
                    Ok(FetchedSource::new(Bytes::new(), None, 0, place))
                })
            };
            let mut held = Vec::new();
            for number in 0..MAX_FETCHED {
                held.push(get(number).await.unwrap());
            }
            let mut waiting = Vec::new();
            for number in 0..queue {
                let mut get = Box::pin(get(100 + number));
                assert!(futures_util::poll!(&mut get).is_pending());
                waiting.push(get);
            }
            let full = SourceFailure::Left(ImageFailure::QueueFull);
            assert!(get(99).await.is_err_and(|failure| failure == full));
            held.truncate(MAX_FETCHED - queue.max(1));
            for get in waiting {
                assert!(get.await.is_ok());
            }
            assert!(get(99).await.is_ok());
        }
    }
}
