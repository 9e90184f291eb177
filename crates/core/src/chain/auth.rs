//! Request counts and refusals that all identity filters share.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use super::{AuditNote, Reply, RequestFacts, Verdict};
use crate::base::metrics::{IntCounter, Metrics};

/// Action of identity filters' refusals in the audit log.
const ACTION: &str = "auth";

edgeway_base::enum_table! {
    /// Result of a request at an identity filter.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Outcome => name {
        /// The client has proven its identity.
        Passed = "passed",
        /// The request carries no credentials.
        Missing = "missing",
        /// The credentials are invalid.
        Invalid = "invalid",
        /// The client has proven its identity, but is not permitted.
        Denied = "denied",
        /// The credentials cannot be checked at the moment.
        Unavailable = "unavailable",
    }
}

impl Outcome {
    /// RFC 9110, 15.5.2 and 15.5.4: an unknown client may retry with credentials, a known client
    /// may not.
    fn status(self) -> StatusCode {
        match self {
            Self::Passed => StatusCode::OK,
            Self::Missing | Self::Invalid => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Counters of one identity filter of one route.
#[derive(Clone, Debug)]
pub struct AuthMetrics([IntCounter; 5]);

impl AuthMetrics {
    pub fn new(filter: &'static str, route: &str, metrics: &Metrics) -> Self {
        Self(Outcome::ALL.map(|outcome| {
            metrics.counter(
                "edgeway_auth_total",
                "Requests at filters that authenticate clients, by outcome.",
                &[
                    ("filter", filter),
                    ("route", route),
                    ("outcome", outcome.name()),
                ],
            )
        }))
    }

    /// Counts a request that continues.
    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].inc();
    }

    /// Counts a request that is refused, and records it for the audit log.
    pub fn refuse(&self, facts: &mut RequestFacts, refusal: Refusal) -> Verdict {
        let mut reply = Reply::refuse(refusal.outcome.status(), refusal.reason);
        self.note(facts, refusal.outcome, &reply, refusal.subject);
        if let Some(detail) = refusal.detail {
            reply = reply.detail(detail);
        }
        if let Some(challenge) = refusal.challenge {
            reply = reply.header(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = refusal.retry_after {
            reply = reply.retry_after(Duration::from_secs(seconds.into()));
        }
        reply.into()
    }

    /// Counts and records a refusal as [`Self::refuse`] does, for a filter that makes its own
    /// reply.
    pub fn note(
        &self,
        facts: &mut RequestFacts,
        outcome: Outcome,
        reply: &Reply,
        subject: Option<String>,
    ) {
        self.count(outcome);
        facts.noted = Some(Box::new(AuditNote {
            action: ACTION,
            reason: reply.reason.unwrap_or(outcome.name()),
            subject,
            // A client that is redirected to the login page is not guessing credentials.
            is_strike: reply.status == StatusCode::UNAUTHORIZED,
        }));
    }
}

/// Builder of a refusal.
#[derive(Clone, Debug)]
#[must_use]
pub struct Refusal {
    outcome: Outcome,
    reason: &'static str,
    detail: Option<&'static str>,
    challenge: Option<HeaderValue>,
    retry_after: Option<u32>,
    subject: Option<String>,
}

impl Refusal {
    /// Starts a refusal; `reason` is the fixed word in the log, the metric and the audit log.
    pub fn new(outcome: Outcome, reason: &'static str) -> Self {
        Self {
            outcome,
            reason,
            detail: None,
            challenge: None,
            retry_after: None,
            subject: None,
        }
    }

    /// Adds one sentence for the reader of the error page.
    pub fn detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Adds the `WWW-Authenticate` header that a 401 must have (RFC 9110, 15.5.2).
    pub fn challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Adds the number of seconds after which a retry makes sense.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Adds the proven identity that the refusal is about. Never an unverified claim of the client,
    /// and never a secret.
    pub fn subject(mut self, subject: Option<&str>) -> Self {
        self.subject = subject.map(str::to_owned);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn a_refusal_is_counted_logged_and_names_the_remedy() {
        let (clock, metrics) = (Clock::test(), Metrics::default());
        let auth = AuthMetrics::new("jwt", "api", &metrics);
        let mut facts = RequestFacts::new(clock.now());
        let refusal = Refusal::new(Outcome::Invalid, "jwt_expired")
            .challenge(HeaderValue::from_static("Bearer"))
            .subject(Some("u1"));
        let Verdict::Reply(reply) = auth.refuse(&mut facts, refusal) else {
            panic!("it is no answer");
        };
        assert_eq!(reply.status, 401);
        assert_eq!(reply.reason, Some("jwt_expired"));
        assert_eq!(reply.headers[0].0, header::WWW_AUTHENTICATE);
        let noted = facts.noted.as_deref();
        assert_eq!(
            noted,
            Some(&AuditNote {
                action: "auth",
                reason: "jwt_expired",
                subject: Some("u1".to_owned()),
                is_strike: true,
            })
        );
        auth.count(Outcome::Passed);
        for (outcome, status) in [(Outcome::Denied, 403), (Outcome::Unavailable, 503)] {
            let refusal = Refusal::new(outcome, "x").retry_after(2);
            let Verdict::Reply(reply) = auth.refuse(&mut facts, refusal) else {
                panic!("it is no answer");
            };
            assert_eq!(reply.status, status);
            assert_eq!(reply.headers[0].1, "2");
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        for (outcome, count) in [("passed", 1), ("missing", 0), ("invalid", 1), ("denied", 1)] {
            let series = format!(
                "edgeway_auth_total{{filter=\"jwt\",outcome=\"{outcome}\",route=\"api\"}} {count}"
            );
            assert!(text.contains(&series), "{series} is not in {text}");
        }
    }
}
