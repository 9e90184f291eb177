//! Requests for the stored responses of a release that were requested most, so that another release
//! can be asked for the same before its visitors come.
//!
//! A stored response has a key and no request. A request is put together from the key, and counts
//! only if the gateway's own rules make the same key of it again: whatever a key depends on, no
//! request is sent that visitors would not send.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use edgeway_base::{clock::Clock, query};
use edgeway_cache::{
    key::Key,
    policy::{SentHeaders, Vary},
    store::Entry,
};
use edgeway_core::chain::{Certificate, Exchange, KeyBuilder, RequestFacts, Scheme};
use edgeway_routes::{self as routes, Params, Target};
use edgeway_upstreams::Upstream;
use http::{HeaderValue, Method, header};
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::{Gateway, ListenAddress, Listener, RouteCache, explain};

/// Values of `Accept-Encoding` that browsers send, for responses that vary by it.
const ENCODINGS: [&str; 4] = [
    "gzip, deflate, br, zstd",
    "gzip, deflate, br",
    "gzip, deflate",
    "gzip",
];

/// Stored responses that are looked at for each request that is wanted: some cannot be requested
/// without headers that only their client knows.
const LOOKS: usize = 4;

/// Request to a listener of this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUpRequest {
    /// URL in which `Host` is the host.
    pub url: String,
    pub headers: Vec<(String, String)>,
    /// Name of the listener.
    pub listener: String,
    pub is_tls: bool,
}

/// Requests that prepare a release.
#[derive(Debug, Default)]
pub struct WarmUpList {
    /// The most requested one first.
    pub requests: Vec<WarmUpRequest>,
    /// Number of responses that no request was found for, although they are among the most
    /// requested.
    pub left_out: usize,
}

/// Parts of a request that a key names.
struct KeyedRequest {
    scheme: Scheme,
    /// Host and port in the browser's address bar.
    public: String,
    host: String,
    target: Vec<u8>,
    headers: Vec<(&'static str, String)>,
}

impl Gateway {
    /// Returns requests for at most `max` stored responses of `release`.
    pub fn warm_up(&self, upstream: &Upstream, release: &str, max: usize) -> WarmUpList {
        let mut list = WarmUpList::default();
        let mut apps = self.app_releases.iter();
        let releases = apps.find(|(own, _)| own.name == upstream.name);
        let build = releases.and_then(|(_, releases)| releases.build(release));
        let (Some(cache), Some(build)) = (&self.cache, build) else {
            return list;
        };
        let mark = build.mark.to_be_bytes();
        let is_of_release = |entry: &Entry| {
            let mut parts = KeyBuilder::parts(entry.key().extra());
            entry.status.is_success() && parts.any(|part| part == (&b"build"[..], &mark[..]))
        };
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        cache.store().for_each(|entry| {
            entries.extend(is_of_release(entry).then(|| Arc::clone(entry)));
        });
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.popularity()));
        for entry in entries.iter().take(max.saturating_mul(LOOKS)) {
            if list.requests.len() == max {
                break;
            }
            match self.request_for(entry, upstream, release) {
                Some(request) => list.requests.push(request),
                None => list.left_out += 1,
            }
        }
        list
    }

    /// Returns a request that would be served with this stored response.
    fn request_for(
        &self,
        entry: &Entry,
        upstream: &Upstream,
        release: &str,
    ) -> Option<WarmUpRequest> {
        let named = KeyedRequest::by(entry.key())?;
        let mut listeners = self.listeners.iter();
        listeners.find_map(|listener| self.request_to(listener, &named, entry, upstream, release))
    }

    fn request_to(
        &self,
        listener: &Listener,
        named: &KeyedRequest,
        entry: &Entry,
        upstream: &Upstream,
        release: &str,
    ) -> Option<WarmUpRequest> {
        if listener.redirect.is_some() && named.scheme == Scheme::Http {
            return None;
        }
        let peer = peer_of(listener)?;
        let is_tls = listener.tls.is_some();
        let scheme = if is_tls { Scheme::Https } else { Scheme::Http };
        let mut headers = named.headers.clone();
        if scheme != named.scheme {
            headers.push(("x-forwarded-proto", named.scheme.as_str().to_owned()));
        }
        if named.host != named.public {
            headers.push(("x-forwarded-host", named.public.clone()));
        }
        let mut facts = RequestFacts::new(Clock::default().now());
        facts.client.ip = peer;
        facts.client.peer = peer;
        // The gateway takes a request with the secret of the warm-up for one of a trusted proxy.
        facts.client.is_trusted = true;
        facts.client.scheme = named.scheme;
        facts.client.listener = Arc::clone(&listener.name);
        if listener.tls.as_ref().is_some_and(|tls| tls.asks_clients) {
            facts.client.certificate = Certificate::Absent;
        }
        facts.release = Some(release.into());
        let encodings = ENCODINGS.into_iter().map(Some);
        for encoding in [None].into_iter().chain(encodings) {
            let mut headers = headers.clone();
            if let Some(encoding) = encoding {
                headers.push(("accept-encoding", encoding.to_owned()));
            }
            let head = named.head(&headers)?;
            if !self.is_served_with(&head, &mut facts, entry, upstream)? {
                continue;
            }
            let url = format!(
                "{}://{}{}",
                scheme.as_str(),
                named.host,
                std::str::from_utf8(&named.target).ok()?
            );
            let text = |(name, value): (&str, String)| (name.to_owned(), value);
            return Some(WarmUpRequest {
                url,
                headers: headers.into_iter().map(text).collect(),
                listener: listener.name.to_string(),
                is_tls,
            });
        }
        None
    }

    /// Returns true if a request has the key and the variant of `entry`; `None` if it has another
    /// key.
    fn is_served_with(
        &self,
        head: &RequestHeader,
        facts: &mut RequestFacts,
        entry: &Entry,
        upstream: &Upstream,
    ) -> Option<bool> {
        let host = head.headers.get(header::HOST)?.as_bytes();
        let host = routes::host_of(host).ok()?;
        let listener = Arc::clone(&facts.client.listener);
        let target = Target {
            listener: &listener,
            ..Target::new(&host, head.raw_path())
        };
        let mut params = Params::default();
        let matched = self.table.find(&target, head, &mut params)?;
        let route = self.route(matched.route)?;
        let is_to_it = |own: &Arc<Upstream>| own.name == upstream.name;
        let cache = route.cache.as_ref()?;
        if !route.upstream.as_ref().is_some_and(is_to_it) {
            return None;
        }
        facts.route = Some(Arc::clone(&route.name));
        facts.class = routes::classify(target.path, head);
        let rewritten = explain::sent_on(route, &target, &params);
        let mut ex = Exchange::new(head, facts);
        let rewritten = rewritten.as_deref().map(str::as_bytes);
        let seen = cache.recognise(&mut ex, Some(&*upstream.name), rewritten, &route.chain);
        let seen = seen.ok()?;
        (seen.key == *entry.key()).then(|| selects(head, entry, cache))
    }
}

/// Returns true if a request with the key of `entry` selects this variant of the response.
fn selects(head: &RequestHeader, entry: &Entry, cache: &RouteCache) -> bool {
    match entry.vary() {
        Vary::Nothing => true,
        Vary::Everything => false,
        vary @ Vary::Fields(_) => {
            let sent = SentHeaders::of_client(&head.headers, &cache.unchanged);
            sent.variance(vary) == Some(entry.variance())
        }
    }
}

/// Returns the address from which a process on this machine reaches a listener; `None` if it cannot
/// be asked like that.
fn peer_of(listener: &Listener) -> Option<IpAddr> {
    if listener.proxy_protocol.is_some() {
        return None;
    }
    match &listener.address {
        ListenAddress::Tcp(address) => Some(address_on_machine(address.ip())),
        ListenAddress::All(_) => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ListenAddress::Unix { .. } => None,
    }
}

/// Returns the address by which a socket that listens on `address` is reached on this machine.
pub fn address_on_machine(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(it) if it.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(it) if it.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    }
}

impl KeyedRequest {
    /// Returns the request that a key describes; `None` if it is of no use for another release.
    fn by(key: &Key) -> Option<Self> {
        let public = std::str::from_utf8(key.authority()).ok()?.to_owned();
        let scheme = if key.as_bytes().starts_with(b"https://") {
            Scheme::Https
        } else {
            Scheme::Http
        };
        let mut target = key.path().to_vec();
        if let Some(query) = key.query() {
            // The other release has another id.
            if query::values(query, b"dpl").next().is_some() {
                return None;
            }
            target.push(b'?');
            target.extend_from_slice(query);
        }
        let mut named = Self {
            scheme,
            host: public.clone(),
            public,
            target,
            headers: Vec::new(),
        };
        for (name, value) in KeyBuilder::parts(key.extra()) {
            let text = std::str::from_utf8(value).map(str::to_owned);
            let header = match name {
                b"rsc" => "rsc",
                b"prefetch" => "next-router-prefetch",
                b"segment" => "next-router-segment-prefetch",
                b"port" => "x-forwarded-port",
                b"image" => {
                    let accepted = match value {
                        b"b" => "image/avif,image/webp",
                        b"a" => "image/avif",
                        b"w" => "image/webp",
                        _ => "image/png",
                    };
                    named.headers.push(("accept", accepted.to_owned()));
                    continue;
                }
                b"host" => {
                    named.host = text.ok()?;
                    continue;
                }
                // The path of such data has the id of its build.
                b"data" => return None,
                _ => continue,
            };
            named.headers.push((header, text.ok()?));
        }
        Some(named)
    }

    fn head(&self, headers: &[(&'static str, String)]) -> Option<RequestHeader> {
        let mut head = RequestHeader::build(Method::GET, &self.target, None).ok()?;
        let host = HeaderValue::from_str(&self.host).ok()?;
        head.insert_header(header::HOST, host).ok()?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).ok()?;
            head.insert_header(*name, value).ok()?;
        }
        Some(head)
    }
}
