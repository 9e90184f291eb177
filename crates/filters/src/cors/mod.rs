//! Lets pages of listed origins read responses (cross-origin resource sharing) and responds to
//! preflights. Unlisted origins get no permission, whatever the app sends.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_base::{
    http::varies_by,
    origin::{Origin, OriginPattern},
};
use edgeway_core::chain::{Exchange, Filter, Guard, OpenRefusals, Phases, Reply, Traits, Verdict};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};

const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers");

/// The compiled filter.
#[derive(Debug)]
pub struct Cors {
    allowed: Origins,
    /// `Access-Control-Allow-Methods`.
    methods: HeaderValue,
    /// `Access-Control-Allow-Headers`; `None` allows the headers that a preflight requests.
    headers: Option<HeaderValue>,
    /// `Access-Control-Expose-Headers`; `None` leaves it to the app.
    expose: Option<HeaderValue>,
    allow_credentials: bool,
    /// `Access-Control-Max-Age`, in seconds.
    max_age: HeaderValue,
}

/// Origins whose pages may read.
#[derive(Debug)]
enum Origins {
    Anybody,
    Listed {
        origins: Box<[OriginPattern]>,
        /// `null`: sandboxed frames, files, redirects across origins.
        null: bool,
    },
}

filter_kind!(Cors: config::CorsConfig = "cors");

impl Filter for Cors {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(
            Phases::REQUEST | Phases::RESPONSE,
            Guard::Open(OpenRefusals::Preflights),
        )
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.verdict(ex)
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        self.verdict(ex).explain()
    }

    /// Replaces the app's own permission headers, so that a response never has two sets of them,
    /// nor one that this configuration does not show.
    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        if head.status.is_informational() {
            return;
        }
        let permission = self.permission(&ex.head.headers);
        let expose = self.expose.as_ref().filter(|_| !is_preflight(ex));
        let headers = &mut head.headers;
        // Also without an `Origin`: a cache must not use that response for a request with an
        // `Origin`.
        if matches!(self.allowed, Origins::Listed { .. }) && !varies_by(headers, &header::ORIGIN) {
            headers.append(header::VARY, ORIGIN);
        }
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        let Some(origin) = permission else {
            headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            return;
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.allow_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

impl Cors {
    /// Responds to preflights. `Access-Control-Allow-Origin` and its companions are added in the
    /// response phase, as for any response.
    fn verdict(&self, ex: &Exchange<'_>) -> Verdict {
        if !is_preflight(ex) {
            return Verdict::Next;
        }
        if self.permission(&ex.head.headers).is_none() {
            return Reply::refuse(StatusCode::FORBIDDEN, "cors")
                .detail("Pages of this origin are not allowed to send such requests.")
                .header(header::VARY, PREFLIGHT_VARY)
                .into();
        }
        let requested = ex.header(&header::ACCESS_CONTROL_REQUEST_HEADERS);
        let mut reply = Reply::empty(StatusCode::NO_CONTENT)
            .header(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone())
            .header(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone())
            .header(header::VARY, PREFLIGHT_VARY);
        if let Some(headers) = self.headers.as_ref().or(requested) {
            reply = reply.header(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        reply.into()
    }

    /// Returns `Access-Control-Allow-Origin` for this request; `None` if the origin is not allowed.
    fn permission(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let Origins::Listed { origins, null } = &self.allowed else {
            return Some(ANY);
        };
        let mut values = request.get_all(header::ORIGIN).iter();
        let (origin, None) = (values.next()?, values.next()) else {
            return None;
        };
        let is_listed = match Origin::parse(origin.as_bytes()) {
            Some(page) => origins.iter().any(|known| known.matches(&page)),
            None => *null && origin.as_bytes() == b"null",
        };
        is_listed.then(|| origin.clone())
    }
}

/// Returns true for a preflight of the Fetch standard; any other `OPTIONS` goes to the app.
fn is_preflight(ex: &Exchange<'_>) -> bool {
    ex.head.method == Method::OPTIONS
        && ex.header(&header::ACCESS_CONTROL_REQUEST_METHOD).is_some()
        && ex.header(&header::ORIGIN).is_some()
}

/// Joins names into a list field.
fn joined<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.into_iter().collect();
    HeaderValue::try_from(names.join(", ")).ok()
}

/// Returns true for a valid header name other than `*`, which is valid too.
fn is_header_name(text: &str) -> bool {
    text != "*" && HeaderName::from_bytes(text.as_bytes()).is_ok()
}
