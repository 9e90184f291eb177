//! Refuses requests that another site's page made a browser send.
//!
//! Browsers report the origin of a request in `Sec-Fetch-Site`, older ones in `Origin`, and pages
//! cannot change either header. A client that sends neither is not a browser, and carries no
//! victim's cookies.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_base::origin::{Origin, OriginPattern};
use edgeway_core::chain::{
    Exchange, Filter, Guard, Phases, Reply, Traits, Verdict, host::public_host,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The compiled filter.
#[derive(Debug)]
pub struct Csrf {
    /// Other origins whose pages may send unsafe requests.
    origins: Box<[OriginPattern]>,
    allow_same_site: bool,
}

filter_kind!(Csrf: config::CsrfConfig = "csrf");

impl Filter for Csrf {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::REQUEST, Guard::Access)
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.verdict(ex)
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        self.verdict(ex).explain()
    }
}

/// Returns true for unsafe methods (RFC 9110, 9.2.1), and for WebSocket handshakes: they are GETs,
/// carry cookies, and no same-origin policy keeps another site's page from opening one.
fn may_change_something(ex: &Exchange<'_>) -> bool {
    match ex.head.method {
        Method::GET => ex.head.headers.contains_key(header::SEC_WEBSOCKET_KEY),
        Method::HEAD | Method::OPTIONS | Method::TRACE => false,
        _ => true,
    }
}

impl Csrf {
    fn verdict(&self, ex: &Exchange<'_>) -> Verdict {
        if !may_change_something(ex) || self.is_from_a_friend(ex) {
            return Verdict::Next;
        }
        Reply::refuse(StatusCode::FORBIDDEN, "csrf")
            .detail("This request was sent by a page of another site.")
            .into()
    }

    fn is_from_a_friend(&self, ex: &Exchange<'_>) -> bool {
        let headers = &ex.head.headers;
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (origin, is_single) = (origins.next(), origins.next().is_none());
        // A browser sends one origin; two cannot be trusted.
        if !is_single {
            return false;
        }
        let page = origin.and_then(|value| Origin::parse(value.as_bytes()));
        if page.is_some_and(|page| self.origins.iter().any(|known| known.matches(&page))) {
            return true;
        }
        let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
        match (sites.next().map(HeaderValue::as_bytes), sites.next()) {
            // The browser's own verdict comes first: it has seen the address that the user sees,
            // however proxies have changed host and scheme since.
            (Some(b"same-origin" | b"none"), None) => true,
            (Some(b"same-site"), None) => self.allow_same_site,
            (Some(_), _) => false,
            (None, _) => match origin {
                None => true,
                Some(_) => page.is_some() && page == own_origin(ex),
            },
        }
    }
}

/// Returns the origin that the client sent the request to.
fn own_origin<'e>(ex: &'e Exchange<'_>) -> Option<Origin<'e>> {
    let client = &ex.facts.client;
    Origin::new(client.scheme.as_str(), public_host(ex.head, client))
}
