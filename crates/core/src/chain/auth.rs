//! Request counts and refusals that all identity filters share.

use http::StatusCode;

use super::{AuditNote, Reply, RequestFacts, Verdict};

/// Action of identity filters' refusals in the audit log.
const ACTION: &str = "auth";

edgeway_base::enum_table! {
    /// Result of a request at an identity filter.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

edgeway_base::metric_handles! {
    /// Counters of one identity filter of one route.
    #[derive(Clone, Debug)]
    pub struct AuthMetrics(filter, route) {
        by_outcome: [IntCounter; outcome: Outcome::name] = "edgeway_auth_total",
            "Requests at filters that authenticate clients, by outcome.";
    }
}

impl AuthMetrics {
    /// Counts a request that continues.
    pub fn count(&self, outcome: Outcome) {
        self.by_outcome[outcome].inc();
    }

    /// Counts a request that is refused, and records it for the audit log. An unknown client may
    /// retry with credentials (401), a known client may not (403; RFC 9110, 15.5.2 and 15.5.4).
    ///
    /// `subject` is the proven identity that the refusal is about. Never an unverified claim of the
    /// client, and never a secret.
    pub fn refuse(
        &self,
        facts: &mut RequestFacts,
        outcome: Outcome,
        reply: Reply,
        subject: Option<&str>,
    ) -> Verdict {
        self.count(outcome);
        facts.noted = Some(Box::new(AuditNote {
            action: ACTION,
            reason: reply.reason.unwrap_or(outcome.name()),
            subject: subject.map(str::to_owned),
            // A client that is redirected to the login page is not guessing credentials.
            is_strike: reply.status == StatusCode::UNAUTHORIZED,
            is_verdict: outcome != Outcome::Unavailable,
        }));
        reply.into()
    }
}

impl AuditNote {
    /// Returns true if an identity filter has judged the client, and refused it.
    pub fn is_of_identity(&self) -> bool {
        self.action == ACTION && self.is_verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{clock::Clock, metrics::Metrics};

    #[test]
    fn a_refusal_is_counted_logged_and_names_the_remedy() {
        let (clock, metrics) = (Clock::test(), Metrics::default());
        let auth = AuthMetrics::new(&metrics, "jwt", "api");
        let mut facts = RequestFacts::new(clock.now());
        let reply = Reply::refuse(StatusCode::UNAUTHORIZED, "jwt_expired");
        let refused = auth.refuse(&mut facts, Outcome::Invalid, reply, Some("u1"));
        let Verdict::Reply(reply) = refused else {
            panic!("it is no answer");
        };
        assert_eq!(reply.status, 401);
        assert_eq!(reply.reason, Some("jwt_expired"));
        let noted = facts.noted.as_deref();
        assert_eq!(
            noted,
            Some(&AuditNote {
                action: "auth",
                reason: "jwt_expired",
                subject: Some("u1".to_owned()),
                is_strike: true,
                is_verdict: true,
            })
        );
        // Whose credentials cannot be checked has not guessed any.
        let reply = Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "jwt_unavailable");
        drop(auth.refuse(&mut facts, Outcome::Unavailable, reply, None));
        let noted = facts.noted.as_deref();
        assert!(!noted.is_some_and(AuditNote::is_of_identity), "{noted:?}");
        auth.count(Outcome::Passed);
        let reply = Reply::refuse(StatusCode::FORBIDDEN, "x");
        let _refused = auth.refuse(&mut facts, Outcome::Denied, reply, None);
        assert_eq!(facts.noted.map(|noted| noted.is_strike), Some(false));
        let text = String::from_utf8(metrics.text()).unwrap();
        for (outcome, count) in [("passed", 1), ("missing", 0), ("invalid", 1), ("denied", 1)] {
            let series = format!(
                "edgeway_auth_total{{filter=\"jwt\",outcome=\"{outcome}\",route=\"api\"}} {count}"
            );
            assert!(text.contains(&series), "{series} is not in {text}");
        }
    }
}
