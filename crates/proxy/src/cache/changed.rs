//! Clients that have changed data of a Next.js app by a server action.
//!
//! The response to such an action says `x-action-revalidated`, but not which pages are older now. So
//! the client gets a cookie with the time, and stored responses that are older are validated for it
//! from then on; what the origin sends replaces them for all clients.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use edgeway_base::{http::values, query::cookies};
use edgeway_cache::route::CHANGED_COOKIE;
use edgeway_core::chain::Scheme;
use http::{HeaderName, HeaderValue, Method, header};
use memchr::memmem;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::context::Context;

/// Header of responses to server actions that have revalidated something.
const REVALIDATED: HeaderName = HeaderName::from_static("x-action-revalidated");

/// Time for which a client gets no response from before its action. Each stored response is validated
/// once for that, so a day costs little.
const REMEMBERED: Duration = Duration::from_hours(24);

/// Adds the cookie to the response to an action that has revalidated something.
pub(crate) fn mark(request: &RequestHeader, response: &mut ResponseHeader, ctx: &Context) {
    if request.method != Method::POST
        || ctx.gateway.cache.is_none()
        || !response.headers.contains_key(REVALIDATED)
    {
        return;
    }
    let now = ctx.live().world.clock.wall();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut cookie = format!(
        "{CHANGED_COOKIE}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax",
        since.as_millis(),
        REMEMBERED.as_secs()
    );
    if ctx.facts.client.scheme == Scheme::Https {
        // Writing to a String cannot fail.
        let _infallible = write!(cookie, "; Secure");
    }
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        // A valid value makes a valid header.
        let _added = response.append_header(header::SET_COOKIE, cookie);
    }
}

/// Returns the time since the client's last action, if it remembers one.
pub(super) fn ago(request: &RequestHeader, now: SystemTime) -> Option<Duration> {
    let mut lines = values(&request.headers, &header::COOKIE);
    // Most clients have none, and may have long cookies of others.
    lines.find(|line| memmem::find(line.as_bytes(), CHANGED_COOKIE.as_bytes()).is_some())?;
    let texts = cookies(&request.headers, CHANGED_COOKIE.as_bytes());
    let times = texts.filter_map(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(times.max()?))?;
    // The clock of another gateway may be ahead.
    let ago = now.duration_since(time).unwrap_or_default();
    (ago < REMEMBERED).then_some(ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_counts_for_a_day() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (cookie, expected) in [
            ("a=1; edgeway-changed=999990000", Some(10)),
            (
                "edgeway-changed=999990000; edgeway-changed=999995000",
                Some(5),
            ),
            // The clock of another gateway was ahead.
            ("edgeway-changed=1000000001", Some(0)),
            ("edgeway-changed=900000000", None),
            ("edgeway-changed=x", None),
            ("edgeway-changed=-1", None),
            ("edgeway-change=999990000", None),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header("cookie", cookie).unwrap();
            let since = ago(&request, now);
            assert_eq!(since, expected.map(Duration::from_secs), "{cookie}");
        }
    }
}
