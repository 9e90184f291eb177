//! Unusual request headers: browsers do not send them with every page, and proxies do not add them.
//! An origin may choose a response by one of them without listing it in `Vary`.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Prefixes of headers that browsers and proxies send.
const USUAL: [&str; 12] = [
    "accept",
    "cf-",
    "if-",
    "next-router-",
    "sec-ch-",
    "sec-fetch-",
    "sentry-",
    "x-amz",
    "x-b3-",
    "x-cloud-trace",
    "x-datadog-",
    "x-forwarded-",
];

/// Returns the unusual headers of a request, with their values.
pub fn unusual_headers(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    headers.iter().filter(|(name, _)| !is_usual(name))
}

fn is_usual(name: &HeaderName) -> bool {
    match *name {
        header::AUTHORIZATION
        | header::CACHE_CONTROL
        | header::CONNECTION
        | header::CONTENT_LENGTH
        | header::COOKIE
        | header::DNT
        | header::FORWARDED
        | header::HOST
        | header::ORIGIN
        | header::PRAGMA
        | header::RANGE
        | header::REFERER
        | header::TE
        | header::UPGRADE_INSECURE_REQUESTS
        | header::USER_AGENT
        | header::VIA => true,
        _ => {
            let name = name.as_str();
            USUAL.iter().any(|usual| name.starts_with(usual))
                || matches!(
                    name,
                    "b3" | "baggage"
                        | "cdn-loop"
                        | "next-url"
                        | "priority"
                        | "rsc"
                        | "save-data"
                        | "sec-gpc"
                        | "traceparent"
                        | "tracestate"
                        | "x-correlation-id"
                        | "x-real-ip"
                        | "x-request-id"
                        | "x-requested-with"
                )
        }
    }
}
