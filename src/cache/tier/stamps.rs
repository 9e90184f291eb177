//! What is remembered of purges outside of memory, and what an entry is compared with.
//!
//! A purge of a URL or a tag leaves a stamp under a digest of it. An entry has the digests of
//! every such purge that would be about it: a few for its URL and one for each tag. So
//! whether it was purged since it was asked for is a few look-ups, whatever the number of
//! purges. Two purges with one digest would purge a little too much, never too little.

use serde::{Deserialize, Serialize};

pub(super) use crate::cache::digest::Digest;
use crate::cache::{
    digest::digest,
    key::Key,
    purge::{self, Place, What},
    store::{Target, scheme, without_rsc, without_scheme, without_slash},
};

/// Of hosts.
const REGIONS: u8 = 32;

/// What a purge leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stamp {
    /// All that it is about lies in the part of this digest.
    Url {
        part: Digest,
        digest: Digest,
    },
    /// A tag, or a path with any query.
    Everywhere(Digest),
    /// What URLs without their scheme, or paths, begin with.
    Prefix(Box<[u8]>),
    All,
    /// What a write has changed, which anybody can cause: it counts only where it finds
    /// something.
    Written(Written),
}

/// What a write has changed: one URL of one origin, or all of a path of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Written {
    /// Of host and path, which all that it is about have in common.
    pub(super) place: Digest,
    /// Of the host: floods at one host are kept apart from most others.
    pub(super) region: u8,
    /// `None`: whatever the query.
    pub(super) url: Option<OneUrl>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct OneUrl {
    /// All that it is about lies in the part of this digest.
    pub(super) part: Digest,
    pub(super) digest: Digest,
}

impl Written {
    /// Where in a table of so many slots for each region it is remembered for those that are on
    /// their way.
    pub(super) fn slot(&self, slots: u32) -> u32 {
        slot(self.region, &self.digest(), slots)
    }

    /// What entries that it is about have among their digests.
    pub(super) fn digest(&self) -> Digest {
        self.url.map_or(self.place, |url| url.digest)
    }
}

impl Stamp {
    pub(super) fn of(what: &What) -> Vec<Self> {
        let one = match Target::of(what) {
            Target::Written(purge::Written {
                authority,
                item,
                list,
            }) => {
                let written = |place| {
                    Self::Written(Written {
                        place,
                        region: region(&authority),
                        url: None,
                    })
                };
                let places = [Some(item), list].into_iter().flatten();
                let places = places.filter_map(|place| match place {
                    // The root is no item of a list: the URL itself is another purge.
                    Place::Path(path) if path.is_empty() => None,
                    Place::Path(path) => Some(purge::place(&authority, &path)),
                    Place::Digests { place, .. } => Some(place),
                });
                return places.map(written).collect();
            }
            Target::Url {
                authority,
                path,
                query,
                ..
            } => Self::Url {
                part: digest(b"path", &[&path, &query]),
                digest: match authority {
                    Some(authority) => digest(b"url", &[&authority, &path, &query]),
                    None => digest(b"path", &[&path, &query]),
                },
            },
            // A path with whatever query.
            Target::Prefix { prefix, .. } => match prefix.split_last() {
                Some((b'?', path)) if !path.contains(&b'?') => {
                    Self::Everywhere(digest(b"queries", &[path]))
                }
                _ => Self::Prefix(prefix),
            },
            Target::Tag(tag) => Self::Everywhere(digest(b"tag", &[tag.as_bytes()])),
            Target::All => Self::All,
        };
        vec![one]
    }

    /// Everything under the URL of a key, for RFC 9111, 4.4.
    pub(super) fn of_key(key: &Key) -> Self {
        let query = without_rsc(key.query().unwrap_or_default());
        let (path, authority) = (key.path(), key.authority());
        Self::Written(Written {
            place: place(key),
            region: region(authority),
            url: Some(OneUrl {
                part: digest(b"path", &[path, &query]),
                digest: digest(b"origin", &[scheme(key), authority, path, &query]),
            }),
        })
    }
}

/// Of the host and the path of a key.
pub(super) fn place(key: &Key) -> Digest {
    purge::place(key.authority(), without_slash(key.path()))
}

/// Of a host, below [`REGIONS`].
fn region(authority: &[u8]) -> u8 {
    digest(b"host", &[authority])[0] % REGIONS
}

/// Of the one URL that a key is of.
pub(super) fn origin(key: &Key) -> Digest {
    let query = without_rsc(key.query().unwrap_or_default());
    digest(
        b"origin",
        &[scheme(key), key.authority(), key.path(), &query],
    )
}

/// What of an entry purges can be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// The same for all entries of one path and query.
    pub(super) part: Digest,
    pub(super) digests: Vec<Digest>,
}

impl Subject {
    pub(super) fn new(key: &Key, tags: &[Box<str>]) -> Self {
        let query = without_rsc(key.query().unwrap_or_default());
        let (path, authority) = (key.path(), key.authority());
        let part = digest(b"path", &[path, &query]);
        let mut digests = vec![
            part,
            digest(b"url", &[authority, path, &query]),
            digest(b"origin", &[scheme(key), authority, path, &query]),
            place(key),
        ];
        if key.query().is_some() {
            let whole = [authority, path].concat();
            digests.extend([digest(b"queries", &[path]), digest(b"queries", &[&whole])]);
        }
        digests.extend(tags.iter().map(|tag| digest(b"tag", &[tag.as_bytes()])));
        Self { part, digests }
    }

    /// Only where it lies.
    pub(super) fn part_of(key: &Key) -> Digest {
        let query = without_rsc(key.query().unwrap_or_default());
        digest(b"path", &[key.path(), &query])
    }
}

fn slot(region: u8, digest: &Digest, slots: u32) -> u32 {
    let number = u32::from_be_bytes([digest[4], digest[5], digest[6], digest[7]]);
    u32::from(region) * slots + number % slots
}

/// The slots of everything that writes can say of a key.
pub(super) fn slots(key: &Key, slots: u32) -> [u32; 2] {
    let region = region(key.authority());
    [place(key), origin(key)].map(|digest| slot(region, &digest, slots))
}

/// Which of `parts` a digest is of.
pub(super) fn part(digest: &Digest, parts: usize) -> usize {
    usize::from(digest[0]) % parts
}

/// A key's URL without its scheme, and where in it the path begins.
pub(super) fn url(key: &Key) -> (&[u8], usize) {
    (without_scheme(key), key.authority().len())
}
