//! Expiry of certificates, as a metric.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use rustls::sign::CertifiedKey;

use super::pair::{self, Certificate};
use crate::base::metrics::{Metrics, Series};

/// Expiry metric of the certificates of a listener.
#[derive(Debug)]
pub(super) struct Expiries {
    metrics: Metrics,
    listener: Arc<str>,
    known: Mutex<ExpiryByName>,
}

/// Expiry by the first name of a certificate. If several share a name, the earliest counts.
#[derive(Debug, Default)]
struct ExpiryByName {
    files: BTreeMap<Box<str>, i64>,
    managed: BTreeMap<Box<str>, i64>,
}

impl Expiries {
    pub(super) fn new(metrics: &Metrics, listener: &Arc<str>) -> Self {
        Self {
            metrics: metrics.clone(),
            listener: Arc::clone(listener),
            known: Mutex::default(),
        }
    }

    /// Returns the names and ends of the certificates from files: others are renewed, or stand in for
    /// one that is not there yet.
    pub(super) fn of_files(&self) -> Vec<(Box<str>, i64)> {
        let known = self.known.lock();
        let ends = known.files.iter();
        ends.map(|(name, not_after)| (name.clone(), *not_after))
            .collect()
    }

    pub(super) fn set_files(&self, certificates: &[Arc<Certificate>]) {
        let mut files = BTreeMap::new();
        for certificate in certificates {
            let name = certificate.title().into();
            files
                .entry(name)
                .and_modify(|known: &mut i64| *known = certificate.not_after.max(*known))
                .or_insert(certificate.not_after);
        }
        let mut known = self.known.lock();
        for gone in known.files.keys().filter(|name| !files.contains_key(*name)) {
            ExpiryGauge::forget(&self.metrics, &self.listener, gone);
        }
        known.files = files;
        self.show(&known);
    }

    pub(super) fn set_managed(&self, name: &str, certificate: &CertifiedKey) {
        let Some(not_after) = certificate.cert.first().and_then(pair::not_after) else {
            return;
        };
        let mut known = self.known.lock();
        known
            .managed
            .insert(name.to_ascii_lowercase().into(), not_after);
        self.show(&known);
    }

    /// Returns true if a series of this listener is unrelated to expiry, or its certificate exists.
    pub(super) fn has(&self, series: Series<'_>) -> bool {
        let Some(name) = series.get("name").filter(|_| series.family == NAME) else {
            return true;
        };
        let known = self.known.lock();
        known.files.contains_key(name) || known.managed.contains_key(name)
    }

    /// Publishes all values again, since another configuration may have overwritten them.
    pub(super) fn publish(&self) {
        self.show(&self.known.lock());
    }

    fn show(&self, known: &ExpiryByName) {
        // Clients see the certificate from the file.
        for (name, not_after) in known.managed.iter().chain(&known.files) {
            let gauge = ExpiryGauge::new(&self.metrics, &self.listener, name);
            gauge.not_after.set(*not_after);
        }
    }
}

const DAY: i64 = 24 * 60 * 60;

pub(super) const NAME: &str = "edgeway_certificate_expiry_timestamp_seconds";

edgeway_base::metric_handles! {
    struct ExpiryGauge(listener, name) {
        not_after: IntGauge = NAME,
            "Expiry time of a certificate in seconds since 1970, by its first name.";
    }
}

/// Why a certificate needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpiryWarning {
    NotYet,
    /// Full days that are left.
    Soon(i64),
    RunOut,
}

impl Certificate {
    pub(super) fn is_valid(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Returns the problem with the certificate at `now`: expired, not valid yet, or with less than
    /// a fifth of its lifetime left, which never happens if it is renewed at two thirds.
    pub(super) fn worry(&self, now: i64) -> Option<ExpiryWarning> {
        let left = self.not_after - now;
        let soon = ((self.not_after - self.not_before) / 5).min(21 * DAY);
        if left < 0 {
            Some(ExpiryWarning::RunOut)
        } else if now < self.not_before {
            Some(ExpiryWarning::NotYet)
        } else {
            (left < soon).then_some(ExpiryWarning::Soon(left / DAY))
        }
    }
}

impl fmt::Display for ExpiryWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet => f.write_str("is not valid yet"),
            Self::Soon(0) => f.write_str("expires within a day"),
            Self::Soon(1) => f.write_str("expires in a day"),
            Self::Soon(days) => write!(f, "expires in {days} days"),
            Self::RunOut => f.write_str("has expired"),
        }
    }
}

/// Converts to seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::{pair::Certificate, testkit::certificate};

    /// Warning about a certificate with a lifetime of `lifetime` days that is `age` days old.
    fn message(lifetime: i64, age: i64) -> Option<String> {
        let made = certificate(&["a.test"], lifetime * super::DAY);
        let certificate = Certificate {
            not_before: 0,
            key: made.key.clone(),
            names: made.names.clone(),
            serial: made.serial.clone(),
            not_after: made.not_after,
        };
        let worry = certificate.worry(age * super::DAY);
        worry.map(|worry| worry.to_string())
    }

    #[test]
    fn a_certificate_about_to_expire_is_reported_in_time() {
        for (lifetime, age, expected) in [
            (90, 60, None),
            (90, 72, None),
            (90, 73, Some("expires in 17 days")),
            (90, 89, Some("expires in a day")),
            (90, 90, Some("expires within a day")),
            (90, 91, Some("has expired")),
            (90, -1, Some("is not valid yet")),
            // Long lifetimes do not warn for months, short ones not all the time.
            (800, 770, None),
            (800, 780, Some("expires in 20 days")),
            (6, 4, None),
            (6, 5, Some("expires in a day")),
        ] {
            assert_eq!(
                message(lifetime, age).as_deref(),
                expected,
                "{lifetime} {age}"
            );
        }
    }
}
