//! Verdicts derived from the service's responses.

use std::sync::Arc;

use bytes::Bytes;
use edgeway_base::http::{has_token, list_of};
use edgeway_core::chain::{Outcome, Reply, ReplyBody};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

/// Verdict of the service.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Allowed(Arc<AllowedRequest>),
    Denied(Arc<Denied>),
}

/// The request passes.
#[derive(Debug)]
pub(super) struct AllowedRequest {
    /// Values for the backend, in the order of the names.
    pub(super) copied: Box<[Vec<HeaderValue>]>,
    pub(super) user: Option<Arc<str>>,
    may_be_cached: bool,
}

/// The client gets this response instead.
#[derive(Debug)]
pub(super) struct Denied {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Response that neither allows nor denies the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoVerdict {
    /// The service fails (5xx).
    Fails(StatusCode),
    /// The response to this request cannot be interpreted.
    Unclear(StatusCode),
}

/// Hop-by-hop headers of the connection to the service, and headers that the gateway writes itself.
const GATEWAY_HEADERS: [HeaderName; 11] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::DATE,
    header::SERVER,
    header::ALT_SVC,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

impl Verdict {
    /// Derives the verdict from a status. A 4xx is about this request, whatever its problem: it
    /// denies this request, and has no effect on others.
    pub(super) fn from_response(
        response: Response<Bytes>,
        copied: &[HeaderName],
        user: Option<&HeaderName>,
    ) -> Result<Self, NoVerdict> {
        let (mut parts, body) = response.into_parts();
        let headers = &mut parts.headers;
        match parts.status.as_u16() {
            200..=299 => {
                let all = |name: &HeaderName| headers.get_all(name).iter().cloned().collect();
                let user = user.and_then(|name| str::from_utf8(headers.get(name)?.as_bytes()).ok());
                Ok(Self::Allowed(Arc::new(AllowedRequest {
                    copied: copied.iter().map(all).collect(),
                    user: user.filter(|user| !user.is_empty()).map(Into::into),
                    may_be_cached: may_be_cached(headers),
                })))
            }
            400..=499 => Ok(Self::denied(parts.status, parts.headers, body)),
            301 | 302 | 303 | 307 | 308 if headers.contains_key(header::LOCATION) => {
                Ok(Self::denied(parts.status, parts.headers, body))
            }
            500..=599 => Err(NoVerdict::Fails(parts.status)),
            _ => Err(NoVerdict::Unclear(parts.status)),
        }
    }

    fn denied(status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Self {
        let named: Vec<_> = list_of(&headers, &header::CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .collect();
        for name in GATEWAY_HEADERS.iter().chain(&named) {
            headers.remove(name);
        }
        Self::Denied(Arc::new(Denied {
            status,
            headers,
            body,
        }))
    }

    /// Returns true if the verdict also applies to other identical requests. A cookie is for one
    /// client; a redirect to a login form, or a problem of one request, is for one time.
    pub(super) fn may_be_cached(&self) -> bool {
        match self {
            Self::Allowed(allowed) => allowed.may_be_cached,
            Self::Denied(denied) => {
                let is_no = matches!(
                    denied.status,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                );
                is_no && may_be_cached(&denied.headers)
            }
        }
    }
}

fn may_be_cached(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::SET_COOKIE)
        && !has_token(headers, &header::CACHE_CONTROL, "no-store")
        && !has_token(headers, &header::CACHE_CONTROL, "no-cache")
}

impl Denied {
    pub(super) fn outcome(&self) -> Outcome {
        match self.status {
            StatusCode::UNAUTHORIZED => Outcome::Invalid,
            // A redirect to the login page.
            status if status.is_redirection() => Outcome::Missing,
            _ => Outcome::Denied,
        }
    }

    /// Returns the gateway's own page: for 401, with the challenges, and 403. Any other refusal is
    /// none that a client should see.
    pub(super) fn own_page(&self) -> Reply {
        let status = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.status,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut reply = Reply::empty(status);
        reply.body = ReplyBody::Page { detail: None };
        if status == StatusCode::UNAUTHORIZED {
            for challenge in self.headers.get_all(header::WWW_AUTHENTICATE) {
                reply = reply.header(header::WWW_AUTHENTICATE, challenge.clone());
            }
        }
        reply
    }

    /// Returns the response as it arrived, with `no-store` if it has no `Cache-Control`: browsers
    /// would cache some redirects forever.
    pub(super) fn reply(&self) -> Reply {
        let mut reply = Reply::empty(self.status);
        for (name, value) in &self.headers {
            if *name != header::CONTENT_TYPE {
                reply = reply.header(name.clone(), value.clone());
            }
        }
        if !self.headers.contains_key(header::CACHE_CONTROL) {
            let no_store = HeaderValue::from_static("no-store");
            reply = reply.header(header::CACHE_CONTROL, no_store);
        }
        if !self.body.is_empty() {
            reply.body = ReplyBody::Bytes {
                content_type: self.headers.get(header::CONTENT_TYPE).cloned(),
                body: self.body.clone(),
            };
        }
        reply
    }
}
