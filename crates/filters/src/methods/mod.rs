//! Lets only the listed methods pass.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_core::chain::{Exchange, Filter, Guard, Phases, Reply, Traits, Verdict};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

const REQUEST_METHOD: HeaderName = header::ACCESS_CONTROL_REQUEST_METHOD;

/// The compiled filter.
#[derive(Debug)]
pub struct Methods {
    allowed: Box<[Method]>,
    /// The list as the `Allow` header has it.
    allow: HeaderValue,
    /// Status of refusals.
    status: StatusCode,
}

filter_kind!(Methods: config::MethodsConfig = "methods");

impl Filter for Methods {
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

impl Methods {
    fn verdict(&self, ex: &Exchange<'_>) -> Verdict {
        if self.allowed.contains(&ex.head.method) || self.is_allowed_preflight(ex) {
            return Verdict::Next;
        }
        let reply =
            Reply::refuse(self.status, "method").detail("This request method is not allowed here.");
        // RFC 9110, 15.5.6: with 405, the methods are listed.
        match self.status {
            StatusCode::METHOD_NOT_ALLOWED => reply.header(header::ALLOW, self.allow.clone()),
            _ => reply,
        }
        .into()
    }

    /// Returns true for a browser's CORS preflight for an allowed method: it is sent on behalf of
    /// the method that it names.
    fn is_allowed_preflight(&self, ex: &Exchange<'_>) -> bool {
        ex.head.method == Method::OPTIONS
            && ex.header(&header::ORIGIN).is_some()
            && ex.header(&REQUEST_METHOD).is_some_and(|named| {
                self.allowed
                    .iter()
                    .any(|method| method.as_str().as_bytes() == named.as_bytes())
            })
    }
}
