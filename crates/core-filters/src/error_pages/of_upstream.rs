//! Pages that an upstream has: the request for one, which the proxy makes.

use std::sync::Arc;

use edgeway_core::chain::{Exchange, Reply, ReplyBody};
use edgeway_routes::values::{Template, Values};
use http::{HeaderMap, HeaderName, StatusCode, header};

use super::ErrorPage;

/// Headers of a backend's error that stay with the page of an upstream or route, and with the
/// built-in page.
pub const KEPT_WITH_PAGE: [HeaderName; 4] = [
    header::ALLOW,
    header::PROXY_AUTHENTICATE,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
];

/// Upstream of a page, and what it is asked for.
#[derive(Debug)]
pub(super) struct PageSource {
    pub(super) upstream: Arc<str>,
    /// `None` for path and query of the client.
    pub(super) path: Option<Template>,
    pub(super) sends_credentials: bool,
    pub(super) is_as_sent: bool,
}

/// Request for the page of one error.
#[derive(Clone, Debug)]
pub struct PageRequest {
    pub upstream: Arc<str>,
    /// Path and query, not normalised.
    pub target: Box<[u8]>,
    /// True if the target is that of the client.
    pub is_of_client: bool,
    /// True if the upstream gets cookies and `Authorization` of the client.
    pub sends_credentials: bool,
    /// True if the upstream gets the client's own request.
    pub is_as_sent: bool,
    pub status: PageStatus,
}

/// Status of the response with the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageStatus {
    OfError,
    OfPage,
    Given(StatusCode),
}

/// Mark of a response that a page of an upstream was to replace.
pub(super) struct Chosen;

impl PageSource {
    /// Leaves the request for the page among the facts of `ex`.
    pub(super) fn request(&self, page: &ErrorPage, ex: &mut Exchange<'_>, of: StatusCode) {
        let target = match &self.path {
            None => ex.head.raw_path().into(),
            Some(path) => {
                let mut target = String::new();
                let _undecided = path.write_with(&Values::of_status(ex, of), None, &mut target);
                target.into_bytes().into()
            }
        };
        let status = match page.status {
            _ if page.has_own_status => PageStatus::OfPage,
            Some(status) => PageStatus::Given(status),
            None => PageStatus::OfError,
        };
        ex.facts.put(Chosen);
        ex.facts.put(PageRequest {
            upstream: Arc::clone(&self.upstream),
            target,
            is_of_client: self.path.is_none(),
            sends_credentials: self.sends_credentials,
            is_as_sent: self.is_as_sent,
            status,
        });
    }
}

/// Returns the built-in page in place of an error response with these headers, for the case that
/// there is no other.
pub fn page_in_place_of(status: StatusCode, headers: &HeaderMap) -> Reply {
    let mut reply = Reply::empty(status);
    reply.body = ReplyBody::Page { detail: None };
    for name in &KEPT_WITH_PAGE {
        for value in headers.get_all(name) {
            reply.headers.push((name.clone(), value.clone()));
        }
    }
    reply
}
