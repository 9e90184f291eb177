//! Reports the time taken by gateway and origin to clients.

mod config;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use edgeway_base::clock::Clock;
use edgeway_core::chain::{Exchange, Filter, Guard, Phases, Traits};
use http::{HeaderName, HeaderValue, response};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const X_RESPONSE_TIME: HeaderName = HeaderName::from_static("x-response-time");

/// The compiled filter.
#[derive(Debug)]
pub struct Timing {
    /// True to add `Server-Timing`.
    breakdown: bool,
    /// True to add `X-Response-Time`.
    total: bool,
    clock: Clock,
}

filter_kind!(Timing: config::TimingConfig = "timing");

impl Filter for Timing {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::RESPONSE, Guard::Nothing)
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let total = self.clock.now().saturating_duration_since(ex.facts.started);
        let headers = &mut head.headers;
        if self.breakdown {
            let mut text = format!("total;dur={}", Millis(total));
            if let Some(upstream) = ex.facts.upstream.first_byte {
                write!(text, ", upstream;dur={}", Millis(upstream))
                    .expect("a string takes any text");
            }
            // Added to the origin's own header: each names its metrics itself.
            headers.append(SERVER_TIMING, value(&text));
        }
        if self.total {
            headers.insert(X_RESPONSE_TIME, value(&format!("{}ms", Millis(total))));
        }
    }
}

fn value(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).expect("made of plain text");
    // HTTP/2 keeps headers in a table for the responses that follow, which have other times.
    value.set_sensitive(true);
    value
}

/// A duration in milliseconds with one decimal.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = self.0.as_micros() / 100;
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}
