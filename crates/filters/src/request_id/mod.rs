//! Gives each request an id that client, origin and log share, and a W3C trace context.

mod config;
#[cfg(test)]
mod tests;
mod traceparent;

use std::sync::Arc;

use edgeway_base::trace_context::{TRACEPARENT, TRACESTATE, TraceContext};
use edgeway_core::chain::{self, Exchange, Filter, Guard, Phases, RequestChanges, Traits, Verdict};
use http::{HeaderMap, HeaderName, response};

use self::traceparent::IdOrigin;

/// The compiled filter.
#[derive(Debug)]
pub struct RequestId {
    header: HeaderName,
    /// True to send the id on responses.
    response: bool,
    /// True to keep an id from a trusted proxy.
    trust: bool,
    traceparent: bool,
}

filter_kind!(RequestId: config::RequestIdConfig = "request_id", on_by_default = true);

impl Filter for RequestId {
    fn traits(self: Arc<Self>) -> Traits {
        let mut changed = vec![self.header.clone()];
        if self.traceparent {
            changed.extend([TRACEPARENT, TRACESTATE]);
        }
        let response = Phases::RESPONSE.when(self.response);
        Traits {
            request_changes: RequestChanges::names(changed),
            ..Traits::new(
                Phases::REQUEST | Phases::UPSTREAM | response,
                Guard::Nothing,
            )
        }
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        if self.trust
            && ex.facts.client.is_trusted
            && let Some(id) = ex
                .header(&self.header)
                .and_then(|value| chain::RequestId::foreign(value.as_bytes()))
        {
            ex.facts.request_id = id;
        }
        if ex.facts.request_id.is_empty() {
            ex.facts.request_id = ex.facts.new_request_id();
        }
        if !self.traceparent
            && let Some(trace) = &mut ex.facts.trace
        {
            trace.leave_headers();
        }
        Verdict::Next
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        let id = &ex.facts.request_id;
        headers.insert(self.header.clone(), id.header_value());
        if ex.facts.trace.is_some() {
            // The proxy has written both headers, for the span of this attempt.
            return;
        }
        let (mut has_parent, mut has_state) = (false, false);
        // Most clients send neither header: one pass, and no lookups.
        for name in ex.head.headers.keys() {
            match name.as_str().as_bytes() {
                b"traceparent" => has_parent = true,
                b"tracestate" => has_state = true,
                _ => {}
            }
        }
        let is_valid = has_parent && TraceContext::read(headers).is_some();
        if self.traceparent && !is_valid {
            // W3C Trace Context, 3.3: state without a valid parent means nothing.
            if has_state {
                headers.remove(TRACESTATE);
            }
            let origin = if self.trust && ex.facts.client.is_trusted {
                IdOrigin::Foreign
            } else {
                IdOrigin::Ours
            };
            let parent = traceparent::begin(id, origin, fastrand::u64(..));
            headers.insert(TRACEPARENT, parent);
        }
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let mut id = ex.facts.request_id.header_value();
        // No other response has the same id. HTTP/2 does not put it into its table of headers (RFC
        // 7541, 7.1.3), where it would take the place of those that repeat.
        id.set_sensitive(true);
        head.headers.insert(self.header.clone(), id);
    }
}
