//! Decisions about which requests are traced.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;

use super::{Exporter, FinishedRequest};
use crate::{
    base::{clock::Clock, trace_context::TraceContext},
    chain::{Client, RequestFacts, RequestTrace},
};

/// Senders whose traces are continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentTrust {
    /// Trusted proxies, whose decisions on sampling are followed.
    Proxies,
    /// Every client; the decisions of trusted proxies alone are followed.
    All,
    Nobody,
}

/// Rules about which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingRules {
    /// Share of the requests whose trace begins here, from 0 to 1.
    pub ratio: f64,
    /// Duration from which every request is traced.
    pub slow: Option<Duration>,
    /// True if every failed request is traced.
    pub errors: bool,
    pub trust: ParentTrust,
}

/// Tracing as configured.
#[derive(Debug)]
pub struct Tracing {
    pub rules: SamplingRules,
    pub exporter: Arc<Exporter>,
    clock: Clock,
}

impl Tracing {
    pub fn new(rules: SamplingRules, exporter: Arc<Exporter>, clock: &Clock) -> Self {
        Self {
            rules,
            exporter,
            clock: clock.clone(),
        }
    }

    /// Begins the trace of a request with these headers.
    pub fn begin(&self, headers: &HeaderMap, client: &Client) -> RequestTrace {
        let is_continued = match self.rules.trust {
            ParentTrust::Proxies => client.is_trusted,
            ParentTrust::All => true,
            ParentTrust::Nobody => false,
        };
        let parent = is_continued.then(|| TraceContext::read(headers)).flatten();
        let is_sampled = match parent {
            Some(parent) if client.is_trusted => parent.flags.is_sampled(),
            // Any client could ask for the recording of every request, and choose its ids: these
            // have no say in who is drawn.
            Some(parent) => parent.flags.is_sampled() && self.draws(),
            None => self.draws(),
        };
        RequestTrace::new(parent, is_sampled, &self.clock)
    }

    fn draws(&self) -> bool {
        fastrand::f64() < self.rules.ratio
    }

    /// Returns true if the spans of a finished request are exported.
    pub fn is_wanted(&self, trace: &RequestTrace, facts: &RequestFacts) -> bool {
        trace.is_sampled
            || (self.rules.errors && facts.is_failed())
            || self
                .rules
                .slow
                .is_some_and(|slow| duration(trace, facts) >= slow)
    }

    /// Makes the spans of a request and queues them. Drops and counts them if the queue is full.
    pub fn export(&self, request: &FinishedRequest<'_>) {
        self.exporter.push(request.count(), || {
            request.spans(self.clock.now(), self.clock.wall())
        });
    }
}

/// Returns the duration that shows if the request was slow. The end of a stream or a tunnel comes
/// when its client likes.
fn duration(trace: &RequestTrace, facts: &RequestFacts) -> Duration {
    let first_byte = facts.first_byte.filter(|_| trace.is_stream);
    first_byte.unwrap_or(facts.total)
}
