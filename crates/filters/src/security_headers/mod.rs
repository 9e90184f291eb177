//! Adds the security headers of Helmet to every response, the gateway's own replies included.

mod config;
#[cfg(test)]
mod tests;

use std::{mem, sync::Arc};

use edgeway_base::http::{has, write_header_line};
use edgeway_core::chain::{Exchange, Filter, Guard, Phases, ReadyLines, Scheme, Traits};
use http::{HeaderMap, HeaderName, HeaderValue, header, response};

const X_POWERED_BY: HeaderName = HeaderName::from_static("x-powered-by");

/// The compiled filter.
#[derive(Debug)]
pub struct SecurityHeaders {
    /// Initial headers of responses over plain HTTP.
    plain: AddedHeaders,
    /// Initial headers of responses over TLS.
    tls: AddedHeaders,
    policy: Policy,
    /// True to keep the origin's `Server`.
    keep_server: bool,
    /// True to keep the origin's `X-Powered-By`.
    keep_powered_by: bool,
}

/// Headers that this filter adds, made once.
#[derive(Debug)]
struct AddedHeaders {
    headers: HeaderMap<HeaderValue>,
    /// The same headers as the lines of an HTTP/1 response.
    lines: Arc<[u8]>,
    /// Bit n is set if one of the names has n bytes: for most headers of origins this alone shows
    /// that they are different.
    lengths: u64,
}

/// Policy if the origin sends the same header.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "SecurityHeadersPolicy")]
enum Policy {
    /// Keeps the origin's header.
    #[default]
    SetIfAbsent,
    /// Replaces the origin's header.
    Override,
}

filter_kind!(SecurityHeaders: config::SecurityHeadersConfig = "security_headers", on_by_default = true);

impl Filter for SecurityHeaders {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::RESPONSE, Guard::Nothing)
    }

    /// Merges the ready-made map of headers with the origin's: copying the map and moving the
    /// origin's headers over costs a quarter of inserting one by one, since no name or value is
    /// parsed or hashed again and the index never grows.
    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let ours = match ex.facts.client.scheme {
            Scheme::Http => &self.plain,
            Scheme::Https => &self.tls,
        };
        if matches!(ex.facts.lines, ReadyLines::Taken) && ours.is_apart(&head.headers) {
            self.strip(&mut head.headers);
            ex.facts.lines = ReadyLines::Given(Arc::clone(&ours.lines));
            return;
        }
        let ours = &ours.headers;
        let theirs = mem::replace(&mut head.headers, ours.clone());
        // Only the first line of a header comes with its name.
        let mut stays = true;
        let theirs = theirs.into_iter().filter(|(name, _)| {
            if let Some(name) = name {
                stays = self.stays(name, ours);
            }
            stays
        });
        // A header of the origin replaces ours, with all its lines.
        head.headers.extend(theirs);
    }
}

impl AddedHeaders {
    fn new(headers: HeaderMap<HeaderValue>) -> Self {
        let mut lines = Vec::new();
        for (name, value) in &headers {
            write_header_line(&mut lines, name.as_str().as_bytes(), value.as_bytes());
        }
        Self {
            lengths: headers.keys().fold(0, |bits, name| bits | bit(name)),
            lines: lines.into(),
            headers,
        }
    }

    /// Returns true if none of `theirs` has a name in this map.
    fn is_apart(&self, theirs: &HeaderMap<HeaderValue>) -> bool {
        !theirs
            .keys()
            .any(|name| self.lengths & bit(name) != 0 && self.headers.contains_key(name))
    }
}

/// Returns the bit for the length of a name; long names share the last bit.
fn bit(name: &HeaderName) -> u64 {
    1 << name.as_str().len().min(63)
}

impl SecurityHeaders {
    /// Removes headers that reveal versions to attackers.
    fn strip(&self, theirs: &mut HeaderMap<HeaderValue>) {
        if !self.keep_server {
            theirs.remove(header::SERVER);
        }
        if !self.keep_powered_by && has(theirs, &X_POWERED_BY) {
            theirs.remove(X_POWERED_BY);
        }
    }

    /// Returns true if a header of the origin is sent to the client.
    fn stays(&self, name: &HeaderName, ours: &HeaderMap) -> bool {
        // Headers that reveal versions to attackers are removed.
        if *name == header::SERVER {
            return self.keep_server;
        }
        if *name == X_POWERED_BY {
            return self.keep_powered_by;
        }
        self.policy == Policy::SetIfAbsent || !ours.contains_key(name)
    }
}
