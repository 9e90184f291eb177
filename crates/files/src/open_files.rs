//! Finds the file of a request, and keeps what was found: bounded in number, and looked at again
//! after a while.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use ahash::RandomState;
use http::{HeaderMap, HeaderValue, header};
use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    base::{clock::Clock, descriptors, encoding::Encoding},
    blocking,
    config::model::IfModifiedSinceConfig,
    media_types::MediaTypes,
    path::RelativePath,
    patterns::Patterns,
    root::{Root, Symlinks},
    segment::Transfer,
    served::{Content, FileKind, FileStamp, Representation, ServedFile},
};

const SHARDS: usize = 16;

/// Attempts to read a file that is written meanwhile.
const ATTEMPTS: usize = 3;

/// Time by which a compressed file may be older than the plain one: copying a folder takes a while.
/// An older one was made from another content.
const MAX_BEHIND: i64 = 60;

/// The files below one root, and how they are served.
#[derive(Clone, Debug)]
pub struct Files(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    clock: Clock,
    start: Instant,
    hasher: RandomState,
    /// Files by the path of the request.
    open: Box<[Shard]>,
}

type Shard = Mutex<LruCache<Box<[u8]>, OpenFile>>;

/// Settings of the files below one root, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) root: Root,
    pub(crate) index: Box<[String]>,
    /// Path that is served where there is no file.
    pub(crate) fallback: Option<Box<[u8]>>,
    /// Path of the page for 404.
    pub(crate) not_found: Option<Box<[u8]>>,
    pub(crate) encodings: Box<[Encoding]>,
    pub(crate) immutable: Patterns,
    pub(crate) max_age: Option<Duration>,
    /// Headers of single files, by their paths below the root.
    pub(crate) headers: Box<[(Box<[u8]>, HeaderMap)]>,
    pub(crate) serves_dot_files: bool,
    pub(crate) types: MediaTypes,
    pub(crate) transfer: Transfer,
    pub(crate) if_modified_since: IfModifiedSinceConfig,
    /// True to send `Accept-Ranges` with a 206 too, as Node's servers do and nginx does not.
    pub(crate) announces_parts: bool,
    pub(crate) open_files: NonZeroUsize,
    pub(crate) recheck: Duration,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<ServedFile>,
    /// Milliseconds since the start at which it was last compared with the disk.
    checked: AtomicU64,
    descriptors: KeptDescriptors,
}

/// Descriptors of one file that is kept open. They are counted over all roots.
#[derive(Debug)]
struct KeptDescriptors(u32);

static KEPT: AtomicU32 = AtomicU32::new(0);

/// Most of them: an eighth of what the process may have. The rest is for clients and backends.
static MOST_KEPT: LazyLock<u32> = LazyLock::new(|| descriptors::part(8, u32::MAX));

impl KeptDescriptors {
    /// Counts those of `file`; `None` if there would be too many.
    fn counted(file: &ServedFile) -> Option<Self> {
        let others = file.encoded.iter().map(|(_, other)| other);
        let open = others.chain([&file.plain]);
        let open = open.filter(|one| matches!(one.content, Content::Open(..)));
        let count = u32::try_from(open.count()).unwrap_or(u32::MAX);
        let place = Self(count);
        let kept = KEPT.fetch_add(count, Ordering::Relaxed) + count;
        (count == 0 || kept <= *MOST_KEPT).then_some(place)
    }
}

impl Drop for KeptDescriptors {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Result of looking for the file of a request.
#[derive(Debug)]
pub enum FileLookup {
    File(Arc<ServedFile>),
    /// The page for 404.
    NotFoundPage(Arc<ServedFile>),
    /// A folder, whose path lacks its slash at the end.
    Folder,
    NotFound,
    /// The gateway may not read it, or it is a folder without an index.
    Forbidden,
    /// The file could not be opened or read.
    Failed,
}

/// Result of looking for a path alone, without `fallback`.
enum ResolvedPath {
    File(Arc<ServedFile>),
    Folder,
    /// A folder without an index.
    Closed,
    NotFound,
    Forbidden,
}

/// Time for which browsers keep the files of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrowserCache {
    /// A year, without asking again.
    Immutable,
    /// Until the next use, when it asks if they have changed.
    Revalidated,
}

impl Files {
    /// Serves the files below `root`, and nothing in place of missing files.
    pub fn plain(
        root: PathBuf,
        policy: BrowserCache,
        serves_dot_files: bool,
        clock: &Clock,
    ) -> Self {
        let recheck = Duration::from_secs(1);
        let mut immutable = Patterns::default();
        if policy == BrowserCache::Immutable {
            immutable.add_all();
        }
        let settings = Settings {
            root: Root::new(root, Symlinks::Inside, recheck),
            index: Box::default(),
            fallback: None,
            not_found: None,
            encodings: Box::default(),
            immutable,
            max_age: Some(Duration::ZERO),
            headers: Box::default(),
            serves_dot_files,
            types: MediaTypes::default(),
            transfer: Transfer::Sendfile,
            if_modified_since: IfModifiedSinceConfig::default(),
            announces_parts: true,
            open_files: NonZeroUsize::MIN.saturating_add(1023),
            recheck,
        };
        Self::new(settings, clock)
    }

    pub(crate) fn new(settings: Settings, clock: &Clock) -> Self {
        let each = settings.open_files.get().div_ceil(SHARDS);
        let each = NonZeroUsize::new(each).unwrap_or(NonZeroUsize::MIN);
        let shard = || Mutex::new(LruCache::new(each));
        Self(Arc::new(Inner {
            start: clock.now(),
            clock: clock.clone(),
            hasher: RandomState::new(),
            open: std::iter::repeat_with(shard).take(SHARDS).collect(),
            settings,
        }))
    }

    /// Returns the folder that is served.
    pub fn root(&self) -> &std::path::Path {
        self.0.settings.root.path()
    }

    /// Returns the file that is open for `path`, if there is one that need not be compared with the
    /// disk.
    pub fn kept(&self, path: &[u8]) -> Option<Arc<ServedFile>> {
        self.0.kept(path)
    }

    /// Finds the file on disk for `path`, the path of a request in normal form, of which
    /// [`Self::kept`] has none.
    pub async fn find(&self, path: &[u8]) -> FileLookup {
        let lookup = self.look(path).await;
        self.or_page(path, lookup).await
    }

    /// Returns the page of `fallback` or `not_found` if `lookup` says that `path` has no file.
    pub async fn or_page(&self, path: &[u8], lookup: FileLookup) -> FileLookup {
        let settings = &self.0.settings;
        if !matches!(lookup, FileLookup::NotFound | FileLookup::Forbidden) {
            return lookup;
        }
        let is_missing = matches!(lookup, FileLookup::NotFound);
        // A page in place of a script that is gone would be stored as that script.
        if let Some(fallback) = &settings.fallback
            && !self.is_immutable(path)
            && let FileLookup::File(file) = self.find_at(fallback).await
        {
            return FileLookup::File(file);
        }
        if is_missing
            && let Some(page) = &settings.not_found
            && let FileLookup::File(file) = self.find_at(page).await
        {
            return FileLookup::NotFoundPage(file);
        }
        lookup
    }

    /// Returns true if there is a file on disk for `path`. May block.
    pub fn has(&self, path: &[u8]) -> bool {
        matches!(self.0.look(path.into()), FileLookup::File(_))
    }

    fn is_immutable(&self, path: &[u8]) -> bool {
        let relative = RelativePath::parse(path, true);
        relative.is_some_and(|relative| self.0.settings.immutable.have(&relative.bytes))
    }

    /// Forgets the file of `path`, and the pages that are served where there is none, because one
    /// of them is found to have changed.
    pub fn forget(&self, path: &[u8]) {
        let settings = &self.0.settings;
        let pages = [&settings.fallback, &settings.not_found];
        let pages = pages.into_iter().flatten().map(|page| &**page);
        for path in pages.chain([path]) {
            self.0.shard(path).lock().pop(path);
        }
    }

    async fn find_at(&self, path: &[u8]) -> FileLookup {
        match self.kept(path) {
            Some(file) => FileLookup::File(file),
            None => self.look(path).await,
        }
    }

    /// Finds what is on disk at `path` itself, without `fallback` and `not_found`.
    pub async fn look(&self, path: &[u8]) -> FileLookup {
        let inner = Arc::clone(&self.0);
        let owned: Box<[u8]> = path.into();
        let looked = blocking::run(move || inner.look(owned));
        looked.await.unwrap_or(FileLookup::Failed)
    }
}

impl Inner {
    fn shard(&self, path: &[u8]) -> &Shard {
        let hash = self.hasher.hash_one(path);
        // The map takes the low bits of its own hash.
        &self.open[usize::try_from(hash >> 60).unwrap_or_default() % SHARDS]
    }

    fn millis(&self) -> u64 {
        let passed = self.clock.now().saturating_duration_since(self.start);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the file that is open for `path`, unless it is to be compared with the disk. One
    /// request at a time does that; others get the file as it was.
    fn kept(&self, path: &[u8]) -> Option<Arc<ServedFile>> {
        let mut shard = self.shard(path).lock();
        let open = shard.get(path)?;
        let recheck = u64::try_from(self.settings.recheck.as_millis()).unwrap_or(u64::MAX);
        let now = self.millis();
        let checked = open.checked.load(Ordering::Relaxed);
        if recheck == 0 {
            return None;
        }
        if now.saturating_sub(checked) >= recheck {
            open.checked.store(now, Ordering::Relaxed);
            return None;
        }
        Some(Arc::clone(&open.file))
    }

    /// Looks for the file of `path` on disk. May block.
    fn look(&self, path: Box<[u8]>) -> FileLookup {
        let mut resolved = self.resolve(&path);
        for _ in 1..ATTEMPTS {
            match &resolved {
                // It was written while it was read.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    resolved = self.resolve(&path);
                }
                Err(error) if descriptors::are_lacking(error) => {
                    self.open.iter().for_each(|shard| shard.lock().clear());
                    resolved = self.resolve(&path);
                }
                _ => break,
            }
        }
        match resolved {
            Ok(ResolvedPath::File(file)) => FileLookup::File(self.keep(path, file)),
            Ok(other) => {
                self.shard(&path).lock().pop(&path);
                match other {
                    ResolvedPath::Folder => FileLookup::Folder,
                    ResolvedPath::Closed | ResolvedPath::Forbidden => FileLookup::Forbidden,
                    ResolvedPath::NotFound | ResolvedPath::File(_) => FileLookup::NotFound,
                }
            }
            Err(error) => {
                self.shard(&path).lock().pop(&path);
                let root = self.settings.root.path().display();
                let path = String::from_utf8_lossy(&path);
                log::error!(root:%, path:?, error:%; "file not served");
                FileLookup::Failed
            }
        }
    }

    /// Keeps `file` open for the next requests, in place of older ones if there are too many. If it
    /// is the one that was open already, that one is kept.
    fn keep(&self, path: Box<[u8]>, file: Arc<ServedFile>) -> Arc<ServedFile> {
        let now = self.millis();
        let mut shard = self.shard(&path).lock();
        if let Some(open) = shard.get(&path)
            && open.file.is_same(&file)
        {
            open.checked.store(now, Ordering::Relaxed);
            return Arc::clone(&open.file);
        }
        shard.pop(&path);
        loop {
            if let Some(descriptors) = KeptDescriptors::counted(&file) {
                let open = OpenFile {
                    file: Arc::clone(&file),
                    checked: AtomicU64::new(now),
                    descriptors,
                };
                shard.put(path, open);
                break;
            }
            let mut by_age = shard.iter().rev();
            let oldest = by_age.find(|(_, open)| open.descriptors.0 > 0);
            let Some(oldest) = oldest.map(|(path, _)| path.clone()) else {
                // Others have them all: it is opened for each request.
                break;
            };
            shard.pop(&oldest);
        }
        file
    }

    fn resolve(&self, path: &[u8]) -> io::Result<ResolvedPath> {
        let Some(relative) = RelativePath::parse(path, self.settings.serves_dot_files) else {
            return Ok(ResolvedPath::NotFound);
        };
        if self.settings.index.is_empty() {
            // Files alone are served, as by `try_files $uri =404` of nginx.
            if relative.is_folder {
                return Ok(ResolvedPath::NotFound);
            }
            return Ok(match self.resolve_at(&relative.bytes)? {
                ResolvedPath::Folder => ResolvedPath::NotFound,
                resolved => resolved,
            });
        }
        if !relative.is_folder {
            return self.resolve_at(&relative.bytes);
        }
        for index in &self.settings.index {
            match self.resolve_at(&relative.join(index))? {
                ResolvedPath::NotFound => {}
                // A folder of that name is no index.
                ResolvedPath::Folder | ResolvedPath::Closed => return Ok(ResolvedPath::NotFound),
                hit @ (ResolvedPath::File(_) | ResolvedPath::Forbidden) => return Ok(hit),
            }
        }
        Ok(match self.resolve_at(&relative.bytes)? {
            ResolvedPath::Folder => ResolvedPath::Closed,
            ResolvedPath::File(_) => ResolvedPath::NotFound,
            other => other,
        })
    }

    fn resolve_at(&self, relative: &[u8]) -> io::Result<ResolvedPath> {
        let wall = self.clock.wall();
        let (fd, stamp) = match self.open(relative, wall) {
            Ok(Some((fd, FileKind::File(stamp)))) => (fd, stamp),
            Ok(Some((_, FileKind::Folder))) => return Ok(ResolvedPath::Folder),
            Ok(Some((_, FileKind::Other)) | None) => return Ok(ResolvedPath::NotFound),
            Err(error) if is_forbidden(&error) => return Ok(ResolvedPath::Forbidden),
            Err(error) => return Err(error),
        };
        let file = self.serve(relative, fd, stamp, wall)?;
        Ok(ResolvedPath::File(Arc::new(file)))
    }

    /// Opens what is at `relative`; `None` if there is nothing.
    fn open(&self, relative: &[u8], wall: SystemTime) -> io::Result<Option<(OwnedFd, FileKind)>> {
        match self.settings.root.open(relative, self.clock.now()) {
            Ok(fd) => {
                let kind = FileStamp::read(&fd, wall)?;
                Ok(Some((fd, kind)))
            }
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn serve(
        &self,
        relative: &[u8],
        fd: OwnedFd,
        stamp: FileStamp,
        wall: SystemTime,
    ) -> io::Result<ServedFile> {
        let mut common = HeaderMap::with_capacity(8);
        let content_type = self.settings.types.type_for(relative);
        common.insert(header::CONTENT_TYPE, content_type);
        if let Some(policy) = self.policy(relative) {
            common.insert(header::CACHE_CONTROL, policy);
        }
        let mut rules = self.settings.headers.iter();
        if let Some((_, headers)) = rules.find(|(path, _)| **path == *relative) {
            for (name, value) in headers {
                common.insert(name, value.clone());
            }
        }
        let beside = self.beside(relative, &stamp, wall);
        if !beside.is_empty() {
            let vary = HeaderValue::from_static("Accept-Encoding");
            common.append(header::VARY, vary);
        }
        let transfer = self.settings.transfer;
        let plain = Representation::from_file(fd, stamp, transfer, &common)?;
        let mut encoded: Vec<(Encoding, Representation)> = Vec::new();
        for (encoding, fd, stamp) in beside {
            let mut headers = common.clone();
            headers.insert(header::CONTENT_ENCODING, encoding.header_value());
            let mut copy = Representation::from_file(fd, stamp, transfer, &headers)?;
            let is_taken = copy.etag().is_some_and(|tag| {
                let mut others = encoded.iter().map(|(_, other)| other).chain([&plain]);
                others.any(|other| other.etag() == Some(tag))
            });
            if is_taken {
                copy.extend_etag(encoding.name());
            }
            encoded.push((encoding, copy));
        }
        Ok(ServedFile {
            plain,
            encoded: encoded.into(),
            dates: self.settings.if_modified_since,
            announces_parts: self.settings.announces_parts,
        })
    }

    /// Opens the compressed files beside the one at `relative`. One that cannot be opened, or is
    /// older than the plain file, is left out.
    fn beside(
        &self,
        relative: &[u8],
        plain: &FileStamp,
        wall: SystemTime,
    ) -> Vec<(Encoding, OwnedFd, FileStamp)> {
        let encodings = self.settings.encodings.iter();
        let open = |encoding: &Encoding| {
            let path = [relative, ending(*encoding)].concat();
            match self.open(&path, wall) {
                Ok(Some((fd, FileKind::File(stamp)))) => {
                    let behind = plain.seconds.saturating_sub(stamp.seconds);
                    (behind <= MAX_BEHIND).then_some((*encoding, fd, stamp))
                }
                _ => None,
            }
        };
        encodings.filter_map(open).collect()
    }

    /// Returns the `Cache-Control` of the file at `relative`.
    fn policy(&self, relative: &[u8]) -> Option<HeaderValue> {
        if self.settings.immutable.have(relative) {
            return Some(HeaderValue::from_static(IMMUTABLE));
        }
        let max_age = self.settings.max_age?.as_secs();
        HeaderValue::try_from(format!("public, max-age={max_age}")).ok()
    }
}

/// `Cache-Control` of files that never change, as of the build output of Next.js.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// Returns the end of the name of a compressed file.
fn ending(encoding: Encoding) -> &'static [u8] {
    match encoding {
        Encoding::Zstd => b".zst",
        Encoding::Br => b".br",
        Encoding::Gzip => b".gz",
    }
}

fn is_missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let missing = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::NAMETOOLONG,
        // What is no file any more: a socket, a device without its driver.
        Errno::NXIO,
        Errno::NODEV,
    ];
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| missing.contains(&errno))
}

/// Returns true if the file may not be read, or its path leads out of the root.
fn is_forbidden(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let forbidden = [Errno::ACCESS, Errno::PERM, Errno::XDEV, Errno::LOOP];
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| forbidden.contains(&errno))
}
