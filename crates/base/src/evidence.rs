//! Evidence that an event, such as a failure, is more frequent in some requests than in others.

/// Logarithm of the likelihood ratio from which evidence counts: 200 to 1.
pub const CERTAIN: f64 = 5.3;

/// Requests, and those of them with the event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    pub requests: u64,
    pub events: u64,
}

impl Events {
    /// Returns the part of the requests with the event; zero without requests.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
    pub fn ratio(self) -> f64 {
        self.events as f64 / self.requests.max(1) as f64
    }

    /// Returns the logarithm of the likelihood ratio between the part that was seen and `bound`; zero
    /// unless more was seen.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
    pub fn log_above(self, bound: f64) -> f64 {
        let seen = self.ratio().max(bound);
        let term = |seen: f64, expected: f64| {
            let is_seen = seen > 0.0;
            if is_seen {
                seen * (seen / expected).ln()
            } else {
                0.0
            }
        };
        self.requests as f64 * (term(seen, bound) + term(1.0 - seen, 1.0 - bound))
    }
}

/// Part of the requests that may fail where there is nothing to compare with.
pub const MAX_FAILED_ALONE: f64 = 0.05;

/// Evidence that an event is more frequent in one kind of requests than in another: the likelihood
/// of what was seen if it is, against the likelihood if it is as frequent in both, averaged over a
/// few ratios.
///
/// While the event is as frequent in both, the evidence exceeds [`CERTAIN`] at any time with a
/// probability of 0.5 % at most, however often it is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// Logarithm of the likelihood ratio for each alternative.
    logs: [f64; ALTERNATIVES.len()],
}

/// Ratios that stand for "more frequent".
const ALTERNATIVES: [f64; 5] = [1.7, 3.0, 6.0, 15.0, 50.0];

impl Evidence {
    /// Adds the events of one moment. Each fell to the suspected requests with a probability that
    /// their part of all requests and the ratio determine.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
    pub fn add(&mut self, suspected: Events, others: Events) {
        if suspected.requests == 0 || others.requests == 0 {
            // Nothing to compare with.
            return;
        }
        let [suspected_requests, other_requests] = [suspected, others].map(|it| it.requests as f64);
        let [in_suspected, in_others] = [suspected, others].map(|it| it.events as f64);
        let part = |ratio: f64| {
            let weighted = ratio * suspected_requests;
            weighted / (weighted + other_requests)
        };
        let expected = part(1.0);
        for (log, alternative) in self.logs.iter_mut().zip(ALTERNATIVES) {
            let part = part(alternative);
            *log += in_suspected * (part / expected).ln();
            *log += in_others * ((1.0 - part) / (1.0 - expected)).ln();
        }
    }

    /// Returns the logarithm of the average likelihood ratio.
    #[expect(clippy::cast_precision_loss, reason = "there are five")]
    pub fn log(&self) -> f64 {
        let highest = self.logs.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = self.logs.iter().map(|log| (log - highest).exp()).sum();
        highest + (sum / self.logs.len() as f64).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(requests: u64, events: u64) -> Events {
        Events { requests, events }
    }

    #[test]
    fn what_is_as_frequent_in_both_is_no_evidence() {
        let mut evidence = Evidence::default();
        evidence.add(events(100, 5), events(1_000, 50));
        assert!(evidence.log() < 0.0);
        evidence.add(events(100, 0), events(1_000, 0));
        assert!(evidence.log() < 0.0);
    }

    #[test]
    fn a_few_events_that_fall_to_few_requests_are_evidence() {
        let mut evidence = Evidence::default();
        evidence.add(events(50, 4), events(950, 0));
        assert!(evidence.log() > CERTAIN);
    }

    #[test]
    fn looks_at_equal_requests_hardly_ever_find_a_difference() {
        let mut wrong = 0;
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut evidence = Evidence::default();
            let mut draw = |requests: u64| {
                events(
                    requests,
                    (0..requests).filter(|_| random.f64() < 0.02).count() as u64,
                )
            };
            let is_wrong = (0..200).any(|_| {
                evidence.add(draw(5), draw(45));
                evidence.log() >= CERTAIN
            });
            wrong += u32::from(is_wrong);
        }
        assert!(wrong <= 4, "{wrong} of 400");
    }
}
