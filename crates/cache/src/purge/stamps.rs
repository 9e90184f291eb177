//! Stamps that purges leave outside of memory, and the check of entries against them.
//!
//! A purge of a URL or a tag leaves a stamp under a digest of it. An entry has the digests of every
//! such purge that would affect it: a few for its URL and one for each tag. So a few lookups tell
//! if it was purged since its request, whatever the number of purges. Two purges with the same
//! digest would purge a little too much, never too little.

use serde::{Deserialize, Serialize};

use super::{
    HostPath, PurgeMatcher, PurgeTarget,
    ledger::{Bound, Kind, Noted},
    target::{without_rsc, without_slash},
    write_target,
};
pub(crate) use crate::digest::Digest;
use crate::{digest::digest, key::Key};

/// Number of regions of hosts.
const REGIONS: u8 = 32;
/// Bytes of a prefix. A longer one than any URL affects nothing, or is a mistake, and counts as
/// everything.
const MAX_PREFIX_LEN: usize = 16 << 10;

/// The stamp of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stamp {
    /// All affected entries lie in the part of this digest.
    Url {
        part: Digest,
        digest: Digest,
    },
    /// A tag, or a path with any query.
    Everywhere(Digest),
    /// Prefix of URLs without their scheme, or of paths.
    Prefix(Box<[u8]>),
    All,
    /// A change by a write, which any client can cause: it counts only if it affects something
    /// stored.
    Written(WriteChange),
    /// Every host of a region, after too many writes.
    Region(u8),
}

/// A change by a write: one URL of one origin, or all of a path of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct WriteChange {
    /// Digest of host and path, which all affected entries share.
    pub(crate) place: Digest,
    /// Region of the host: floods at one host do not affect most others.
    pub(crate) region: u8,
    /// `None`: any query.
    pub(crate) url: Option<OneUrl>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct OneUrl {
    /// All affected entries lie in the part of this digest.
    pub(crate) part: Digest,
    pub(crate) digest: Digest,
}

impl WriteChange {
    /// Returns the slot for entries about to be written, in a table with `slots` slots per region.
    pub(crate) fn slot(&self, slots: u32) -> u32 {
        slot(self.region, &self.digest(), slots)
    }

    /// Returns the digest that all affected entries have among theirs.
    pub(crate) fn digest(&self) -> Digest {
        self.url.map_or(self.place, |url| url.digest)
    }
}

impl Stamp {
    pub(crate) fn for_target(target: &PurgeTarget) -> Vec<Self> {
        Self::of_target(&PurgeMatcher::new(target))
    }

    /// Returns the stamps of a purge: two for a write to an item of a list.
    pub(crate) fn of_target(target: &PurgeMatcher) -> Vec<Self> {
        let one = match target {
            PurgeMatcher::Written(target) => {
                let written = |place| {
                    Self::Written(WriteChange {
                        place,
                        region: region(&target.authority),
                        url: None,
                    })
                };
                let places = [Some(&target.item), target.list.as_ref()].into_iter();
                let places = places.flatten().filter_map(|place| match place {
                    // The root is not an item of a list: the URL itself is another purge.
                    HostPath::Path(path) if path.is_empty() => None,
                    HostPath::Path(path) => Some(write_target::place(&target.authority, path)),
                    HostPath::Digests { place, .. } => Some(*place),
                });
                return places.map(written).collect();
            }
            // An unsafe request, which any client can send.
            PurgeMatcher::Url {
                scheme: Some(scheme),
                authority: Some(authority),
                path,
                query,
            } => Self::Written(WriteChange {
                place: write_target::place(authority, without_slash(path)),
                region: region(authority),
                url: Some(OneUrl {
                    part: digest(b"path", &[path, query]),
                    digest: digest(b"origin", &[scheme, authority, path, query]),
                }),
            }),
            PurgeMatcher::Url {
                authority,
                path,
                query,
                ..
            } => Self::Url {
                part: digest(b"path", &[path, query]),
                digest: match authority {
                    Some(authority) => digest(b"url", &[authority, path, query]),
                    None => digest(b"path", &[path, query]),
                },
            },
            // A path with any query.
            PurgeMatcher::Prefix { prefix, .. } => match prefix.split_last() {
                Some((b'?', path)) if !path.contains(&b'?') => {
                    Self::Everywhere(digest(b"queries", &[path]))
                }
                _ => Self::Prefix(prefix.clone()),
            },
            PurgeMatcher::Tag(tag) => Self::Everywhere(digest(b"tag", &[tag.as_bytes()])),
            PurgeMatcher::All => Self::All,
        };
        vec![one]
    }

    /// Returns the stamp of all entries under the URL of a key, for RFC 9111, 4.4.
    pub(crate) fn of_key(key: &Key) -> Self {
        Self::of_target(&PurgeMatcher::of_key(key)).remove(0)
    }
}

impl Stamp {
    /// Returns the change that a write has made; `None` for other purges.
    pub(crate) fn written(&self) -> Option<WriteChange> {
        match self {
            Self::Written(written) => Some(*written),
            _ => None,
        }
    }
}

impl Noted for Stamp {
    const MAX: [Bound; 3] = [
        (50_000, usize::MAX),
        (256, 16 * MAX_PREFIX_LEN),
        (1 << 16, usize::MAX),
    ];

    fn all() -> Self {
        Self::All
    }

    fn id(&self) -> Option<Digest> {
        match self {
            Self::Url { digest, .. } | Self::Everywhere(digest) => Some(*digest),
            Self::Written(written) => Some(written.digest()),
            Self::Region(region) => Some(digest(b"region", &[&[*region]])),
            Self::Prefix(prefix) if prefix.len() <= MAX_PREFIX_LEN => {
                Some(digest(b"prefix", &[prefix]))
            }
            Self::Prefix(_) | Self::All => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Prefix(_) => Kind::Prefix,
            Self::Written(_) => Kind::Write,
            Self::Url { .. } | Self::Everywhere(_) | Self::All | Self::Region(_) => Kind::Purge,
        }
    }

    fn text(&self) -> usize {
        match self {
            Self::Prefix(prefix) => prefix.len(),
            _ => 0,
        }
    }

    fn widened(&self) -> Option<Self> {
        self.written().map(|written| Self::Region(written.region))
    }
}

/// Returns the digest of the host and the path of a key.
pub(crate) fn place(key: &Key) -> Digest {
    write_target::place(key.authority(), without_slash(key.path()))
}

/// Returns the region of a host, below [`REGIONS`].
fn region(authority: &[u8]) -> u8 {
    digest(b"host", &[authority])[0] % REGIONS
}

/// Returns the digest of the URL of a key, with its scheme.
pub(crate) fn origin(key: &Key) -> Digest {
    let query = without_rsc(key.query().unwrap_or_default());
    digest(
        b"origin",
        &[key.scheme(), key.authority(), key.path(), &query],
    )
}

/// Data of an entry that purges can match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntrySubject {
    /// The same for all entries of one path and query.
    pub(crate) part: Digest,
    pub(crate) digests: Vec<Digest>,
}

impl EntrySubject {
    pub(crate) fn new(key: &Key, tags: &[Box<str>]) -> Self {
        let query = without_rsc(key.query().unwrap_or_default());
        let (path, authority) = (key.path(), key.authority());
        let part = digest(b"path", &[path, &query]);
        let mut digests = vec![
            part,
            digest(b"url", &[authority, path, &query]),
            digest(b"origin", &[key.scheme(), authority, path, &query]),
            place(key),
            digest(b"region", &[&[region(authority)]]),
        ];
        if key.query().is_some() {
            let full = [authority, path].concat();
            digests.extend([digest(b"queries", &[path]), digest(b"queries", &[&full])]);
        }
        digests.extend(tags.iter().map(|tag| digest(b"tag", &[tag.as_bytes()])));
        Self { part, digests }
    }

    /// Returns only the digest that selects the part.
    pub(crate) fn part_of(key: &Key) -> Digest {
        let query = without_rsc(key.query().unwrap_or_default());
        digest(b"path", &[key.path(), &query])
    }
}

fn slot(region: u8, digest: &Digest, slots: u32) -> u32 {
    let number = u32::from_be_bytes([digest[4], digest[5], digest[6], digest[7]]);
    u32::from(region) * slots + number % slots
}

/// Returns the slots of all writes that can affect a key.
pub(crate) fn slots(key: &Key, slots: u32) -> [u32; 2] {
    let region = region(key.authority());
    [place(key), origin(key)].map(|digest| slot(region, &digest, slots))
}

/// Returns which of `parts` a digest belongs to.
pub(crate) fn part(digest: &Digest, parts: usize) -> usize {
    usize::from(digest[0]) % parts
}
