//! `Cache-Status` header: how the cache handled a request (RFC 9211).

use http::HeaderValue;

/// Largest integer of structured fields: they have at most 15 digits.
const MAX_INTEGER: i64 = 999_999_999_999_999;

/// The gateway's member of `Cache-Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    pub served: Served,
    /// Status of the origin's response, where the client gets another one.
    pub forward_status: Option<u16>,
    /// Seconds of freshness left, negative if stale ([`super::Lifetime::ttl`]).
    pub ttl: Option<i64>,
    /// True if the origin's response is stored.
    pub is_stored: bool,
    /// True if the request waited for that of another client.
    pub is_collapsed: bool,
    /// The cache key, if the route exposes it.
    pub key: Option<&'a str>,
    /// A fixed reason, such as [`super::NotStorable::reason`].
    pub detail: Option<&'static str>,
}

/// Source of the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Served {
    /// The cache, without a request to the origin; stale or not.
    #[default]
    Hit,
    /// The origin.
    Forward(Forward),
}

edgeway_base::enum_table! {
    /// Reason why the request was forwarded to the origin (RFC 9211, 2.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Forward => word {
        /// The route does not use the cache for this request.
        Bypass = "bypass",
        /// The semantics of the method require a request to the origin.
        Method = "method",
        /// No response is stored for this target.
        UriMiss = "uri-miss",
        /// A response is stored, but `Vary` selects none for this request.
        VaryMiss = "vary-miss",
        /// A response is stored, but the request's directives do not allow its use.
        Request = "request",
        /// A response is stored, but it is stale.
        Stale = "stale",
        /// Part of a response is stored.
        Partial = "partial",
    }
}

impl CacheStatus<'_> {
    /// Creates a member with `served` and no other parameters, such as `Edgeway; hit`.
    pub fn new(served: Served) -> Self {
        Self {
            served,
            ..Self::default()
        }
    }

    /// Returns the field value, to be appended as a line: caches nearer to the client follow.
    pub fn value(&self) -> HeaderValue {
        let mut text = Vec::with_capacity(64);
        text.extend_from_slice(b"Edgeway");
        match self.served {
            Served::Hit => text.extend_from_slice(b"; hit"),
            Served::Forward(why) => {
                text.extend_from_slice(b"; fwd=");
                text.extend_from_slice(why.word().as_bytes());
            }
        }
        if let Some(status) = self.forward_status {
            text.extend_from_slice(b"; fwd-status=");
            text.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        }
        if let Some(ttl) = self.ttl {
            text.extend_from_slice(b"; ttl=");
            let ttl = ttl.clamp(-MAX_INTEGER, MAX_INTEGER);
            text.extend_from_slice(itoa::Buffer::new().format(ttl).as_bytes());
        }
        if self.is_stored {
            text.extend_from_slice(b"; stored");
        }
        if self.is_collapsed {
            text.extend_from_slice(b"; collapsed");
        }
        if let Some(key) = self.key {
            text.extend_from_slice(b"; key=");
            put_string(&mut text, key);
        }
        if let Some(detail) = self.detail {
            text.extend_from_slice(b"; detail=");
            text.extend_from_slice(detail.as_bytes());
        }
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
            .expect("it is made of visible ASCII")
    }
}

/// Writes a string of structured fields. Characters outside visible ASCII become `?`.
fn put_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => out.push(b'?'),
        }
    }
    out.push(b'"');
}
