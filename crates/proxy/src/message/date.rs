//! Header `Date` of responses.

use std::cell::RefCell;

use edgeway_base::clock::Clock;
use http::HeaderValue;

/// Returns the current `Date` (RFC 9110, 6.6.1), built once per second on each thread.
pub(crate) fn date(clock: &Clock) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = clock.wall();
    let second = now
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(at, value)| {
        if *at != second {
            *at = second;
            *value =
                HeaderValue::try_from(httpdate::fmt_http_date(now)).expect("a date is plain text");
        }
        value.clone()
    })
}
