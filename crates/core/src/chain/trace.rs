//! Trace of one request: its ids, and the times that become spans if the trace is exported.
//!
//! Ids and a few times are all that a request costs that nobody looks at: its trace allocates
//! nothing. Spans are made from them when the request is over, where it was sampled, failed or was
//! slow.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::base::{
    clock::Clock,
    trace_context::{TraceContext, TraceFlags},
};

/// Bound on the steps and attempts that are kept: a request cannot fill the memory.
const MAX_STEPS: usize = 64;

/// Trace of one request.
#[derive(Debug)]
pub struct RequestTrace {
    pub trace_id: u128,
    /// Id of the request's own span.
    pub span_id: u64,
    /// Context of the sender, if this request belongs to its trace.
    pub parent: Option<TraceContext>,
    /// Decision on sampling at the start of the request, which the apps behind follow.
    pub is_sampled: bool,
    /// True if the response is a stream or a tunnel, whose end says nothing about its speed.
    pub is_stream: bool,
    /// True if the backend gets [`Self::outgoing`].
    pub is_passed_on: bool,
    clock: Clock,
    steps: Vec<TraceStep>,
    /// Most requests have one attempt, which needs no allocation.
    attempts: SmallVec<[TraceAttempt; 1]>,
}

/// A part of a request's way through the gateway.
#[derive(Clone, Copy, Debug)]
pub struct TraceStep {
    /// Name of the filter, or of the part of the gateway.
    pub name: &'static str,
    pub started: Instant,
    pub ended: Instant,
    /// True if this step ended the request.
    pub is_last: bool,
}

/// An attempt at a backend.
#[derive(Clone, Debug)]
pub struct TraceAttempt {
    pub span_id: u64,
    /// Address of the backend.
    pub backend: Arc<str>,
    pub started: Instant,
    /// Time at which the response headers arrived.
    pub responded: Option<Instant>,
    /// End of an attempt that failed; any other ends with the request.
    pub ended: Option<Instant>,
    /// Status of the response; 0 if there was none.
    pub status: u16,
    /// Reason of the failure: a fixed word.
    pub error: Option<&'static str>,
    /// True if the connection was open before.
    pub is_reused: bool,
}

impl RequestTrace {
    /// Begins the request's part of the trace of `parent`, or a trace.
    pub fn new(parent: Option<TraceContext>, is_sampled: bool, clock: &Clock) -> Self {
        let random = || u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
        Self {
            trace_id: parent.map_or_else(|| random().max(1), |parent| parent.trace_id),
            span_id: span_id(),
            parent,
            is_sampled,
            is_stream: false,
            is_passed_on: true,
            clock: clock.clone(),
            steps: Vec::new(),
            attempts: SmallVec::new(),
        }
    }

    /// Begins the trace of work that this request leaves behind.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            is_passed_on: self.is_passed_on,
            ..Self::new(Some(self.context()), self.is_sampled, &self.clock)
        }
    }

    /// Returns the context of the request's own span.
    pub fn context(&self) -> TraceContext {
        TraceContext {
            trace_id: self.trace_id,
            span_id: self.span_id,
            flags: self.flags(),
        }
    }

    /// Returns the upper and lower half of the trace id.
    pub fn halves(&self) -> (u64, u64) {
        let [high, low] = [64, 0].map(|bits| {
            u64::try_from((self.trace_id >> bits) & u128::from(u64::MAX)).unwrap_or_default()
        });
        (high, low)
    }

    pub fn flags(&self) -> TraceFlags {
        self.parent
            .map_or(TraceFlags::NONE, |parent| parent.flags)
            .with_sampled(self.is_sampled)
    }

    /// Returns the context for the backend: the span of the attempt, or that of the request, which
    /// the access log has, where no spans will be recorded behind.
    pub fn outgoing(&self) -> TraceContext {
        let attempt = self.attempts.last().filter(|_| self.is_sampled);
        TraceContext {
            span_id: attempt.map_or(self.span_id, |attempt| attempt.span_id),
            ..self.context()
        }
    }

    /// Leaves `traceparent` and `tracestate` to the backend as the client sent them.
    pub fn leave_headers(&mut self) {
        self.is_passed_on = false;
    }
}

impl RequestTrace {
    /// Returns the time at which a step begins, if it is recorded: each step of a sampled request,
    /// and of any other those that may wait.
    pub fn begin_step(&self, may_wait: bool) -> Option<Instant> {
        (self.is_sampled || may_wait).then(|| self.clock.now())
    }

    /// Records a step that began at `started`.
    pub fn end_step(&mut self, name: &'static str, started: Instant, is_last: bool) {
        if self.steps.len() < MAX_STEPS {
            self.steps.push(TraceStep {
                name,
                started,
                ended: self.clock.now(),
                is_last,
            });
        }
    }

    /// Records a wait before an attempt, if there was one worth a span.
    pub fn waited(&mut self, name: &'static str, started: Instant, ended: Instant) {
        const SHORT: Duration = Duration::from_millis(1);
        if ended.saturating_duration_since(started) >= SHORT && self.steps.len() < MAX_STEPS {
            self.steps.push(TraceStep {
                name,
                started,
                ended,
                is_last: false,
            });
        }
    }

    pub fn begin_attempt(&mut self, backend: &Arc<str>, started: Instant) {
        if self.attempts.len() < MAX_STEPS {
            self.attempts.push(TraceAttempt {
                span_id: span_id(),
                backend: Arc::clone(backend),
                started,
                responded: None,
                ended: None,
                status: 0,
                error: None,
                is_reused: false,
            });
        }
    }

    /// Returns the attempt that has not failed, if there is one.
    pub fn attempt(&mut self) -> Option<&mut TraceAttempt> {
        let last = self.attempts.last_mut()?;
        last.ended.is_none().then_some(last)
    }

    /// Records that the attempt failed for this reason. A response that it got has its status.
    pub fn end_attempt(&mut self, error: Option<&'static str>) {
        let now = self.clock.now();
        if let Some(attempt) = self.attempt() {
            attempt.ended = Some(now);
            attempt.error = error;
        }
    }

    pub fn steps(&self) -> &[TraceStep] {
        &self.steps
    }

    pub fn attempts(&self) -> &[TraceAttempt] {
        &self.attempts
    }
}

/// Returns a random id of a span, which is never zero.
pub fn span_id() -> u64 {
    fastrand::u64(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(flags: TraceFlags) -> TraceContext {
        TraceContext {
            trace_id: 7,
            span_id: 8,
            flags,
        }
    }

    #[test]
    fn the_backend_gets_a_span_that_it_can_find() {
        let clock = Clock::test();
        let mut sampled = RequestTrace::new(None, true, &clock);
        assert_eq!(sampled.outgoing().span_id, sampled.span_id);
        for _ in 0..2 {
            sampled.begin_attempt(&"b".into(), clock.now());
            let attempt = sampled.attempts().last().unwrap().span_id;
            assert_eq!(sampled.outgoing().span_id, attempt);
            assert_ne!(attempt, sampled.span_id);
            sampled.end_attempt(Some("upstream_reset"));
        }
        let mut other = RequestTrace::new(None, false, &clock);
        other.begin_attempt(&"b".into(), clock.now());
        assert_eq!(other.outgoing().span_id, other.span_id);
        assert!(!other.outgoing().flags.is_sampled());
    }

    #[test]
    fn a_trace_that_goes_on_has_the_ids_and_flags_of_its_parent() {
        let clock = Clock::test();
        let trace = RequestTrace::new(Some(parent(TraceFlags::RANDOM)), true, &clock);
        assert_eq!(trace.trace_id, 7);
        assert_eq!(trace.outgoing().flags.bits(), 3);
        let child = trace.child();
        assert_eq!(child.trace_id, 7);
        let found = child.parent.unwrap();
        assert_eq!((found.span_id, found.flags.bits()), (trace.span_id, 3));
        let unsampled = RequestTrace::new(Some(parent(TraceFlags::SAMPLED)), false, &clock);
        assert_eq!(unsampled.outgoing().flags.bits(), 0);
    }

    #[test]
    fn only_what_may_take_long_is_timed_without_sampling() {
        let clock = Clock::test();
        let trace = RequestTrace::new(None, false, &clock);
        assert!(trace.begin_step(false).is_none());
        assert!(trace.begin_step(true).is_some());
        let sampled = RequestTrace::new(None, true, &clock);
        assert!(sampled.begin_step(false).is_some());
    }

    #[test]
    fn the_trace_of_a_request_that_is_not_sampled_allocates_nothing() {
        let clock = Clock::test();
        let mut trace = RequestTrace::new(None, false, &clock);
        assert!(trace.begin_step(false).is_none());
        trace.begin_attempt(&"b".into(), clock.now());
        assert_eq!(trace.steps.capacity(), 0);
        assert!(!trace.attempts.spilled());
        // A second attempt is rare enough.
        trace.end_attempt(Some("upstream_reset"));
        trace.begin_attempt(&"b".into(), clock.now());
        assert_eq!(trace.attempts().len(), 2);
    }

    #[test]
    fn a_request_cannot_fill_the_memory() {
        let clock = Clock::test();
        let mut trace = RequestTrace::new(None, true, &clock);
        for _ in 0..1000 {
            trace.end_step("jwt", clock.now(), false);
            trace.begin_attempt(&"b".into(), clock.now());
        }
        assert_eq!((trace.steps().len(), trace.attempts().len()), (64, 64));
    }
}
