//! Observations: the gateway's state, bans, rates of backends, and units, all at one moment.

use std::{collections::BTreeMap, time::Instant};

use chrono::{DateTime, Utc};
use edgeway_base::clock::Clock;
use edgeway_cli::ban::Bans;
use edgeway_operate::backends::Name;
use edgeway_operate::units::{Instances, Units};
use edgeway_status::{
    Snapshot,
    client::{Client, ClientError},
    snapshot::{BackendStatus, BanStatus, UpstreamStatus},
};

use super::as_number;

/// State of a gateway and of the units around it at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Observation {
    pub at: DateTime<Utc>,
    pub snapshot: Snapshot,
    pub bans: Vec<BanStatus>,
    /// Attempts per second that ended since the observation before, by `UPSTREAM/ADDRESS`. Empty in
    /// the first one.
    pub backend_rates: BTreeMap<String, f64>,
    pub instances: Instances,
}

impl Observation {
    /// Connections of clients, on all listeners.
    pub(super) fn connections(&self) -> u64 {
        let listeners = self.snapshot.listeners.iter();
        listeners.map(|listener| listener.connections).sum()
    }

    /// Requests in flight at all backends.
    pub(super) fn in_flight(&self) -> u64 {
        self.backends().map(|(_, backend)| backend.in_flight).sum()
    }

    pub(super) fn rates(&self) -> Rates {
        let routes = self.snapshot.routes.iter().map(|route| &route.traffic);
        let upstreams = self.snapshot.upstreams.iter();
        let attempts = upstreams.filter_map(|upstream| upstream.traffic.as_ref());
        let mut rates = Rates::default();
        for traffic in routes {
            rates.requests += traffic.rate;
            rates.client_errors += traffic.client_error_rate;
            rates.server_errors += traffic.server_error_rate;
        }
        for traffic in attempts {
            rates.attempts += traffic.rate;
            rates.failed_attempts += traffic.failure_rate;
        }
        rates
    }

    pub(super) fn backends(&self) -> impl Iterator<Item = (&UpstreamStatus, &BackendStatus)> {
        let upstreams = self.snapshot.upstreams.iter();
        upstreams.flat_map(|upstream| upstream.backends.iter().map(move |b| (upstream, b)))
    }
}

/// Rates of the whole gateway, per second.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Rates {
    pub requests: f64,
    pub client_errors: f64,
    pub server_errors: f64,
    pub attempts: f64,
    pub failed_attempts: f64,
}

/// Name of a backend as commands take it.
pub(super) fn name(upstream: &UpstreamStatus, backend: &BackendStatus) -> Name {
    Name::new(&upstream.name, &backend.address)
}

/// Makes observations of one gateway, and remembers the counts of the last one.
pub(super) struct Observer {
    client: Client,
    units: Units,
    clock: Clock,
    last: Option<AttemptCounts>,
}

/// Attempts of backends at one moment.
struct AttemptCounts {
    at: Instant,
    pid: u32,
    ended: BTreeMap<String, u64>,
}

impl Observer {
    pub(super) fn new(client: Client, more_units: &[String]) -> Self {
        Self {
            units: Units::new(&client.targets, more_units),
            client,
            clock: Clock::machine(),
            last: None,
        }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Makes an observation.
    ///
    /// # Errors
    ///
    /// If the gateway cannot be reached or refuses.
    pub(super) async fn observe(&mut self) -> Result<Observation, ClientError> {
        let snapshot = self.client.snapshot().await?;
        let now = self.clock.now();
        // An older gateway may have no such list; its state is worth showing without.
        let bans = match self.client.get("/v1/bans").await {
            Ok(Bans { bans }) => bans,
            Err(ClientError::Refused { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let instances = self.units.instances(&snapshot).await;
        let counts = AttemptCounts::new(&snapshot, now);
        let backend_rates = counts.rates(self.last.as_ref());
        self.last = Some(counts);
        Ok(Observation {
            at: self.clock.wall().into(),
            snapshot,
            bans,
            backend_rates,
            instances,
        })
    }
}

impl AttemptCounts {
    fn new(snapshot: &Snapshot, now: Instant) -> Self {
        let upstreams = snapshot.upstreams.iter();
        let backends = upstreams.flat_map(|upstream| {
            let each = upstream.backends.iter();
            each.map(|backend| (name(upstream, backend).to_string(), backend.requests))
        });
        Self {
            at: now,
            pid: snapshot.pid,
            ended: backends.collect(),
        }
    }

    /// Returns the rates since `before`. A successor counts from zero, so it has none.
    fn rates(&self, before: Option<&Self>) -> BTreeMap<String, f64> {
        let Some(before) = before.filter(|before| before.pid == self.pid) else {
            return BTreeMap::new();
        };
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 {
            return BTreeMap::new();
        }
        let rate = |(name, now): (&String, &u64)| {
            let more = now.checked_sub(*before.ended.get(name)?)?;
            Some((name.clone(), as_number(more) / seconds))
        };
        self.ended.iter().filter_map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn counts(at: Instant, pid: u32, ended: &[(&str, u64)]) -> AttemptCounts {
        let ended = ended.iter().map(|(name, n)| ((*name).to_owned(), *n));
        AttemptCounts {
            at,
            pid,
            ended: ended.collect(),
        }
    }

    #[test]
    fn rates_of_backends_are_differences_of_counts() {
        let start = Clock::test().now();
        let later = start + Duration::from_secs(2);
        let first = counts(start, 7, &[("web/a", 100), ("web/b", 50)]);
        assert!(first.rates(None).is_empty());
        let second = counts(later, 7, &[("web/a", 120), ("web/b", 10), ("web/c", 9)]);
        let rates = second.rates(Some(&first));
        // `b` was replaced by another backend of the same address, and `c` is new.
        assert_eq!(rates, [("web/a".to_owned(), 10.0)].into());
        let successor = counts(later, 8, &[("web/a", 120)]);
        assert!(successor.rates(Some(&first)).is_empty());
    }
}
