//! Access control: the `Host` header, the token, and protection from pages of other sites. Also
//! sets the common headers of all responses.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use subtle::ConstantTimeEq as _;

use super::{PeerAddress, pages};
use crate::{
    base::{
        loopback::is_loopback_host,
        metrics::{IntCounter, Metrics},
        secret::Secret,
    },
    status::actions::{ActionError, Actions, TOKEN_MISSING},
};

/// Limits of the header section, the same as the edge's defaults.
pub(super) const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 128;

/// Reachability of an admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reachability {
    /// Any user who may open the socket's file, as the file system decides. No token is required.
    Socket,
    /// Any user of this machine, including browsers with foreign pages and apps that can be made to
    /// send requests.
    Loopback,
    /// Any client that the network lets through.
    Network,
}

/// Why a request was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionReason {
    LongHead,
    Host,
    CrossSite,
    TokenMissing,
    TokenWrong,
    SocketOnly,
}

impl RejectionReason {
    pub const ALL: [Self; 6] = [
        Self::LongHead,
        Self::Host,
        Self::CrossSite,
        Self::TokenMissing,
        Self::TokenWrong,
        Self::SocketOnly,
    ];

    /// The fixed reason for response, audit log and metric.
    pub const fn word(self) -> &'static str {
        match self {
            Self::LongHead => "long_head",
            Self::Host => "host",
            Self::CrossSite => "cross_site",
            Self::TokenMissing => TOKEN_MISSING,
            Self::TokenWrong => "token_wrong",
            Self::SocketOnly => "socket_only",
        }
    }

    /// Counters of the reasons, in the order of [`Self::ALL`].
    pub fn counters(metrics: &Metrics) -> [IntCounter; Self::ALL.len()] {
        Self::ALL.map(|reason| {
            metrics.counter(
                "edgeway_admin_refused_total",
                "Requests to the admin listener that were refused.",
                &[("reason", reason.word())],
            )
        })
    }

    fn refused(self) -> ActionError {
        let (status, message) = match self {
            Self::LongHead => (
                431,
                "a request here has at most 128 headers, in a header section of at most 32 KiB",
            ),
            Self::Host => (
                421,
                "the admin listener accepts localhost and loopback addresses only",
            ),
            Self::CrossSite => (403, "a page of another site may not act here"),
            Self::TokenMissing => (401, "this needs `Authorization: Bearer TOKEN`"),
            Self::TokenWrong => (401, "this is not the token of the gateway"),
            Self::SocketOnly => (
                403,
                "over TCP without a token there are /metrics, /healthz and /readyz alone: use the \
                 admin socket, as the gateway's own user or the group `edgeway`, or write a \
                 `token` beside `admin.address`",
            ),
        };
        ActionError::new(status, self.word(), message)
    }
}

pub(super) struct Guard {
    pub(super) reach: Reachability,
    pub(super) actions: Arc<dyn Actions>,
}

/// Rejects unauthorized requests, and adds the headers that keep each response out of caches,
/// frames and reused connections.
pub(super) async fn pass(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match guard.check(&request) {
        Ok(()) => {
            peer.life.take_body();
            next.run(request).await
        }
        Err(reason) => {
            let path = request.uri().path();
            guard.actions.turned_away(peer.who, reason, path);
            let mut response = reason.refused().into_response();
            if matches!(
                reason,
                RejectionReason::TokenMissing | RejectionReason::TokenWrong
            ) {
                let challenge = HeaderValue::from_static("Bearer");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        // Connections are short-lived here, so no reuse is promised.
        (header::CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Guard {
    fn check(&self, request: &Request) -> Result<(), RejectionReason> {
        let headers = request.headers();
        if !is_bounded(request) {
            return Err(RejectionReason::LongHead);
        }
        // A socket may be forwarded to a machine with a browser.
        if self.reach != Reachability::Network && !names_this_machine(request) {
            return Err(RejectionReason::Host);
        }
        if !request.method().is_safe() && is_of_another_site(headers) {
            return Err(RejectionReason::CrossSite);
        }
        let path = request.uri().path();
        if self.reach == Reachability::Socket || pages::is_open(path) {
            return Ok(());
        }
        match (self.actions.token(), self.reach) {
            (Some(token), _) => has_token(headers, &token),
            (None, Reachability::Loopback) if path == pages::METRICS => Ok(()),
            (None, Reachability::Loopback) => Err(RejectionReason::SocketOnly),
            // The configuration requires a token there. If there is none all the same, every
            // request is rejected.
            (None, Reachability::Network | Reachability::Socket) => {
                Err(RejectionReason::TokenMissing)
            }
        }
    }
}

/// Returns true if the edge would accept a header section of this size.
fn is_bounded(request: &Request) -> bool {
    let headers = request.headers();
    let lines = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    let target = request.uri().path_and_query();
    let target = target.map_or(0, |target| target.as_str().len());
    headers.len() <= MAX_HEADERS && lines.sum::<usize>() + target <= MAX_HEAD
}

/// Checks that the request is addressed to this machine. A web page can make a browser on this
/// machine request `http://its-own-name:9900/`, with a name that it then resolves to 127.0.0.1 (DNS
/// rebinding), and read the response. The `Host` header reveals it, and so does the authority of a
/// target in absolute form, which takes precedence (RFC 9112, 3.2.2). Browsers always send one;
/// HTTP/1.0 tools need not.
fn names_this_machine(request: &Request) -> bool {
    let authority = request.uri().authority();
    authority.is_none_or(|authority| is_loopback_host(authority.host()))
        && request
            .headers()
            .get_all(header::HOST)
            .iter()
            .all(|host| host.to_str().is_ok_and(is_loopback_host))
}

/// Detects requests from pages of other sites. A page of ours is marked as such, and programs send
/// no mark. Another site's page cannot read the response, but its action would be done.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let is_cross_site = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site != "same-origin");
    let host = headers
        .get(header::HOST)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let has_other_origin = headers
        .get_all(header::ORIGIN)
        .iter()
        .any(|origin| !is_origin_of(origin.as_bytes(), host));
    is_cross_site || has_other_origin
}

/// Returns true if an origin is plain `http://HOST`. There is no TLS here.
fn is_origin_of(origin: &[u8], host: &[u8]) -> bool {
    use crate::base::origin::Origin;
    let host = std::str::from_utf8(host).unwrap_or_default();
    match (Origin::parse(origin), Origin::of("http", host)) {
        (Some(origin), Some(own)) => origin == own,
        _ => false,
    }
}

/// Checks the token, which must be in the header and nowhere else (RFC 6750, 2.1).
fn has_token(headers: &HeaderMap, token: &Secret) -> Result<(), RejectionReason> {
    let Some(shown) = bearer(headers) else {
        return Err(RejectionReason::TokenMissing);
    };
    // In constant time, independent of how much is right.
    if shown.ct_eq(token.reveal().as_bytes()).into() {
        Ok(())
    } else {
        Err(RejectionReason::TokenWrong)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_the_full_value_of_one_bearer() {
        let token = Secret::new("0123456789abcdef");
        let check = |list: &[(&'static str, &str)]| has_token(&headers(list), &token);
        for good in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert_eq!(check(&[("authorization", good)]), Ok(()), "{good}");
        }
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
            "Bearer ",
        ] {
            let found = check(&[("authorization", wrong)]);
            assert_eq!(found, Err(RejectionReason::TokenWrong), "{wrong}");
        }
        for missing in ["Basic 0123456789abcdef", "0123456789abcdef", "Bearer", ""] {
            let found = check(&[("authorization", missing)]);
            assert_eq!(found, Err(RejectionReason::TokenMissing), "{missing}");
        }
        let twice = ("authorization", "Bearer 0123456789abcdef");
        assert_eq!(check(&[]), Err(RejectionReason::TokenMissing));
        assert_eq!(check(&[twice, twice]), Err(RejectionReason::TokenMissing));
    }

    fn request(target: &str, host: &str, count: usize, length: usize) -> Request {
        let mut request = Request::builder().uri(target).header("host", host);
        for at in 1..count {
            request = request.header(format!("x-{at}"), "v".repeat(length));
        }
        request.body(axum::body::Body::empty()).unwrap()
    }

    #[test]
    fn a_name_that_is_not_this_machines_counts_wherever_it_stands() {
        for (target, host, is_ours) in [
            ("/status", "localhost:9900", true),
            ("/status", "evil.test", false),
            ("http://127.0.0.1:9900/status", "127.0.0.1:9900", true),
            ("http://evil.test:9900/status", "127.0.0.1:9900", false),
            ("http://127.0.0.1:9900/status", "evil.test", false),
            ("http://localhost@evil.test/status", "localhost", false),
            ("http://localhost:1@evil.test/status", "localhost", false),
        ] {
            let request = request(target, host, 1, 0);
            assert_eq!(names_this_machine(&request), is_ours, "{target} {host}");
        }
    }

    #[test]
    fn header_sections_are_bounded_as_at_the_edge() {
        for (count, length, is_bounded) in [
            (1, 0, true),
            (MAX_HEADERS, 10, true),
            (MAX_HEADERS + 1, 1, false),
            (5, MAX_HEAD / 4, false),
        ] {
            let request = request("/status", "localhost", count, length);
            assert_eq!(
                super::is_bounded(&request),
                is_bounded,
                "{count} × {length}"
            );
        }
    }

    #[test]
    fn a_page_of_another_site_gives_itself_away() {
        let host = ("host", "127.0.0.1:9900");
        for ours in [
            vec![host],
            vec![host, ("origin", "http://127.0.0.1:9900")],
            vec![host, ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!is_of_another_site(&headers(&ours)), "{ours:?}");
        }
        for other in [
            vec![host, ("origin", "http://127.0.0.1:3000")],
            vec![host, ("origin", "https://127.0.0.1:9900")],
            vec![host, ("origin", "null")],
            vec![("origin", "http://127.0.0.1:9900")],
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![host, ("sec-fetch-site", "same-site")],
            vec![host, ("sec-fetch-site", "none")],
        ] {
            assert!(is_of_another_site(&headers(&other)), "{other:?}");
        }
    }
}
