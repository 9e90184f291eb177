//! Lets clients pass that have presented a certificate: any certificate, or certain ones.
//!
//! The listener's handshake verifies the certificate; headers that a client sends have no effect
//! here.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_core::chain::{
    AuthMetrics, Certificate, Exchange, Filter, Guard, Outcome, Phases, Reply, Traits, Verdict,
};
use http::{HeaderValue, StatusCode};
use regex::bytes::Regex;

/// The compiled filter.
#[derive(Debug)]
pub struct ClientCert {
    /// Accepted subjects; any subject if empty.
    subjects: Box<[Subject]>,
    /// Accepted certificates, in lower-case hex; any certificate if empty.
    fingerprints: Box<[Box<str>]>,
    metrics: AuthMetrics,
}

#[derive(Debug)]
enum Subject {
    Exact(Box<str>),
    Like(Regex),
}

filter_kind!(ClientCert: config::ClientCertConfig = "client_cert");

impl Filter for ClientCert {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::REQUEST, Guard::Identity)
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let wanted = match (self.subjects.len(), self.fingerprints.len()) {
            (0, 0) => "any client certificate passes".to_owned(),
            (subjects, 0) => format!("certificates of {subjects} subjects pass"),
            (0, certificates) => format!("{certificates} certificates pass"),
            (subjects, certificates) => {
                format!("{certificates} certificates pass, if they are of {subjects} subjects")
            }
        };
        let shown = match ex.facts.client.certificate {
            Certificate::Verified(_) => "this request has one",
            Certificate::Absent | Certificate::NotAsked => "this request has none: 403",
        };
        vec![format!("{wanted}; {shown}")]
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        let Certificate::Verified(certificate) = ex.facts.client.certificate.clone() else {
            let reply = Reply::refuse(StatusCode::FORBIDDEN, "client_cert_missing")
                .detail("A client certificate is required.");
            return self.metrics.refuse(ex.facts, Outcome::Missing, reply, None);
        };
        let subject = text(&certificate.subject);
        let is_wanted = self.takes_subject(subject)
            && (self.fingerprints.is_empty() || self.takes(text(&certificate.fingerprint)));
        if !is_wanted {
            let reply = Reply::refuse(StatusCode::FORBIDDEN, "client_cert_denied")
                .detail("This client certificate is not allowed here.");
            let subject = Some(subject);
            return self
                .metrics
                .refuse(ex.facts, Outcome::Denied, reply, subject);
        }
        self.metrics.count(Outcome::Passed);
        let identity = ex.facts.identity_mut();
        identity.user.get_or_insert_with(|| Arc::from(subject));
        Verdict::Next
    }
}

impl ClientCert {
    fn takes_subject(&self, subject: &str) -> bool {
        self.subjects.is_empty()
            || self.subjects.iter().any(|wanted| match wanted {
                Subject::Exact(wanted) => **wanted == *subject,
                Subject::Like(wanted) => wanted.is_match(subject.as_bytes()),
            })
    }

    fn takes(&self, fingerprint: &str) -> bool {
        self.fingerprints
            .iter()
            .any(|wanted| **wanted == *fingerprint)
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}
