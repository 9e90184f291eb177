//! Consistent hashing with a ring as in ketama: a backend that is added or removed moves only its
//! own share of the keys.

use std::{net::IpAddr, sync::Arc};

use derive_more::Display;
use http::HeaderName;
use pingora::http::RequestHeader;

use crate::{backend::Backend, base::query::cookies};

/// Property of a request that is hashed. A request that lacks it is hashed by client address.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub(crate) enum HashKey {
    #[display("client.ip")]
    ClientIp,
    /// Path as sent.
    #[display("path")]
    Path,
    /// Path and query as sent.
    #[display("uri")]
    Uri,
    #[display("header:{_0}")]
    Header(HeaderName),
    #[display("cookie:{_0}")]
    Cookie(String),
    /// First value of a query parameter, as sent.
    #[display("query:{_0}")]
    Query(String),
}

impl HashKey {
    /// Names in configuration and messages.
    pub(crate) const NAMES: [&'static str; 6] = [
        "client.ip",
        "path",
        "uri",
        "header:NAME",
        "cookie:NAME",
        "query:NAME",
    ];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some((kind, name)) = text.split_once(':') {
            if name.is_empty() {
                return None;
            }
            return match kind {
                "header" => HeaderName::from_bytes(name.as_bytes())
                    .ok()
                    .map(Self::Header),
                "cookie" => Some(Self::Cookie(name.to_owned())),
                "query" => Some(Self::Query(name.to_owned())),
                _ => None,
            };
        }
        match text {
            "client.ip" => Some(Self::ClientIp),
            "path" => Some(Self::Path),
            "uri" => Some(Self::Uri),
            _ => None,
        }
    }

    pub(crate) fn hash(&self, request: &RequestHeader, client: IpAddr) -> u64 {
        let part = match self {
            Self::ClientIp => None,
            Self::Path => Some(request.uri.path().as_bytes()),
            Self::Uri => request
                .uri
                .path_and_query()
                .map(|uri| uri.as_str().as_bytes()),
            Self::Header(name) => request.headers.get(name).map(http::HeaderValue::as_bytes),
            Self::Cookie(name) => {
                cookies(&request.headers, name.as_bytes()).find(|value| !value.is_empty())
            }
            Self::Query(name) => query(request.uri.query().unwrap_or(""), name),
        };
        match (part.filter(|part| !part.is_empty()), client.to_canonical()) {
            (Some(part), _) => hash64(part),
            (None, IpAddr::V4(ip)) => hash64(&ip.octets()),
            (None, IpAddr::V6(ip)) => hash64(&ip.octets()),
        }
    }
}

fn query<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .map(str::as_bytes)
}

/// Points of a backend of weight 1: enough that shares differ by a few percent only.
const POINTS: u64 = 160;
/// Limit of points in total; heavier weights are scaled down to fit.
const MAX_POINTS: u64 = 1 << 16;
/// Points that a key tries before a scan of all backends.
const MAX_PROBES: usize = 32;

/// Points on a circle, each owned by a backend; a key belongs to the next point.
#[derive(Debug)]
pub(crate) struct Ring(Box<[(u64, u16)]>);

impl Ring {
    /// Creates a ring from addresses and weights, in the order of the members.
    pub(crate) fn new<'a>(backends: impl Iterator<Item = (&'a str, u16)> + Clone) -> Self {
        let total: u64 = backends.clone().map(|(_, w)| u64::from(w) * POINTS).sum();
        let mut points = Vec::new();
        for (index, (address, weight)) in backends.enumerate() {
            let mut count = u64::from(weight) * POINTS;
            if total > MAX_POINTS {
                count = (count * MAX_POINTS / total).max(1);
            }
            let seed = hash64(address.as_bytes());
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            points.extend((1..=count).map(|point| (scramble(seed ^ scramble(point)), index)));
        }
        points.sort_unstable();
        Self(points.into_boxed_slice())
    }

    /// Returns the owner of `key`, or the next admitted backend on the circle.
    pub(crate) fn choose(
        &self,
        list: &[Arc<Backend>],
        key: u64,
        admits: impl Fn(&Backend) -> bool,
    ) -> Option<usize> {
        let start = self.0.partition_point(|(point, _)| *point < key);
        for step in 0..MAX_PROBES.min(self.0.len()) {
            let (_, index) = self.0[(start + step) % self.0.len()];
            let index = usize::from(index);
            if admits(list.get(index)?) {
                return Some(index);
            }
        }
        // Most backends are out. Taking the highest hash of key and backend among the rest is
        // equally stable, and needs no walk around the whole circle.
        (0..list.len())
            .filter(|index| admits(&list[*index]))
            .max_by_key(|index| scramble(key ^ list[*index].id().0))
    }
}

/// FNV-1a with a finalizer: the same in every process and on every machine, which keys and cookies
/// need. Not for keys where collisions help an attacker.
pub(crate) fn hash64(bytes: &[u8]) -> u64 {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    scramble(sum)
}

/// Spreads every bit over all (the finalizer of splitmix64).
fn scramble(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_written() {
        for text in [
            "client.ip",
            "path",
            "uri",
            "header:x-user",
            "cookie:sid",
            "query:id",
        ] {
            assert_eq!(HashKey::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "ip", "header:", "header:a b", "jwt:sub", "path:x"] {
            assert_eq!(HashKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_missing_key_falls_to_the_client() {
        let mut request = RequestHeader::build("GET", b"/a?id=7&user=", None).unwrap();
        request.append_header("x-user", "ada").unwrap();
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let by_client = HashKey::ClientIp.hash(&request, client);
        let key = |text: &str| HashKey::parse(text).unwrap().hash(&request, client);
        assert_eq!(key("header:x-none"), by_client);
        assert_eq!(key("cookie:sid"), by_client);
        assert_eq!(key("query:user"), by_client, "empty is missing");
        assert_eq!(key("query:id"), hash64(b"7"));
        assert_eq!(key("header:x-user"), hash64(b"ada"));
        assert_eq!(key("path"), hash64(b"/a"));
        assert_eq!(key("uri"), hash64(b"/a?id=7&user="));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(HashKey::ClientIp.hash(&request, mapped), by_client);
    }
}
