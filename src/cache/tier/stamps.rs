//! What is remembered of purges outside of memory, and what an entry is compared with.
//!
//! A purge of a URL or a tag leaves a stamp under a digest of it. An entry has the digests of
//! every such purge that would be about it: a few for its URL and one for each tag. So
//! whether it was purged since it was asked for is a few look-ups, whatever the number of
//! purges. Two purges with one digest would purge a little too much, never too little.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::cache::{
    key::Key,
    purge::What,
    store::{Target, scheme, without_rsc, without_scheme},
};

pub(super) type Digest = [u8; 16];

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
}

impl Stamp {
    pub(super) fn of(what: &What) -> Self {
        Self::of_target(Target::of(what))
    }

    /// Everything under the URL of a key, for RFC 9111, 4.4.
    pub(super) fn of_key(key: &Key) -> Self {
        Self::of_target(Target::of_key(key))
    }

    fn of_target(target: Target) -> Self {
        match target {
            Target::Url {
                scheme,
                authority,
                path,
                query,
            } => Self::Url {
                part: digest(b"path", &[&path, &query]),
                digest: match (scheme, authority) {
                    (Some(scheme), Some(authority)) => {
                        digest(b"origin", &[&scheme, &authority, &path, &query])
                    }
                    (None, Some(authority)) => digest(b"url", &[&authority, &path, &query]),
                    (_, None) => digest(b"path", &[&path, &query]),
                },
            },
            // Every write purges its path with whatever query.
            Target::Prefix { prefix, .. } => match prefix.split_last() {
                Some((b'?', path)) if !path.contains(&b'?') => {
                    Self::Everywhere(digest(b"queries", &[path]))
                }
                _ => Self::Prefix(prefix),
            },
            Target::Tag(tag) => Self::Everywhere(digest(b"tag", &[tag.as_bytes()])),
            Target::All => Self::All,
        }
    }
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

/// Which of `parts` a digest is of.
pub(super) fn part(digest: &Digest, parts: usize) -> usize {
    usize::from(digest[0]) % parts
}

/// A key's URL without its scheme, and where in it the path begins.
pub(super) fn url(key: &Key) -> (&[u8], usize) {
    (without_scheme(key), key.authority().len())
}

fn digest(kind: &[u8], parts: &[&[u8]]) -> Digest {
    let mut hasher = SipHasher13::new();
    hasher.write(kind);
    for part in parts {
        hasher.write(&(part.len() as u64).to_be_bytes());
        hasher.write(part);
    }
    hasher.finish128().as_u128().to_be_bytes()
}
