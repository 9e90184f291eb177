//! Replaces the built-in page of errors by own files, texts, redirects and pages of an upstream, and
//! on request the error responses of backends too.

mod config;
mod of_route;
mod of_upstream;
#[cfg(test)]
mod tests;

use std::{any::TypeId, sync::Arc};

use bytes::Bytes;
use edgeway_base::accept;
use edgeway_config::diagnostic::Place;
use edgeway_core::chain::{
    CacheOutcome, Exchange, Filter, Phases, Reply, ReplyBody, RouteRequest, Traits,
};
use edgeway_files::{PageFile, PagePart};
use edgeway_routes::values::{Template, Values};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};

pub use self::of_upstream::{KEPT_WITH_PAGE, PageRequest, PageStatus, page_in_place_of};
use self::{of_route::PageRoute, of_upstream::PageSource};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Headers of a backend that stay with the page: what the status needs, and times.
const KEPT: [HeaderName; 6] = [
    header::AGE,
    header::ALLOW,
    header::DATE,
    header::PROXY_AUTHENTICATE,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
];

/// The compiled filter, which the proxy also asks for a replacement of a response.
#[derive(Debug)]
pub struct ErrorPages {
    /// Single statuses before classes.
    pages: Box<[ErrorPage]>,
    /// True to replace responses of backends.
    intercepts: bool,
    /// True if the built-in page is HTML for all clients.
    is_html: bool,
}

/// Mark of a request whose built-in page is HTML, whatever its client prefers.
pub struct HtmlPage;

/// A page, and the statuses that it is for.
#[derive(Debug)]
struct ErrorPage {
    first: u16,
    last: u16,
    content: Content,
    /// Status in place of the error's own.
    status: Option<StatusCode>,
    /// True if clients that prefer JSON or plain text get it too.
    is_for_all: bool,
    /// True to send the status of the upstream that has the page.
    has_own_status: bool,
}

/// Content in place of an error's response.
#[derive(Debug)]
enum Content {
    /// Media type and bytes.
    Body(HeaderValue, Bytes),
    /// Media type and text with placeholders.
    Text(HeaderValue, Template),
    /// The same of a file that is a success: a response that may be stored and confirmed.
    File(HeaderValue, Bytes, Box<PageFile>),
    Redirect(Template),
    /// Response of an upstream, which is asked for each error.
    Upstream(PageSource),
    /// Response of another route.
    Route(PageRoute),
}

/// Page that takes the place of a response's body.
struct Replaced(Option<Bytes>);

filter_kind!(ErrorPages: config::ErrorPagesConfig = "error_pages");

impl Filter for ErrorPages {
    fn traits(self: Arc<Self>) -> Traits {
        let theirs = (Phases::RESPONSE | Phases::RESPONSE_BODY).when(self.intercepts);
        Traits {
            body_slot: Some(TypeId::of::<Replaced>()),
            extension: Some(Arc::clone(&self) as _),
            ..Traits::new(Phases::ERROR | theirs)
        }
    }

    fn on_error(&self, ex: &mut Exchange<'_>, reply: &mut Reply) {
        if !matches!(reply.body, ReplyBody::Page { .. }) {
            return;
        }
        if self.is_html {
            ex.facts.put(HtmlPage);
        }
        if ex.facts.is_page() {
            return;
        }
        let Some(page) = self.page(reply.status, &ex.head.headers) else {
            return;
        };
        match &page.content {
            Content::Body(content_type, body) => {
                reply.body = ReplyBody::Bytes {
                    content_type: content_type.clone(),
                    body: body.clone(),
                };
            }
            Content::Text(content_type, text) => {
                let body = filled_in(text, ex, reply.status);
                reply.body = ReplyBody::Bytes {
                    content_type: content_type.clone(),
                    body,
                };
            }
            Content::File(content_type, body, file) => {
                let part = file.part(&ex.head.method, &ex.head.headers);
                reply.status = status_of(&part);
                reply.headers.extend(file.headers(&part));
                reply.body = match content_of(&part, body) {
                    Some(body) => ReplyBody::Bytes {
                        content_type: content_type.clone(),
                        body,
                    },
                    None => ReplyBody::Empty,
                };
                return;
            }
            Content::Redirect(to) => {
                let Some(to) = to.target(ex) else {
                    return;
                };
                reply.body = ReplyBody::Empty;
                reply.headers.push((header::LOCATION, to));
            }
            Content::Upstream(source) => {
                source.request(page, ex);
                return;
            }
            // The proxy leads the request there before, as far as it can.
            Content::Route(_) => return,
        }
        reply.status = page.status.unwrap_or(reply.status);
        if !reply.status.is_redirection() {
            reply.headers.push((header::CACHE_CONTROL, NO_STORE));
        }
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let is_done = is_replaced(ex) || ex.facts.is_page();
        if head.status.as_u16() < 400 || !is_of_backend(ex) || is_done {
            return;
        }
        let Some(page) = self.page(head.status, &ex.head.headers) else {
            return;
        };
        let mut part = None;
        let (content_type, to, body) = match &page.content {
            Content::Body(content_type, body) => (Some(content_type), None, body.clone()),
            Content::Text(content_type, text) => {
                (Some(content_type), None, filled_in(text, ex, head.status))
            }
            Content::File(content_type, body, file) => {
                // The backend's response has a body in any case.
                let own = match file.part(&ex.head.method, &ex.head.headers) {
                    PagePart::NotModified => PagePart::Whole,
                    own => own,
                };
                let body = content_of(&own, body).unwrap_or_default();
                part = Some((file, own));
                (Some(content_type), None, body)
            }
            Content::Redirect(to) => match to.target(ex) {
                Some(to) => (None, Some(to), Bytes::new()),
                None => return,
            },
            // Its response was replaced before the cache, unless it was stored before a reload.
            Content::Upstream(_) | Content::Route(_) => return,
        };
        head.status = page.status.unwrap_or(head.status);
        let theirs = std::mem::take(&mut head.headers);
        for name in &KEPT {
            for value in theirs.get_all(name) {
                head.headers.append(name, value.clone());
            }
        }
        if let Some(content_type) = content_type {
            head.headers
                .insert(header::CONTENT_TYPE, content_type.clone());
        }
        if let Some(to) = to {
            head.headers.insert(header::LOCATION, to);
        }
        if let Some((file, part)) = part {
            head.status = status_of(&part);
            head.headers.extend(file.headers(&part));
        } else if !head.status.is_redirection() {
            head.headers.insert(header::CACHE_CONTROL, NO_STORE);
        }
        let length = HeaderValue::from(body.len());
        head.headers.insert(header::CONTENT_LENGTH, length);
        if ex.head.method != Method::HEAD {
            ex.facts.put(Replaced(Some(body)));
        }
    }

    fn on_response_body(&self, ex: &mut Exchange<'_>, chunk: &mut Option<Bytes>, end: bool) {
        if let Some(replaced) = ex.facts.slot_mut::<Replaced>() {
            *chunk = if end { replaced.0.take() } else { None };
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let ranges = self.pages.iter().map(|page| {
            let range = match page.last - page.first {
                0 => page.first.to_string(),
                _ => format!("{}xx", page.first / 100),
            };
            match &page.content {
                Content::Upstream(source) => format!("{range} of upstream {}", source.upstream),
                Content::Route(PageRoute::Named(name, _)) => format!("{range} of route {name}"),
                _ => range,
            }
        });
        let mut all: Vec<String> = ranges.collect();
        all.sort();
        let all = all.join(", ");
        let is_for_all = self.pages.iter().any(|page| page.is_for_all);
        if !is_for_all && !takes_pages(&ex.head.headers) {
            return vec![format!("pages for {all}, but the client prefers no HTML")];
        }
        let whose = if self.intercepts {
            "of the gateway and of backends"
        } else {
            "of the gateway"
        };
        vec![format!("pages for errors {whose}: {all}")]
    }
}

impl ErrorPages {
    /// Returns true if error responses of backends are replaced too.
    pub fn intercepts(&self) -> bool {
        self.intercepts
    }

    /// Returns a reply in place of an error response of a backend, before a cache stores it.
    pub fn reply_in_place_of(
        &self,
        ex: &Exchange<'_>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Reply> {
        if !self.intercepts {
            return None;
        }
        let page = self.page(status, &ex.head.headers)?;
        let is_replied = matches!(page.content, Content::Upstream(_));
        is_replied.then(|| page_in_place_of(status, headers))
    }

    /// Returns true if routes have pages.
    pub fn has_page_routes(&self) -> bool {
        let mut pages = self.pages.iter();
        pages.any(|page| matches!(page.content, Content::Route(_)))
    }

    /// Returns the route that has the page of an error, which a backend sent or the gateway itself.
    pub fn page_route(
        &self,
        ex: &Exchange<'_>,
        status: StatusCode,
        is_of_backend: bool,
    ) -> Option<RouteRequest> {
        if ex.facts.is_page() || (is_of_backend && !self.intercepts) {
            return None;
        }
        let page = self.page(status, &ex.head.headers)?;
        match &page.content {
            Content::Route(route) => Some(route.request(page, ex, status)),
            _ => None,
        }
    }

    /// Returns the upstreams that have pages, with the places of their names.
    pub fn page_upstreams(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pages.iter().filter_map(|page| match &page.content {
            Content::Upstream(source) => Some(&source.upstream),
            _ => None,
        })
    }

    /// Returns the routes that are named for pages, with the places of their names.
    pub fn named_routes(&self) -> impl Iterator<Item = (&Arc<str>, Place)> {
        self.pages.iter().filter_map(|page| match &page.content {
            Content::Route(PageRoute::Named(name, place)) => Some((name, *place)),
            _ => None,
        })
    }

    /// Returns the page for a response with this status to a request with these headers.
    fn page(&self, status: StatusCode, request: &HeaderMap) -> Option<&ErrorPage> {
        let status = status.as_u16();
        let mut pages = self.pages.iter();
        let page = pages.find(|page| (page.first..=page.last).contains(&status))?;
        (page.is_for_all || takes_pages(request)).then_some(page)
    }
}

/// Returns a text with its placeholders filled in, for the page of an error with this status.
fn filled_in(text: &Template, ex: &Exchange<'_>, status: StatusCode) -> Bytes {
    let mut body = String::new();
    let _undecided = text.write_with(&Values::of_status(ex, status), None, &mut body);
    body.into()
}

/// Returns the status of a response with this part of a file that is a success.
fn status_of(part: &PagePart) -> StatusCode {
    match part {
        PagePart::Whole => StatusCode::OK,
        PagePart::Range(_) => StatusCode::PARTIAL_CONTENT,
        PagePart::NotModified => StatusCode::NOT_MODIFIED,
    }
}

/// Returns this part of a file.
fn content_of(part: &PagePart, body: &Bytes) -> Option<Bytes> {
    match part {
        PagePart::Whole => Some(body.clone()),
        PagePart::Range(range) => Some(body.slice(range.clone())),
        PagePart::NotModified => None,
    }
}

/// Returns true if the client takes HTML at least as gladly as JSON and plain text.
fn takes_pages(request: &HeaderMap) -> bool {
    const OFFERS: &[&str] = &["text/html", "application/json", "text/plain"];
    let accept = request.get(header::ACCEPT);
    let preferred = accept.and_then(|accept| accept::preferred(accept.as_bytes(), OFFERS));
    preferred.is_none_or(|offer| offer == 0)
}

/// Returns true if the page of an upstream was to replace this response: pages have no pages.
fn is_replaced(ex: &Exchange<'_>) -> bool {
    ex.facts.slot::<of_upstream::Chosen>().is_some()
}

/// Returns true if the response comes from a backend, now or stored.
fn is_of_backend(ex: &Exchange<'_>) -> bool {
    let facts = &ex.facts;
    let is_stored = facts
        .cache
        .is_some_and(|cache| matches!(cache.outcome, CacheOutcome::Hit | CacheOutcome::Stale));
    facts.reason.is_none() && (is_stored || facts.upstream.status >= 400)
}
