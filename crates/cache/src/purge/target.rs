//! Target of a purge, parsed once and compared with many keys.

use super::{HostPath, PurgeTarget, WriteTarget, split_authority};
use crate::key::Key;

/// A purge's target, ready to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PurgeMatcher {
    Url {
        /// `None`: any.
        scheme: Option<Box<[u8]>>,
        /// `None`: any.
        authority: Option<Box<[u8]>>,
        path: Box<[u8]>,
        /// Without `_rsc`; empty if there is none.
        query: Box<[u8]>,
    },
    /// A prefix of URLs: with the authority in front, or without it for any authority.
    Prefix {
        is_of_any_authority: bool,
        prefix: Box<[u8]>,
    },
    Tag(Box<str>),
    Written(WriteTarget),
    All,
}

impl PurgeMatcher {
    pub(crate) fn new(target: &PurgeTarget) -> Self {
        match target {
            PurgeTarget::Url(url) => {
                let (authority, rest) = split_authority(url);
                let rest = rest.split('#').next().unwrap_or_default().as_bytes();
                let mut halves = rest.splitn(2, |byte| *byte == b'?');
                let path = halves.next().filter(|path| !path.is_empty());
                Self::Url {
                    scheme: None,
                    authority: authority.map(|authority| authority.into_bytes().into()),
                    path: path.unwrap_or(b"/").into(),
                    query: without_rsc(halves.next().unwrap_or_default()).into(),
                }
            }
            PurgeTarget::Prefix(url) => {
                let (authority, rest) = split_authority(url);
                let is_of_any_authority = authority.is_none();
                let prefix = authority.unwrap_or_default() + rest;
                Self::Prefix {
                    is_of_any_authority,
                    prefix: prefix.into_bytes().into(),
                }
            }
            PurgeTarget::Tag(tag) => Self::Tag(tag.as_str().into()),
            PurgeTarget::Written(url) => Self::Written(WriteTarget::from_url(url)),
            PurgeTarget::All => Self::All,
        }
    }

    /// Returns the target URI of a key with everything that is stored under it (RFC 9111, 4.4),
    /// `_rsc` forms included. Other schemes are other origins.
    pub(crate) fn of_key(key: &Key) -> Self {
        Self::Url {
            scheme: Some(key.scheme().into()),
            authority: Some(key.authority().into()),
            path: key.path().into(),
            query: without_rsc(key.query().unwrap_or_default()).into(),
        }
    }

    pub(crate) fn is_about(&self, key: &Key, tags: &[Box<str>]) -> bool {
        match self {
            Self::Url {
                scheme: wanted,
                authority,
                path,
                query,
            } => {
                key.path() == &**path
                    && authority.as_ref().is_none_or(|it| **it == *key.authority())
                    && wanted.as_ref().is_none_or(|it| **it == *key.scheme())
                    && **query == *without_rsc(key.query().unwrap_or_default())
            }
            Self::Prefix {
                is_of_any_authority,
                prefix,
            } => {
                let url = if *is_of_any_authority {
                    key.target()
                } else {
                    key.without_scheme()
                };
                url.starts_with(prefix)
            }
            Self::Tag(tag) => tags.contains(tag),
            Self::Written(target) => {
                let path = without_slash(key.path());
                let is_about = |place: &HostPath| place.is_about(&target.authority, path);
                *key.authority() == *target.authority
                    && !path.is_empty()
                    && (is_about(&target.item) || target.list.as_ref().is_some_and(is_about))
            }
            Self::All => true,
        }
    }
}

/// Strips a trailing slash: `/a/` becomes `/a`. A write does not tell the two apart.
pub(crate) fn without_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Checks for the parameter `_rsc=HASH`, which Next.js adds to the URL of a page when it requests
/// the page's data.
fn is_rsc(pair: &[u8]) -> bool {
    pair.strip_prefix(b"_rsc")
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
}

pub(crate) fn without_rsc(query: &[u8]) -> Vec<u8> {
    let pairs = query.split(|byte| *byte == b'&');
    let kept: Vec<&[u8]> = pairs.filter(|pair| !is_rsc(pair)).collect();
    kept.join(&b'&')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(url: &str) -> Key {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, target) = rest.split_at(rest.find('/').unwrap());
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.as_bytes())),
            None => (target, None),
        };
        Key::new(scheme, authority, path.as_bytes(), query, b"extra\n?/")
    }

    #[track_caller]
    fn check(target: &PurgeTarget, about: &[&str], not_about: &[&str]) {
        let matcher = PurgeMatcher::new(target);
        for url in about {
            assert!(
                matcher.is_about(&key(url), &[]),
                "{target:?} is about {url}"
            );
        }
        for url in not_about {
            assert!(
                !matcher.is_about(&key(url), &[]),
                "{target:?} is not about {url}"
            );
        }
    }

    #[test]
    fn a_url_is_of_every_scheme_and_rsc_form() {
        check(
            &PurgeTarget::Url("https://Shop:443/a".into()),
            &[
                "http://shop/a",
                "https://shop/a",
                "https://shop/a?_rsc=1abc",
                "https://shop/a?_rsc",
                "https://shop/a?",
            ],
            &[
                "https://shop/a?x=1",
                "https://shop/a?_rscx=1",
                "https://shop/a/",
                "https://shop/A",
                "https://shop/ab",
                "https://other/a",
                "https://shop:8443/a",
            ],
        );
        check(
            &PurgeTarget::Url("/a?x=1&y=2#top".into()),
            &["https://shop/a?x=1&y=2", "http://b/a?x=1&_rsc=q&y=2"],
            &[
                "https://shop/a",
                "https://shop/a?y=2&x=1",
                "https://shop/a?x=1",
            ],
        );
        check(
            &PurgeTarget::Url("shop".into()),
            &["https://shop/"],
            &["https://shop/a"],
        );
        check(
            &PurgeTarget::Url("/a?_rsc=1".into()),
            &["https://shop/a", "https://shop/a?_rsc=2"],
            &["https://shop/a?x"],
        );
    }

    #[test]
    fn a_prefix_is_the_beginning_of_urls() {
        check(
            &PurgeTarget::Prefix("/blog/".into()),
            &["https://a/blog/", "http://b/blog/x?y"],
            &["https://a/blog", "https://a/x/blog/"],
        );
        check(
            &PurgeTarget::Prefix("http://Shop/p".into()),
            &["https://shop/p", "https://shop/p/1?q"],
            &["https://shop/", "https://shop.example/p"],
        );
        check(
            &PurgeTarget::Prefix("/a?x=".into()),
            &["https://a/a?x=1"],
            &["https://a/a", "https://a/a?y=1"],
        );
    }

    #[test]
    fn an_invalidated_key_is_of_one_origin_with_all_extras() {
        let target = PurgeMatcher::of_key(&key("https://shop/a?x=1"));
        assert!(target.is_about(&key("https://shop/a?x=1"), &[]));
        assert!(target.is_about(&key("https://shop/a?x=1&_rsc=2"), &[]));
        let plain = Key::new("https", "shop", b"/a", Some(b"x=1"), b"");
        assert!(target.is_about(&plain, &[]));
        assert!(!target.is_about(&key("http://shop/a?x=1"), &[]));
        assert!(!target.is_about(&key("https://shop/a"), &[]));
    }

    #[test]
    fn a_write_is_about_the_item_and_its_list_with_any_query() {
        check(
            &PurgeTarget::Written("http://Shop/api/tasks/7".into()),
            &[
                "https://shop/api/tasks/7",
                "http://shop/api/tasks/7/",
                "http://shop/api/tasks/7?x=1",
                "http://shop/api/tasks/7/?x",
                "http://shop/api/tasks",
                "http://shop/api/tasks/?page=2",
            ],
            &[
                "http://other/api/tasks/7",
                "http://shop/api/tasks/71",
                "http://shop/api/tasks/7/a",
                "http://shop/api",
                "http://shop/",
            ],
        );
        check(
            &PurgeTarget::Written("http://shop/tasks/?q".into()),
            &["http://shop/tasks", "http://shop/tasks/?a"],
            &["http://shop/", "http://shop/?q", "http://shop/tasks/7"],
        );
        check(
            &PurgeTarget::Written("http://shop/".into()),
            &[],
            &["http://shop/", "http://shop/?q", "http://shop/a"],
        );
    }

    /// Covers paths that are reported by digests.
    #[test]
    fn a_write_to_a_long_url_is_about_the_same() {
        let long = "x".repeat(200);
        let url = |rest: &str| format!("https://shop/{long}{rest}");
        check(
            &PurgeTarget::Written(url("/7")),
            &[&url("/7"), &url("/7/?q"), &url(""), &url("/?q")],
            &[&url("/8"), &url("/7/a"), &url("x"), "https://shop/"],
        );
        let other = url("/7").replace("shop", "other");
        check(&PurgeTarget::Written(url("/7")), &[], &[&other]);
        check(
            &PurgeTarget::Written(format!("http://shop/list/{long}")),
            &["https://shop/list?page=2"],
            &["https://shop/list/x", "https://shop/"],
        );
    }

    #[test]
    fn tags_match_exactly() {
        let target = PurgeMatcher::new(&PurgeTarget::Tag("product:1".into()));
        let key = key("https://a/");
        assert!(target.is_about(&key, &["x".into(), "product:1".into()]));
        for tag in ["product:12", "product:", "PRODUCT:1", " product:1"] {
            assert!(!target.is_about(&key, &[tag.into()]));
        }
        assert!(PurgeMatcher::new(&PurgeTarget::All).is_about(&key, &[]));
    }
}
