//! Lists of paths, as an operator writes them down.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// Paths: `/account` alone, or with all below it, `/account/*`. Every path is `/*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(Box<[Pattern]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// In lower case, without the slash at its end.
    path: Box<[u8]>,
    with_all_below: bool,
}

impl Paths {
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

    /// Whether the page of this raw path is on the list, in whichever form it is asked for:
    /// its router payload (`.rsc`), its segments, its data (`/_next/data/<build>/…json`),
    /// coded, or in capitals.
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

/// `/account` of `/_next/data/<build>/account.json`, `/account.rsc`, `/account/` and
/// `/account.segments/_tree.segment.rsc`.
fn page_of(path: &[u8]) -> &[u8] {
    let path = match path.strip_prefix(b"/_next/data/") {
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
    // The page of `/` is called `index` there.
    let path = if path == b"/index" { b"/" } else { path };
    path.strip_suffix(b"/").unwrap_or(path)
}

/// The path as the app decodes it.
pub(super) fn decoded(path: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(path).into()
}

/// Whether a segment of the path is `.` or `..`, plain or coded, or a backslash could be
/// read as the slash before one: whoever resolves it asks for another path.
pub(super) fn may_be_another(path: &[u8]) -> bool {
    if !path.contains(&b'%') && !path.contains(&b'.') && !path.contains(&b'\\') {
        return false;
    }
    let path = decoded(path);
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| segment == b"." || segment == b"..")
        || path.contains(&b'\\')
}
