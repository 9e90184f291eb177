//! `Cache-Status`: what the cache did for a request (RFC 9211).

use http::HeaderValue;

use crate::base::digits::put_number;

/// One member of `Cache-Status`, ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    pub served: Served,
    /// What the origin answered, where that is not what the client gets.
    pub forward_status: Option<u16>,
    /// Seconds of freshness left, below zero for what is stale ([`super::Lifetime::ttl`]).
    pub ttl: Option<i64>,
    /// The origin's answer is kept.
    pub is_stored: bool,
    /// The request waited for that of another client.
    pub is_collapsed: bool,
    /// The key, where the route shows it.
    pub key: Option<&'a str>,
    /// A short fixed word, such as [`super::Refusal::reason`].
    pub detail: Option<&'static str>,
}

/// Where the answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// From the cache without the origin, stale or not.
    Hit,
    /// The origin was asked.
    Forward(Forward),
}

/// Why the origin was asked (RFC 9211, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The route does not use the cache for this request.
    Bypass,
    /// The method cannot be answered from a cache.
    Method,
    /// Nothing is kept for this target.
    UriMiss,
    /// Something is, but for requests with other headers.
    VaryMiss,
    /// There is an answer, but the client does not want it as it is.
    Request,
    /// There is one, but it is stale.
    Stale,
    /// There is a part of one.
    Partial,
}

impl Forward {
    pub fn word(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

impl CacheStatus<'_> {
    /// `Edgeway; hit; ttl=57`, with all that there is to say and nothing else.
    pub fn new(served: Served) -> Self {
        Self {
            served,
            forward_status: None,
            ttl: None,
            is_stored: false,
            is_collapsed: false,
            key: None,
            detail: None,
        }
    }

    /// The field's value; one line to append, caches nearer to the client stand behind.
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
            put_number(&mut text, u64::from(status));
        }
        if let Some(ttl) = self.ttl {
            text.extend_from_slice(b"; ttl=");
            if ttl < 0 {
                text.push(b'-');
            }
            // Structured fields have no longer integers.
            put_number(&mut text, ttl.unsigned_abs().min(999_999_999_999_999));
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

/// A string of structured fields. What is not ASCII is not shown.
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
