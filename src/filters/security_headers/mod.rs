//! The security headers of Helmet on every answer, our own replies included.

mod config;
#[cfg(test)]
mod tests;

use std::{mem, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header, response};

use crate::chain::{CompileCx, Exchange, Filter, FilterKind, Phases, ReadyLines, Scheme};

const X_POWERED_BY: HeaderName = HeaderName::from_static("x-powered-by");

/// The compiled filter.
#[derive(Debug)]
pub struct SecurityHeaders {
    /// What answers over plain HTTP begin with.
    plain: Ours,
    /// What answers over TLS begin with.
    tls: Ours,
    policy: Policy,
    /// The origin's `Server` stays.
    keep_server: bool,
    /// The origin's `X-Powered-By` stays.
    keep_powered_by: bool,
}

/// The headers of ours, made once.
#[derive(Debug)]
struct Ours {
    headers: HeaderMap<HeaderValue>,
    /// The same as they stand in an HTTP/1 head.
    lines: Arc<[u8]>,
    /// Bit n is set if one of the names has n bytes: most headers of origins are told
    /// apart from ours by that alone.
    lengths: u64,
}

/// Whose header counts if the origin sends one too.
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
    /// The origin's.
    #[default]
    SetIfAbsent,
    /// Ours.
    Override,
}

impl FilterKind for SecurityHeaders {
    const NAME: &'static str = "security_headers";
    const ON_BY_DEFAULT: bool = true;
    type Config = config::SecurityHeadersConfig;
    type Filter = Self;

    fn compile(config: config::SecurityHeadersConfig, cx: &mut CompileCx<'_>) -> Option<Self> {
        config.compile(cx)
    }
}

impl Filter for SecurityHeaders {
    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    /// The headers of ours are a map made once: copying it and moving the origin's
    /// headers over costs a quarter of inserting one by one, since nothing of ours is
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
        // A name comes with the first of its lines only.
        let mut stays = true;
        let theirs = theirs.into_iter().filter(|(name, _)| {
            if let Some(name) = name {
                stays = self.stays(name, ours);
            }
            stays
        });
        // A name of theirs takes the place of ours, with all its lines.
        head.headers.extend(theirs);
    }
}

impl Ours {
    fn new(headers: HeaderMap<HeaderValue>) -> Self {
        let mut lines = Vec::new();
        for (name, value) in &headers {
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value.as_bytes());
            lines.extend_from_slice(b"\r\n");
        }
        Self {
            lengths: headers.keys().fold(0, |bits, name| bits | bit(name)),
            lines: lines.into(),
            headers,
        }
    }

    /// Whether none of `theirs` has a name of ours.
    fn is_apart(&self, theirs: &HeaderMap<HeaderValue>) -> bool {
        !theirs
            .keys()
            .any(|name| self.lengths & bit(name) != 0 && self.headers.contains_key(name))
    }
}

/// The bit that stands for a name's length; long ones share the last.
fn bit(name: &HeaderName) -> u64 {
    1 << name.as_str().len().min(63)
}

impl SecurityHeaders {
    /// Takes away what tells attackers which versions to try.
    fn strip(&self, theirs: &mut HeaderMap<HeaderValue>) {
        if !self.keep_server {
            theirs.remove(header::SERVER);
        }
        if !self.keep_powered_by {
            theirs.remove(X_POWERED_BY);
        }
    }

    /// Whether a header of the origin's goes on to the client.
    fn stays(&self, name: &HeaderName, ours: &HeaderMap) -> bool {
        // What tells attackers which versions to try goes away.
        if *name == header::SERVER {
            return self.keep_server;
        }
        if *name == X_POWERED_BY {
            return self.keep_powered_by;
        }
        self.policy == Policy::SetIfAbsent || !ours.contains_key(name)
    }
}
