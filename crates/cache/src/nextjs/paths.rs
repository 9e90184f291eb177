//! Lists of paths, as an operator writes them.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// Path of the image optimizer, unless the build has another.
pub(super) const IMAGE: &str = "/_next/image";
/// Beginning of the paths of the build's own files.
pub(super) const STATIC: &[u8] = b"/_next/static/";
/// Beginning of the paths of the data of pages.
pub(super) const DATA: &[u8] = b"/_next/data/";

/// Set of paths: `/account` alone, or `/account/*` for it and all below it. `/*` is every path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathSet(Box<[Pattern]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// Path in lower case, without a trailing slash.
    path: Box<[u8]>,
    with_all_below: bool,
}

impl PathSet {
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let compile = |pattern: &str| {
            let below = pattern.strip_suffix("/*");
            let path = below.unwrap_or(pattern).trim_end_matches('/');
            Pattern {
                path: path.to_ascii_lowercase().into_bytes().into(),
                with_all_below: below.is_some(),
            }
        };
        Self(patterns.into_iter().map(compile).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if the page of this raw path is on the list, in any of its forms: its router
    /// payload (`.rsc`), its segments, its data (`/_next/data/<build>/…json`), percent-encoded, or
    /// in capitals.
    pub fn have(&self, path: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let path = decoded(path).to_ascii_lowercase();
        let page = page_of(&path);
        self.0.iter().any(|pattern| pattern.is_of(page))
    }
}

impl Pattern {
    fn is_of(&self, page: &[u8]) -> bool {
        match page.strip_prefix(&*self.path) {
            Some([]) => true,
            Some([b'/', ..]) => self.with_all_below,
            _ => false,
        }
    }
}

/// Returns the page of a path: `/account` of `/_next/data/<build>/account.json`, `/account.rsc`,
/// `/account/` and `/account.segments/_tree.segment.rsc`.
pub(super) fn page_of(path: &[u8]) -> &[u8] {
    let path = match path.strip_prefix(DATA) {
        Some(rest) => match rest.iter().position(|byte| *byte == b'/') {
            Some(slash) => &rest[slash..],
            None => path,
        },
        None => path,
    };
    let end = memchr::memmem::find(path, b".segments/").unwrap_or(path.len());
    let path = &path[..end];
    let path = [&b".json"[..], b".rsc"]
        .into_iter()
        .find_map(|ending| path.strip_suffix(ending))
        .unwrap_or(path);
    // In those forms the page `/` is called `index`.
    let path = if path == b"/index" { b"/" } else { path };
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Decodes the path as the app does.
pub(super) fn decoded(path: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(path).into()
}

/// Returns true if a segment of the path is `.` or `..`, plain or percent-encoded, or a backslash
/// could be read as a slash before one: resolving it leads to another path.
pub(super) fn may_be_another(path: &[u8]) -> bool {
    if !path.contains(&b'%') && !path.contains(&b'.') && !path.contains(&b'\\') {
        return false;
    }
    let path = decoded(path);
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| segment == b"." || segment == b"..")
        || path.contains(&b'\\')
}
