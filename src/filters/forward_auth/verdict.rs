//! What the service's answer means.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    base::http::has_token,
    chain::{Outcome, Reply, ReplyBody},
};

/// The service has said something.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Allowed(Arc<Allowed>),
    Denied(Arc<Denied>),
}

/// The request passes.
#[derive(Debug)]
pub(super) struct Allowed {
    /// For the backend, in the order of the names.
    pub(super) copied: Box<[Vec<HeaderValue>]>,
    pub(super) user: Option<Arc<str>>,
    may_be_kept: bool,
}

/// The client gets this answer instead.
#[derive(Debug)]
pub(super) struct Denied {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What is neither a yes nor a no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoVerdict {
    /// The service fails (5xx).
    Fails(StatusCode),
    /// It says something that means nothing here, of this request.
    Unclear(StatusCode),
}

/// What is between the service and us, or what the gateway writes itself.
const OURS: [HeaderName; 11] = [
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
    /// What a status means. One of the class 4xx is about this request, whatever is wrong with
    /// it: it is a no, which says nothing of other requests.
    pub(super) fn of(
        answer: Response<Bytes>,
        copied: &[HeaderName],
        user: Option<&HeaderName>,
    ) -> Result<Self, NoVerdict> {
        let (mut parts, body) = answer.into_parts();
        let headers = &mut parts.headers;
        match parts.status.as_u16() {
            200..=299 => {
                let all = |name: &HeaderName| headers.get_all(name).iter().cloned().collect();
                let user = user.and_then(|name| headers.get(name)?.to_str().ok());
                Ok(Self::Allowed(Arc::new(Allowed {
                    copied: copied.iter().map(all).collect(),
                    user: user.filter(|user| !user.is_empty()).map(Into::into),
                    may_be_kept: may_be_kept(headers),
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
        for name in &OURS {
            headers.remove(name);
        }
        Self::Denied(Arc::new(Denied {
            status,
            headers,
            body,
        }))
    }

    /// Whether it is meant for whoever asks the same, too: a cookie is for one; a way to a form
    /// to log in, or what was wrong with one question, for one time.
    pub(super) fn may_be_kept(&self) -> bool {
        match self {
            Self::Allowed(allowed) => allowed.may_be_kept,
            Self::Denied(denied) => {
                let is_no = matches!(
                    denied.status,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                );
                is_no && may_be_kept(&denied.headers)
            }
        }
    }
}

fn may_be_kept(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::SET_COOKIE)
        && !has_token(headers, &header::CACHE_CONTROL, "no-store")
        && !has_token(headers, &header::CACHE_CONTROL, "no-cache")
}

impl Denied {
    pub(super) fn outcome(&self) -> Outcome {
        match self.status {
            StatusCode::UNAUTHORIZED => Outcome::Invalid,
            // To where one logs in.
            status if status.is_redirection() => Outcome::Missing,
            _ => Outcome::Denied,
        }
    }

    /// The answer as it came; browsers keep some redirects for ever unless told not to.
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
            let usual = HeaderValue::from_static("application/octet-stream");
            reply.body = ReplyBody::Bytes {
                content_type: self
                    .headers
                    .get(header::CONTENT_TYPE)
                    .cloned()
                    .unwrap_or(usual),
                body: self.body.clone(),
            };
        }
        reply
    }
}
