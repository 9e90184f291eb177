//! Replaces the built-in page of errors by own files, texts, redirects and pages of an upstream, and
//! on request the error responses of backends too.

mod config;
mod of_route;
mod of_upstream;
#[cfg(test)]
mod tests;

use std::{any::TypeId, sync::Arc};

use bytes::Bytes;
use edgeway_base::{accept, http::is_call};
use edgeway_config::diagnostic::Place;
use edgeway_core::chain::{
    CacheOutcome, Exchange, Filter, Guard, Phases, Reply, ReplyBody, RouteRequest, Traits,
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
    pub intercepts: bool,
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
            ..Traits::new(Phases::ERROR | theirs, Guard::Nothing)
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
        if let Content::Upstream(source) = &page.content {
            source.request(page, ex, reply.status);
        }
        // The proxy leads the request to a route before, as far as it can.
        let Some(replacement) = page.replacement(ex, reply.status, false) else {
            return;
        };
        reply.status = replacement.status;
        reply.headers.extend(replacement.headers);
        reply.body = match replacement.content {
            Some((content_type, body)) => ReplyBody::Bytes {
                content_type: Some(content_type.clone()),
                body,
            },
            None => ReplyBody::Empty,
        };
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let is_done = is_replaced(ex) || ex.facts.is_page();
        if head.status.as_u16() < 400 || !is_of_backend(ex) || is_done {
            return;
        }
        let Some(page) = self.page(head.status, &ex.head.headers) else {
            return;
        };
        // The response of an upstream was replaced before the cache, unless it was stored before a
        // reload.
        let Some(replacement) = page.replacement(ex, head.status, true) else {
            return;
        };
        head.status = replacement.status;
        let theirs = std::mem::take(&mut head.headers);
        for name in &KEPT {
            for value in theirs.get_all(name) {
                head.headers.append(name, value.clone());
            }
        }
        let mut body = Bytes::new();
        if let Some((content_type, content)) = replacement.content {
            head.headers
                .insert(header::CONTENT_TYPE, content_type.clone());
            body = content;
        }
        head.headers.extend(replacement.headers);
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

    /// Returns true if a page may be what an app responds to the client's own path.
    pub fn lead_on(&self) -> bool {
        self.pages.iter().any(|page| match &page.content {
            Content::Upstream(source) => source.path.is_none(),
            Content::Route(PageRoute::Named(..)) => true,
            // Another path is looked up again, with the guards of its route.
            Content::Route(PageRoute::Path(_))
            | Content::Body(..)
            | Content::Text(..)
            | Content::File(..)
            | Content::Redirect(_) => false,
        })
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
        // A call gets a status of gRPC, and its client reads no page.
        ((page.is_for_all || takes_pages(request)) && !is_call(request)).then_some(page)
    }
}

/// Replacement of a response.
struct Replacement<'p> {
    status: StatusCode,
    /// Headers beside the media type.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Media type and body.
    content: Option<(&'p HeaderValue, Bytes)>,
}

impl ErrorPage {
    /// Returns what replaces an error with this status; `None` for the page of an upstream or a
    /// route, and for a redirect without a target. `has_body`: it has a body in any case.
    fn replacement(
        &self,
        ex: &Exchange<'_>,
        status: StatusCode,
        has_body: bool,
    ) -> Option<Replacement<'_>> {
        let (to, content) = match &self.content {
            Content::Body(content_type, body) => (None, Some((content_type, body.clone()))),
            Content::Text(content_type, text) => {
                (None, Some((content_type, filled_in(text, ex, status))))
            }
            Content::Redirect(to) => (Some(to.target(&Values::of_status(ex, status), None)?), None),
            Content::File(content_type, body, file) => {
                let part = match file.part(&ex.head.method, &ex.head.headers) {
                    PagePart::NotModified if has_body => PagePart::Whole,
                    part => part,
                };
                return Some(Replacement {
                    status: status_of(&part),
                    headers: file.headers(&part).collect(),
                    content: content_of(&part, body).map(|body| (content_type, body)),
                });
            }
            Content::Upstream(_) | Content::Route(_) => return None,
        };
        let status = self.status.unwrap_or(status);
        let location = to.map(|to| (header::LOCATION, to));
        let no_store = (!status.is_redirection()).then_some((header::CACHE_CONTROL, NO_STORE));
        Some(Replacement {
            status,
            headers: location.into_iter().chain(no_store).collect(),
            content,
        })
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
