//! Leading a request to another route of the gateway, as the internal redirects of nginx do.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, response};

/// Route that takes a request over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRequest {
    pub to: RouteTarget,
    /// The page of an error, if that is the reason.
    pub page: Option<PageOfError>,
    /// Headers of the error that stay with its page.
    pub kept: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Route with this name. Method, path and body stay those of the request.
    Named(Arc<str>),
    /// Route of this path, which may have a query and is not normalised. It is asked for with `GET`,
    /// or `HEAD` for a `HEAD`, if it is the page of an error.
    Path(Box<[u8]>),
}

/// Facts about the error whose page a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageOfError {
    /// Status of the error.
    pub of: StatusCode,
    /// Status of the response in place of the page's own.
    pub status: Option<StatusCode>,
}

/// Course of a request through other routes.
#[derive(Clone, Debug, Default)]
pub struct RerouteFacts {
    /// Target that the client sent, in normal form.
    pub original: Box<[u8]>,
    /// Length of the client's own query at the end of the request's target; `None` if the target is
    /// another page, such as that of an error, which is the same for all URLs that lead to it.
    pub own_query: Option<usize>,
    /// Number of routes that led to others.
    pub count: u8,
    /// The error whose page the response is.
    pub page: Option<PageOfError>,
    /// Route that has the page, once the request is booked on the route of its error.
    pub page_route: Option<Arc<str>>,
    /// Headers of the error that stay with its page.
    pub kept: Vec<(HeaderName, HeaderValue)>,
}

impl RerouteFacts {
    /// Gives a response that is the page of an error what it has of the error.
    pub fn make_page(&self, head: &mut response::Parts) {
        head.status = self.status_for(head.status);
        for (name, value) in self.missing(&head.headers) {
            head.headers.append(name, value);
        }
    }

    /// Returns the status of a response in place of `status`. One that is no whole page keeps it,
    /// since it may have no body, or a part of one.
    pub fn status_for(&self, status: StatusCode) -> StatusCode {
        match self.page {
            Some(page) if is_whole(status) => page.status.unwrap_or(status),
            _ => status,
        }
    }

    /// Returns the headers of the error that its page does not have itself.
    pub fn missing(&self, headers: &http::HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let kept = self.kept.iter();
        let missing = kept.filter(|(name, _)| !headers.contains_key(name));
        missing.cloned().collect()
    }
}

/// Returns true for the status of a response whose content is whole.
pub fn is_whole(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 204..=206 | 304 | 412 | 416)
}
