//! Effect of a write to a URL: the item and the list that contains it.
//!
//! Any client can write, so the form that gateways send each other has few bytes, however long the
//! URL is. A long path is sent as two digests after a `#`, which no requested URL contains:
//! `http://shop#DIGESTS/list`, or `#DIGESTS#DIGESTS` if the list is long too. A gateway of a
//! version without digests takes that for a URL without a path, which affects nothing; another form
//! of JSON would be a purge that it cannot read, and make it drop everything.

use std::borrow::Cow;

use crate::digest::{Digest, digest};

/// Maximum bytes of a path that is sent as it is.
pub(crate) const MAX_PATH_LEN: usize = 128;

/// The responses that a write has changed. Paths are without their trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteTarget {
    pub(crate) authority: Box<[u8]>,
    pub(crate) item: HostPath,
    /// `None` if there is no list.
    pub(crate) list: Option<HostPath>,
}

/// A path of a host, with any query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostPath {
    Path(Box<[u8]>),
    /// A long path.
    Digests {
        /// Digest for lookups in memory, where paths are of any host.
        path: Digest,
        /// Digest of host and path.
        place: Digest,
    },
}

impl HostPath {
    fn new(authority: &[u8], path: &[u8]) -> Self {
        match long(path) {
            Some(digest) => Self::Digests {
                path: digest,
                place: place(authority, path),
            },
            None => Self::Path(path.into()),
        }
    }

    pub(crate) fn is_about(&self, authority: &[u8], path: &[u8]) -> bool {
        match self {
            Self::Path(own) => **own == *path,
            Self::Digests { place: own, .. } => {
                path.len() > MAX_PATH_LEN && *own == place(authority, path)
            }
        }
    }
}

/// Returns the digest of a host and a path without a trailing slash.
pub(crate) fn place(authority: &[u8], path: &[u8]) -> Digest {
    digest(b"place", &[authority, path])
}

/// Returns the digest of a path that is too long to be sent as it is; `None` for others.
pub(crate) fn long(path: &[u8]) -> Option<Digest> {
    (path.len() > MAX_PATH_LEN).then(|| digest(b"long path", &[path]))
}

impl WriteTarget {
    pub(crate) fn from_url(url: &str) -> Self {
        let (authority, rest) = split_authority(url);
        let authority = authority.unwrap_or_default().into_bytes();
        if let Some((item, list)) = rest.strip_prefix('#').and_then(read) {
            return Self {
                authority: authority.into(),
                item,
                list,
            };
        }
        let path = item_of(rest);
        let list = path.rfind('/').map(|at| &path[..at]);
        let list = list.filter(|list| !list.is_empty());
        let place = |path: &str| HostPath::new(&authority, path.as_bytes());
        let (item, list) = (place(path), list.map(place));
        Self {
            authority: authority.into(),
            item,
            list,
        }
    }

    /// Returns a short URL with the same effect.
    pub(super) fn short(url: &str) -> Cow<'_, str> {
        let (_, rest) = split_authority(url);
        let origin = &url[..url.len() - rest.len()];
        let path = item_of(rest);
        if path.len() > MAX_PATH_LEN {
            let Self { item, list, .. } = Self::from_url(url);
            let mut short = origin.to_owned();
            write(&mut short, &item);
            if let Some(list) = list {
                write(&mut short, &list);
            }
            return Cow::Owned(short);
        }
        let is_short = match rest.strip_prefix('#') {
            Some(digests) => read(digests).is_some(),
            None => rest.len() <= path.len() + 1,
        };
        if is_short {
            return Cow::Borrowed(url);
        }
        Cow::Owned(format!("{origin}{path}/"))
    }
}

/// Returns the path of a URL's rest without trailing slashes.
fn item_of(rest: &str) -> &str {
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    path.trim_end_matches('/')
}

fn write(text: &mut String, place: &HostPath) {
    match place {
        HostPath::Path(path) => text.push_str(&String::from_utf8_lossy(path)),
        HostPath::Digests { path, place } => {
            text.push('#');
            for digest in [path, place] {
                text.push_str(&hex::encode(digest));
            }
        }
    }
}

/// Parses the text after the first `#`.
fn read(text: &str) -> Option<(HostPath, Option<HostPath>)> {
    let (item, rest) = digests(text)?;
    let list = match rest.strip_prefix('#') {
        Some(rest) => match digests(rest)? {
            (list, "") => Some(list),
            _ => return None,
        },
        None if rest.is_empty() => None,
        None if rest.starts_with('/') && rest.len() <= MAX_PATH_LEN => {
            Some(HostPath::Path(rest.as_bytes().into()))
        }
        None => return None,
    };
    Some((item, list))
}

fn digests(text: &str) -> Option<(HostPath, &str)> {
    let (path, rest) = text.split_at_checked(32)?;
    let (place, rest) = rest.split_at_checked(32)?;
    let digest = |text: &str| {
        let mut digest = Digest::default();
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(digest)
    };
    let place = HostPath::Digests {
        path: digest(path)?,
        place: digest(place)?,
    };
    Some((place, rest))
}

/// Splits a URL: `https://Shop:443/x` into `shop` and `/x`; the authority of a path alone is
/// `None`.
pub(crate) fn split_authority(url: &str) -> (Option<String>, &str) {
    if url.starts_with('/') {
        return (None, url);
    }
    let absolute = url.split_once("://");
    let (scheme, rest) = absolute.map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let mut authority = authority.to_ascii_lowercase();
    let own_port = match scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => ":443",
        Some(_) => ":80",
        None => "",
    };
    if !own_port.is_empty() && authority.ends_with(own_port) {
        authority.truncate(authority.len() - own_port.len());
    }
    (Some(authority), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: whatever is written to, the sent form has few bytes and the same effect.
    #[test]
    fn the_short_form_of_a_write_has_the_same_target() {
        let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
        let mut long = 0;
        for _ in 0..2000 {
            let host = ["shop", "Shop:443", "a:81", "b:80"][random.usize(..4)];
            let scheme = ["http", "https"][random.usize(..2)];
            let mut path = String::new();
            for _ in 0..random.usize(..4) {
                let len = [
                    0,
                    1,
                    5,
                    MAX_PATH_LEN - 1,
                    MAX_PATH_LEN,
                    MAX_PATH_LEN + 1,
                    7000,
                ][random.usize(..7)];
                path.push('/');
                path.push_str(&["x", "é", "#", "?"][random.usize(..4)].repeat(len));
            }
            path.push_str(&"/".repeat([0, 1, 2, 7000][random.usize(..4)]));
            let url = format!("{scheme}://{host}{path}");
            let (short, full) = (WriteTarget::short(&url), WriteTarget::from_url(&url));
            assert_eq!(WriteTarget::from_url(&short), full, "{short}");
            assert_eq!(WriteTarget::short(&short), short);
            assert!(
                short.len() <= host.len() + 2 * 65 + MAX_PATH_LEN + 8,
                "{short}"
            );
            long += usize::from(short.contains('#'));
        }
        assert!(long > 100);
    }

    #[test]
    fn nothing_else_is_read_as_digests() {
        let long = format!("http://a/list/{}", "x".repeat(MAX_PATH_LEN));
        let short = WriteTarget::short(&long).into_owned();
        assert!(
            short.starts_with("http://a#") && short.ends_with("/list"),
            "{short}"
        );
        let digests = &short["http://a#".len()..short.len() - "/list".len()];
        let list = format!("/{}", "y".repeat(MAX_PATH_LEN));
        for other in [
            format!("#{}", &digests[1..]),
            format!("#{digests}list"),
            format!("#{digests}#"),
            format!("#{digests}#{digests}/"),
            format!("#{digests}{list}"),
            format!("#+{}", &digests[1..]),
            format!("#{}é{}", &digests[..31], &digests[..31]),
            format!("/#{digests}"),
            format!("/x#{digests}"),
        ] {
            let written = WriteTarget::from_url(&format!("http://a{other}"));
            assert!(matches!(written.item, HostPath::Path(_)), "{other}");
        }
    }
}
