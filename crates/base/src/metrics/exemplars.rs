//! Exemplars: for each bucket of a histogram, the trace of one recent observation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;

use super::Histogram;
use crate::{clock::Clock, trace_context::write_hex, units::whole_nanos};

/// Shortest age of an exemplar before another one takes its place. In between, an observation costs
/// one comparison, and the headers of its request are not read.
const MIN_AGE: Duration = Duration::from_secs(1);

/// Id of a W3C trace: 32 hexadecimal digits, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// Writes an id as digits; `None` for zero, which is invalid.
    pub fn new(id: u128) -> Option<Self> {
        let mut digits = [0; 32];
        write_hex(&mut digits, &id.to_be_bytes());
        (id != 0).then_some(Self(digits))
    }

    /// Reads an id without its context.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let id: [u8; 32] = digits.try_into().ok()?;
        let is_hex = id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (is_hex && id.iter().any(|b| *b != b'0')).then_some(Self(id))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A histogram with exemplars.
#[derive(Clone, Debug)]
pub struct TracedHistogram {
    pub(super) histogram: Histogram,
    pub(super) exemplars: Arc<Exemplars>,
}

impl TracedHistogram {
    /// Records `seconds`, observed at `now`. `trace` is called only if an exemplar is due.
    #[inline]
    pub fn observe(&self, seconds: f64, now: Instant, trace: impl FnOnce() -> Option<TraceId>) {
        self.histogram.observe(seconds);
        self.exemplars.offer(seconds, now, trace);
    }

    /// Records `seconds` of a request without a trace.
    #[inline]
    pub fn observe_plain(&self, seconds: f64) {
        self.histogram.observe(seconds);
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.histogram.get_sample_count()
    }
}

/// The exemplars of one series, in the order of its buckets; the last bucket has no upper bound.
#[derive(Debug)]
pub(super) struct Exemplars {
    bounds: Box<[f64]>,
    slots: Box<[Slot]>,
    clock: Clock,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Slot {
    /// Time from which the exemplar may be replaced, in nanoseconds since the epoch.
    due: AtomicU64,
    exemplar: Mutex<Option<Exemplar>>,
}

/// Observation with its trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace: TraceId,
    pub(super) value: f64,
    pub(super) at: SystemTime,
}

impl Exemplars {
    pub(super) fn new(bounds: &[f64], clock: &Clock) -> Self {
        Self {
            bounds: bounds.into(),
            slots: std::iter::repeat_with(Slot::default)
                .take(bounds.len() + 1)
                .collect(),
            clock: clock.clone(),
            epoch: clock.now(),
        }
    }

    #[inline]
    fn offer(&self, value: f64, now: Instant, trace: impl FnOnce() -> Option<TraceId>) {
        let slot = &self.slots[self.bounds.partition_point(|bound| *bound < value)];
        let now = whole_nanos(now.saturating_duration_since(self.epoch));
        if slot.due.load(Ordering::Relaxed) <= now {
            self.replace(slot, value, now, trace());
        }
    }

    #[cold]
    fn replace(&self, slot: &Slot, value: f64, now: u64, trace: Option<TraceId>) {
        slot.due
            .store(now.saturating_add(whole_nanos(MIN_AGE)), Ordering::Relaxed);
        if let Some(trace) = trace {
            *slot.exemplar.lock() = Some(Exemplar {
                trace,
                value,
                at: self.clock.wall(),
            });
        }
    }

    /// Returns the exemplar of the bucket at `index`.
    pub(super) fn get(&self, index: usize) -> Option<Exemplar> {
        *self.slots.get(index)?.exemplar.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn each_bucket_keeps_a_recent_trace_and_reads_no_headers_in_between() {
        let clock = Clock::default();
        let exemplars = Exemplars::new(&[0.1, 1.0], &clock);
        let start = exemplars.epoch + Duration::from_secs(5);
        let id = TraceId::parse(ID.as_bytes());
        let other = TraceId::parse("1".repeat(32).as_bytes());
        exemplars.offer(0.1, start, || id);
        exemplars.offer(0.05, start, || panic!("it is not due"));
        exemplars.offer(7.0, start, || other);
        assert_eq!(exemplars.get(0).unwrap().trace, id.unwrap());
        assert_eq!(exemplars.get(1), None);
        let last = exemplars.get(2).unwrap();
        assert_eq!((last.trace, last.value), (other.unwrap(), 7.0));
        let later = start + MIN_AGE;
        exemplars.offer(0.01, later, || other);
        assert_eq!(exemplars.get(0).unwrap().trace, other.unwrap());
        // A request without a trace leaves the last one.
        exemplars.offer(0.01, later + MIN_AGE, || None);
        assert_eq!(exemplars.get(0).unwrap().trace, other.unwrap());
    }
}
