//! Tests of the policy, section by section; properties of any input are in [`properties`].

mod conditional;
mod freshness;
mod oracle;
mod outgoing;
mod properties;
mod request_directives;
mod storable;
mod targeted;
mod update;
mod vary;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::*;

/// Parses headers, one a line. `@-10` as a value is the date ten seconds ago.
fn head(lines: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        let value = value.trim();
        let value = value.strip_prefix('@').map_or(value.to_owned(), |offset| {
            httpdate::fmt_http_date(at(offset.parse().unwrap()))
        });
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

/// Returns a time, in seconds from the fixed time of every test.
impl Lifetime {
    /// Time left until the response turns stale; zero if it is stale.
    fn fresh_left(&self, now: SystemTime) -> Duration {
        self.fresh_for.saturating_sub(self.age(now))
    }
}

fn at(offset: i64) -> SystemTime {
    let start = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let span = Duration::from_secs(offset.unsigned_abs());
    if offset < 0 {
        start - span
    } else {
        start + span
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn now() -> ExchangeTimes {
    ExchangeTimes {
        request_time: at(0),
        response_time: at(0),
    }
}

/// Stores a 200 to a plain GET by the default rules.
fn stored(response: &str) -> Result<Lifetime, &'static str> {
    stored_with(&CacheRules::default(), "", 200, response)
}

fn stored_with(
    rules: &CacheRules,
    request: &str,
    status: u16,
    response: &str,
) -> Result<Lifetime, &'static str> {
    let origin_request = OriginRequest {
        method: &Method::GET,
        headers: &head(request),
        is_named: false,
    };
    let status = StatusCode::from_u16(status).unwrap();
    store(origin_request, status, &head(response), now(), rules).map_err(NotStorable::reason)
}

/// Returns the freshness lifetime in seconds, or the reason why the response is not stored.
#[track_caller]
fn fresh_for(response: &str) -> Result<u64, &'static str> {
    stored(response).map(|lifetime| lifetime.fresh_for.as_secs())
}
