//! The security headers of Helmet on every answer, our own replies included.

mod config;
#[cfg(test)]
mod tests;

use std::mem;

use http::{HeaderMap, HeaderName, HeaderValue, header, response};

use crate::chain::{CompileCx, Exchange, Filter, FilterKind, Phases, Scheme};

const X_POWERED_BY: HeaderName = HeaderName::from_static("x-powered-by");

/// The compiled filter.
#[derive(Debug)]
pub struct SecurityHeaders {
    /// What answers over plain HTTP begin with.
    plain: HeaderMap<HeaderValue>,
    /// What answers over TLS begin with.
    tls: HeaderMap<HeaderValue>,
    policy: Policy,
    /// The origin's `Server` stays.
    keep_server: bool,
    /// The origin's `X-Powered-By` stays.
    keep_powered_by: bool,
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

impl SecurityHeaders {
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
