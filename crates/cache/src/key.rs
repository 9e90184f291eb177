//! The cache key of a stored response: scheme, authority, target, and the parts that the route
//! adds.

use std::fmt;

use siphasher::sip128::{Hasher128, SipHasher13};
use triomphe::ThinArc;

use crate::allocation::allocated;

/// The primary cache key of a stored response (RFC 9111, 2): everything but what `Vary` adds.
///
/// Two keys are equal if their bytes are. The hash only finds entries: a lookup that meets an entry
/// by its hash compares the bytes, so a forged collision does not give a client another client's
/// response.
///
/// The bytes are `scheme://authority` and the target as sent, then framed parts. They lie behind
/// the `Layout` in one allocation: a lookup among a million entries reads few lines of memory.
#[derive(Clone)]
pub struct Key(ThinArc<Layout, u8>);

struct Layout {
    /// 128 bits, the upper half first: as one number they would be aligned to 16 bytes.
    hash: [u64; 2],
    /// Offset of the authority in the bytes; the next three fields are where authority, path and
    /// query end.
    authority: u32,
    path: u32,
    query: u32,
    target_end: u32,
}

impl Key {
    /// Builds a key. `path` and `query` (without its `?`) are the bytes as the client sent them.
    /// `extra` holds framed parts (`chain::KeyBuilder`): everything else by which the responses of
    /// the route differ.
    pub fn new(
        scheme: &str,
        authority: &str,
        path: &[u8],
        query: Option<&[u8]>,
        extra: &[u8],
    ) -> Self {
        let query_len = query.map_or(0, |query| query.len() + 1);
        let len = scheme.len() + 3 + authority.len() + path.len() + query_len + extra.len() + 1;
        let mut text = Vec::with_capacity(len);
        let offset = |text: &Vec<u8>| u32::try_from(text.len()).unwrap_or(u32::MAX);
        text.extend_from_slice(scheme.as_bytes());
        text.extend_from_slice(b"://");
        let authority_at = offset(&text);
        text.extend_from_slice(authority.as_bytes());
        let path_at = offset(&text);
        text.extend_from_slice(path);
        let query_at = offset(&text);
        if let Some(query) = query {
            text.push(b'?');
            text.extend_from_slice(query);
        }
        let target_end = offset(&text);
        // A target never contains a line feed.
        text.push(b'\n');
        text.extend_from_slice(extra);
        let mut hasher = SipHasher13::new();
        std::hash::Hasher::write(&mut hasher, &text);
        let hash = hasher.finish128();
        let layout = Layout {
            hash: [hash.h2, hash.h1],
            authority: authority_at,
            path: path_at,
            query: query_at,
            target_end,
        };
        Self(ThinArc::from_header_and_slice(layout, &text))
    }

    /// Parses the bytes that [`Key::as_bytes`] returned, as they are stored beside entries.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (url, extra) = (&bytes[..end], &bytes[end + 1..]);
        let scheme_end = url.windows(3).position(|three| three == b"://")?;
        let rest = &url[scheme_end + 3..];
        let path_at = rest
            .iter()
            .position(|byte| *byte == b'/')
            .unwrap_or(rest.len());
        let (authority, target) = rest.split_at(path_at);
        let mut halves = target.splitn(2, |byte| *byte == b'?');
        let path = halves.next().unwrap_or_default();
        Some(Self::new(
            std::str::from_utf8(&url[..scheme_end]).ok()?,
            std::str::from_utf8(authority).ok()?,
            path,
            halves.next(),
            extra,
        ))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0.slice
    }

    pub fn hash(&self) -> u128 {
        let [upper, lower] = self.layout().hash;
        (u128::from(upper) << 64) | u128::from(lower)
    }

    pub fn scheme(&self) -> &[u8] {
        &self.as_bytes()[..self.layout().authority as usize - "://".len()]
    }

    /// Host and port, in lower case and without the scheme's default port.
    pub fn authority(&self) -> &[u8] {
        self.between(self.layout().authority, self.layout().path)
    }

    pub fn path(&self) -> &[u8] {
        self.between(self.layout().path, self.layout().query)
    }

    /// Query without its `?`; `None` if there is none.
    pub fn query(&self) -> Option<&[u8]> {
        let all = self.between(self.layout().query, self.layout().target_end);
        all.split_first().map(|(_, query)| query)
    }

    /// Path and query.
    pub fn target(&self) -> &[u8] {
        self.between(self.layout().path, self.layout().target_end)
    }

    /// URL without its scheme, such as `shop.example.com/x?y`.
    pub fn without_scheme(&self) -> &[u8] {
        self.between(self.layout().authority, self.layout().target_end)
    }

    /// URL for humans to read, such as `https://shop.example.com/x?y`.
    pub fn url(&self) -> String {
        let url = self.between(0, self.layout().target_end);
        String::from_utf8_lossy(url).into_owned()
    }

    /// Parts that the route added, framed.
    pub fn extra(&self) -> &[u8] {
        &self.as_bytes()[self.layout().target_end as usize + 1..]
    }

    /// Returns the bytes of the key in memory, as the allocator counts them.
    pub fn size(&self) -> usize {
        // The count of references, and the length of the bytes.
        const COUNTS: usize = 2 * size_of::<usize>();
        allocated(COUNTS + size_of::<Layout>() + self.as_bytes().len())
    }

    fn between(&self, start: u32, end: u32) -> &[u8] {
        &self.as_bytes()[start as usize..end as usize]
    }

    fn layout(&self) -> &Layout {
        &self.0.header.header
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.layout().hash == other.layout().hash && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u128(self.hash());
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_its_parts_and_is_read_back() {
        let key = Key::new(
            "https",
            "shop:8443",
            b"/a%20b",
            Some(b"x=1"),
            b"\x01extra\n",
        );
        assert_eq!(key.scheme(), b"https");
        assert_eq!(key.authority(), b"shop:8443");
        assert_eq!(key.target(), b"/a%20b?x=1");
        assert_eq!(key.without_scheme(), b"shop:8443/a%20b?x=1");
        assert_eq!(key.path(), b"/a%20b");
        assert_eq!(key.query(), Some(&b"x=1"[..]));
        assert_eq!(key.extra(), b"\x01extra\n");
        assert_eq!(key.url(), "https://shop:8443/a%20b?x=1");
        assert_eq!(Key::parse(key.as_bytes()).unwrap(), key);
    }

    #[test]
    fn nothing_is_decoded_folded_or_merged() {
        let key = |path: &[u8], query: Option<&[u8]>| Key::new("http", "a", path, query, b"");
        assert_ne!(key(b"/isr", None), key(b"/%69sr", None));
        assert_ne!(key(b"/isr", None), key(b"/ISR", None));
        assert_ne!(key(b"/a/b", None), key(b"/a//b", None));
        assert_ne!(key(b"/a", None), key(b"/a", Some(b"")));
        assert_ne!(key(b"/a", Some(b"x&y")), key(b"/a", Some(b"y&x")));
        assert_eq!(key(b"/a", Some(b"")).query(), Some(&b""[..]));
    }
}
