//! Access control: the `Host` header, the token, and protection from pages of other sites. Also
//! sets the common headers of all responses.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use edgeway_base::{loopback::is_loopback_host, secret::Secret};
use subtle::ConstantTimeEq as _;

use super::{
    PeerAddress,
    access::{Bearer, Claim, Denial, Proof, Reachability, RejectionReason, decide},
    page,
};
use crate::{
    actions::{ActionError, Actions, OTHER_CONFIGURATION},
    sessions::{SessionId, Sessions, ShownSession},
};

/// Limits of the header section, the same as the edge's defaults.
pub(super) const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 128;

pub(super) struct Guard {
    pub(super) reach: Reachability,
    pub(super) actions: Arc<dyn Actions>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) configuration: Option<PathBuf>,
}

/// Proof by which a request was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// The path is open to anyone who can connect.
    Open,
    /// The file system let the client open the socket.
    Socket,
    Token,
    Session(ShownSession),
}

/// Rejects unauthorized requests, and adds the headers that keep each response out of caches,
/// frames and reused connections.
pub(super) async fn pass(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut response = match guard.check(&request) {
        Ok(admission) => {
            peer.life.take_body();
            request.extensions_mut().insert(admission);
            match guard.other_configuration(request.headers()) {
                Some(refusal) => refusal.into_response(),
                None => next.run(request).await,
            }
        }
        Err(Denial::Login) => see_other(page::LOGIN),
        Err(Denial::Rejected(reason)) => {
            let path = request.uri().path();
            guard.actions.turned_away(peer.who, reason, path);
            rejected(reason)
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // With `no-referrer`, browsers send forms with `Origin: null`.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        // Connections are short-lived here, so no reuse is promised.
        (header::CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

fn rejected(reason: RejectionReason) -> Response {
    if reason == RejectionReason::SessionMissing {
        return see_other(page::LOGIN_AGAIN);
    }
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

/// Creates a redirect that is followed by a GET.
pub(super) fn see_other(place: &str) -> Response {
    Redirect::to(place).into_response()
}

impl Guard {
    /// Returns the refusal of a request that is about the gateway of another file.
    fn other_configuration(&self, headers: &HeaderMap) -> Option<ActionError> {
        let wanted = hex::decode(headers.get(super::CONFIGURATION)?).ok()?;
        let wanted = PathBuf::from(OsString::from_vec(wanted));
        let served = self.configuration.as_deref();
        let is_own = served.is_some_and(|served| {
            std::path::absolute(served).is_ok_and(|served| served == wanted)
                || served
                    .canonicalize()
                    .ok()
                    .is_some_and(|served| wanted.canonicalize().is_ok_and(|it| it == served))
        });
        let serves = served.map_or_else(
            || "serves no file".to_owned(),
            |served| format!("serves `{}`", served.display()),
        );
        let wanted = wanted.display();
        let message = format!(
            "no gateway of `{wanted}` was found: the one here {serves}\n\
             help: start it with `edgeway run -c {wanted}`"
        );
        (!is_own).then(|| ActionError::new(409, OTHER_CONFIGURATION, message))
    }

    fn check(&self, request: &Request) -> Result<Admission, Denial> {
        let headers = request.headers();
        if !is_bounded(request) {
            return Err(Denial::Rejected(RejectionReason::LongHead));
        }
        // A socket may be forwarded to a machine with a browser.
        if self.reach != Reachability::Network && !names_this_machine(request) {
            return Err(Denial::Rejected(RejectionReason::Host));
        }
        let token = self.actions.token();
        let session =
            cookies(headers).find_map(|secret| self.sessions.find(secret, token.as_ref()));
        let proof = decide(Claim {
            reach: self.reach,
            path: page::kind_of(request.uri().path()),
            is_safe: request.method().is_safe(),
            is_cross_site: is_of_another_site(headers, request.method().is_safe()),
            wants_html: page::wants_html(headers),
            has_token: token.is_some(),
            bearer: shown_token(headers, token.as_ref()),
            has_session: session.is_some(),
        })?;
        Ok(match (proof, session) {
            (Proof::Session, Some(session)) => Admission::Session(session),
            (Proof::NotNeeded | Proof::Session, _) => Admission::Open,
            (Proof::Socket, _) => Admission::Socket,
            (Proof::Token, _) => Admission::Token,
        })
    }
}

impl Admission {
    /// Returns true until the session ends. Other proofs hold for the whole request.
    pub(super) fn is_current(&self, sessions: &Sessions, token: Option<&Secret>) -> bool {
        self.session()
            .is_none_or(|id| sessions.is_current(id, token))
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Session(session) => Some(session.id),
            Self::Open | Self::Socket | Self::Token => None,
        }
    }
}

/// Name of the cookie before its port.
const COOKIE: &str = "edgeway";

/// Returns the name of the session's cookie. Browsers send the cookies of a host to all of its
/// ports, and each port may be another gateway's.
pub(super) fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let port = host.and_then(|host| Some(host.rsplit_once(':')?.1));
    let is_port =
        |port: &&str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    format!("{COOKIE}_{}", port.filter(is_port).unwrap_or("80"))
}

/// Returns the values of cookies with the session's name.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let name = cookie_name(headers);
    let all = headers.get_all(header::COOKIE).iter();
    let all = all
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    all.filter_map(move |cookie| {
        let (key, value) = cookie.trim().split_once('=')?;
        (key == name).then_some(value)
    })
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
///
/// A browser marks the address that its user typed as of no site, which no action is.
fn is_of_another_site(headers: &HeaderMap, is_safe: bool) -> bool {
    let is_cross_site = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site != "same-origin" && !(is_safe && site == "none"));
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
    use edgeway_base::origin::Origin;
    let host = std::str::from_utf8(host).unwrap_or_default();
    match (Origin::parse(origin), Origin::new("http", host)) {
        (Some(origin), Some(own)) => origin == own,
        _ => false,
    }
}

/// Compares the token, which must be in the header and nowhere else (RFC 6750, 2.1).
fn shown_token(headers: &HeaderMap, token: Option<&Secret>) -> Bearer {
    let Some(shown) = bearer(headers) else {
        return Bearer::Absent;
    };
    // In constant time, independent of how much is right.
    let is_right = |token: &Secret| bool::from(shown.ct_eq(token.reveal().as_bytes()));
    if token.is_some_and(is_right) {
        Bearer::Right
    } else {
        Bearer::Wrong
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
        let check = |list: &[(&'static str, &str)]| shown_token(&headers(list), Some(&token));
        for good in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert_eq!(check(&[("authorization", good)]), Bearer::Right, "{good}");
            let found = shown_token(&headers(&[("authorization", good)]), None);
            assert_eq!(found, Bearer::Wrong, "{good}");
        }
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
            "Bearer ",
        ] {
            let found = check(&[("authorization", wrong)]);
            assert_eq!(found, Bearer::Wrong, "{wrong}");
        }
        for missing in ["Basic 0123456789abcdef", "0123456789abcdef", "Bearer", ""] {
            let found = check(&[("authorization", missing)]);
            assert_eq!(found, Bearer::Absent, "{missing}");
        }
        let twice = ("authorization", "Bearer 0123456789abcdef");
        assert_eq!(check(&[]), Bearer::Absent);
        assert_eq!(check(&[twice, twice]), Bearer::Absent);
    }

    #[test]
    fn a_cookie_belongs_to_a_port() {
        for (host, name) in [
            ("localhost:9900", "edgeway_9900"),
            ("localhost", "edgeway_80"),
            ("[::1]:9901", "edgeway_9901"),
            ("[::1]", "edgeway_80"),
            ("127.0.0.1:", "edgeway_80"),
            ("a:1234567", "edgeway_80"),
            ("a:1;b", "edgeway_80"),
        ] {
            assert_eq!(cookie_name(&headers(&[("host", host)])), name, "{host}");
        }
        let sent = headers(&[
            ("host", "localhost:9900"),
            (
                "cookie",
                "a=b; edgeway_9900=one; edgeway_9901=other;edgeway_9900=two",
            ),
            ("cookie", "edgeway_9900 =no; xedgeway_9900=no; edgeway_9900"),
        ]);
        assert_eq!(cookies(&sent).collect::<Vec<_>>(), ["one", "two"]);
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
            assert!(!is_of_another_site(&headers(&ours), false), "{ours:?}");
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
            assert!(is_of_another_site(&headers(&other), false), "{other:?}");
        }
    }
}
