//! Builder of cache keys whose parts cannot run into one another.

use http::HeaderName;

/// Collects the parts of a cache key, each prefixed with its length.
///
/// `("ab", "c")` and `("a", "bc")` are different keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    /// Starts a key with enough capacity for most keys.
    pub fn roomy() -> Self {
        Self(Vec::with_capacity(128))
    }

    /// Adds parts that are already length-prefixed.
    pub fn framed(&mut self, parts: &Self) {
        self.0.extend_from_slice(&parts.0);
    }

    /// Adds one part. `name` identifies its kind, so that two filters never collide.
    pub fn part(&mut self, name: &'static str, value: &[u8]) {
        for bytes in [name.as_bytes(), value] {
            self.0
                .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            self.0.extend_from_slice(bytes);
        }
    }

    /// Adds a header that the gateway writes into the request for a backend.
    pub fn written(&mut self, name: &HeaderName, value: &[u8]) {
        self.part("written", name.as_str().as_bytes());
        self.part("=", value);
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the parts in `bytes` as name and value; stops at the first invalid one.
    pub fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        std::iter::from_fn(move || Some((framed(&mut bytes)?, framed(&mut bytes)?)))
    }
}

fn framed<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let (framed, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    Some(framed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_one_another() {
        let key = |parts: &[(&'static str, &str)]| {
            let mut key = KeyBuilder::default();
            for (name, value) in parts {
                key.part(name, value.as_bytes());
            }
            key
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("a", "bcd")]));
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
    }

    #[test]
    fn parts_can_be_read_again() {
        let mut key = KeyBuilder::default();
        key.part("by", b"jwt.sub");
        key.part("=", b"");
        let bytes = key.as_bytes();
        let read: Vec<_> = KeyBuilder::parts(bytes).collect();
        assert_eq!(read, [(&b"by"[..], &b"jwt.sub"[..]), (b"=", b"")]);
        assert_eq!(KeyBuilder::parts(&bytes[..bytes.len() - 1]).count(), 1);
        assert_eq!(KeyBuilder::parts(&[0xff; 40]).count(), 0);
    }
}
