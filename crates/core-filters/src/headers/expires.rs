//! `expires` of nginx: `Expires` and `Cache-Control: max-age` of a response, from a time that is
//! written or looked up.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use edgeway_base::{clock::Clock, units::Span};
use edgeway_core::chain::Exchange;
use edgeway_routes::values::{Template, Values};
use http::{HeaderMap, HeaderValue, StatusCode, header, response};

/// Last date that nginx sends for `max`, and its seconds.
const MAX: (&str, &str) = ("Thu, 31 Dec 2037 23:55:55 GMT", "max-age=315360000");
const EPOCH: &str = "Thu, 01 Jan 1970 00:00:01 GMT";
const NO_CACHE: &str = "no-cache";
const DAY: u64 = 86_400;

/// Compiled `expires`.
#[derive(Debug)]
pub(super) struct Expires {
    time: ExpiresValue,
    clock: Clock,
}

#[derive(Debug)]
enum ExpiresValue {
    Fixed(Time),
    /// Text that is one of the times, for each response.
    Template(Template),
}

/// Time at which a response expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    /// Headers stay as they are.
    Off,
    Epoch,
    Max,
    /// From the time of the response on, in seconds.
    After(i64),
    /// From `Last-Modified` on; from the time of the response if there is none.
    AfterChange(i64),
    /// At this second of the day, UTC.
    Daily(u64),
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" | "" => return Ok(Self::Off),
            "epoch" => return Ok(Self::Epoch),
            "max" => return Ok(Self::Max),
            _ => {}
        }
        if let Some(time) = text.strip_prefix('@') {
            let span: Span = time.parse().map_err(|_| problem(text))?;
            let second = span.0.as_secs();
            return (second < DAY)
                .then_some(Self::Daily(second))
                .ok_or_else(|| problem(text));
        }
        match text.strip_prefix("modified ") {
            Some(time) => signed(time).map(Self::AfterChange),
            None => signed(text).map(Self::After),
        }
        .ok_or_else(|| problem(text))
    }
}

fn problem(text: &str) -> String {
    format!("invalid time `{text}`")
}

/// Returns the seconds of a time with or without a sign.
fn signed(text: &str) -> Option<i64> {
    let text = text.trim();
    let (is_past, time) = match text.strip_prefix('-') {
        Some(time) => (true, time),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let span: Span = time.parse().ok()?;
    let seconds = i64::try_from(span.0.as_secs()).ok()?;
    Some(if is_past { -seconds } else { seconds })
}

impl Expires {
    /// Compiles a text with the value that was parsed from it.
    ///
    /// # Errors
    /// The message for the user.
    pub(super) fn new(text: &str, template: Template, clock: Clock) -> Result<Self, String> {
        let time = match template.fixed() {
            Some(_) => ExpiresValue::Fixed(text.parse()?),
            None => ExpiresValue::Template(template),
        };
        Ok(Self { time, clock })
    }

    /// Sets the headers of a response with one of the statuses that may be kept.
    pub(super) fn apply(&self, ex: &Exchange<'_>, head: &mut response::Parts) {
        // nginx finds that a range is not in the file once the headers are there.
        let is_of_file = || ex.facts.upstream.backend.is_none();
        let is_range = head.status == StatusCode::RANGE_NOT_SATISFIABLE && is_of_file();
        if !is_for(head.status) && !is_range {
            return;
        }
        let time = match &self.time {
            ExpiresValue::Fixed(time) => *time,
            ExpiresValue::Template(template) => {
                let mut text = String::new();
                let _undecided =
                    template.write_with(&Values::of_response(ex, head), None, &mut text);
                // Nothing is said of a time that is none, as with nginx.
                text.parse().unwrap_or(Time::Off)
            }
        };
        let changed = || date_of(&head.headers, &header::LAST_MODIFIED);
        if let Some((expires, control)) = time.headers(self.clock.wall(), changed) {
            head.headers.insert(header::EXPIRES, expires);
            head.headers.insert(header::CACHE_CONTROL, control);
        }
    }
}

impl Time {
    /// Returns `Expires` and `Cache-Control`.
    fn headers(
        self,
        now: SystemTime,
        changed: impl FnOnce() -> Option<SystemTime>,
    ) -> Option<(HeaderValue, HeaderValue)> {
        let fixed = |expires, control| {
            Some((
                HeaderValue::from_static(expires),
                HeaderValue::from_static(control),
            ))
        };
        let seconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let now = seconds(now);
        let (at, age) = match self {
            Self::Off => return None,
            Self::Epoch => return fixed(EPOCH, NO_CACHE),
            Self::Max => return fixed(MAX.0, MAX.1),
            Self::After(more) => (now.saturating_add(more), more),
            Self::AfterChange(more) => match changed() {
                Some(changed) => {
                    let at = seconds(changed).saturating_add(more);
                    (at, at.saturating_sub(now))
                }
                None => (now.saturating_add(more), more),
            },
            Self::Daily(second) => {
                let day = i64::try_from(DAY).unwrap_or(i64::MAX);
                let second = i64::try_from(second).unwrap_or_default();
                let today = now - now.rem_euclid(day) + second;
                let at = if today > now { today } else { today + day };
                (at, at - now)
            }
        };
        let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or_default());
        let expires = HeaderValue::try_from(httpdate::fmt_http_date(at)).ok()?;
        let control = if age < 0 {
            HeaderValue::from_static(NO_CACHE)
        } else {
            HeaderValue::try_from(format!("max-age={age}")).ok()?
        };
        Some((expires, control))
    }
}

fn date_of(headers: &HeaderMap, name: &header::HeaderName) -> Option<SystemTime> {
    let value = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(value).ok()
}

/// Returns true for the statuses to which nginx adds these headers.
fn is_for(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 201 | 204 | 206 | 301..=304 | 307 | 308
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_headers() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (text, changed, expected) in [
            ("30d", 0, Some((3_592_000, "max-age=2592000"))),
            ("+1h", 0, Some((1_003_600, "max-age=3600"))),
            ("0", 0, Some((1_000_000, "max-age=0"))),
            ("-1s", 0, Some((999_999, "no-cache"))),
            ("modified 1h", 999_000, Some((1_002_600, "max-age=2600"))),
            ("modified 1s", 999_000, Some((999_001, "no-cache"))),
            ("modified -1s", 0, Some((999_999, "no-cache"))),
            // The day began at second 950,400.
            ("@14h", 0, Some((1_000_800, "max-age=800"))),
            ("@13h", 0, Some((1_083_600, "max-age=83600"))),
            ("off", 0, None),
            ("", 0, None),
        ] {
            let time: Time = text.parse().unwrap();
            let changed = (changed > 0).then(|| UNIX_EPOCH + Duration::from_secs(changed));
            let expected = expected.map(|(at, control)| {
                let at = UNIX_EPOCH + Duration::from_secs(at);
                let date = HeaderValue::try_from(httpdate::fmt_http_date(at)).unwrap();
                (date, HeaderValue::from_static(control))
            });
            assert_eq!(time.headers(now, || changed), expected, "{text}");
        }
        for wrong in ["soon", "@25h", "modified", "modified x", "1"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
    }
}
