//! Request directives (RFC 9111, 5.2.1), and the use of a stored response under them (4).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

use super::{
    Lifetime,
    directives::{Argument, MAX_SECONDS, each},
};
use crate::base::http::list_of;

/// Cache directives of a request. The default is a client without directives, also used on routes
/// that ignore them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// Forces validation, however fresh. Also set by `Pragma: no-cache` without `Cache-Control`.
    pub no_cache: bool,
    /// Forbids storing the response to this request. A stored response may be used.
    pub no_store: bool,
    /// Requires 504 rather than a request to the origin (RFC 9111, 5.2.1.7).
    pub only_if_cached: bool,
    /// Maximum age; zero means `no_cache`.
    pub max_age: Option<Duration>,
    /// Minimum freshness left.
    pub min_fresh: Option<Duration>,
    /// Maximum staleness that the client accepts.
    pub max_stale: Option<Duration>,
    /// Maximum staleness that the client accepts if the origin fails (RFC 5861, 4).
    pub stale_if_error: Option<Duration>,
}

impl RequestDirectives {
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut wants = Self::default();
        if !headers.contains_key(header::CACHE_CONTROL) {
            wants.no_cache = is_pragma_no_cache(headers);
            return wants;
        }
        for line in headers.get_all(header::CACHE_CONTROL) {
            each(line.as_bytes(), |name, argument| wants.add(name, argument));
        }
        wants
    }

    /// Adds a directive. The first of repeated ones counts, and an invalid value gets the stricter
    /// meaning: an invalid `max-age` is 0, an invalid `max-stale` allows nothing.
    fn add(&mut self, name: &[u8], argument: &Argument<'_>) {
        let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
        let read = || argument.seconds();
        if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            self.max_age
                .get_or_insert_with(|| read().unwrap_or_default());
        } else if is("min-fresh") {
            self.min_fresh
                .get_or_insert_with(|| read().unwrap_or(MAX_SECONDS));
        } else if is("max-stale") {
            let any = matches!(argument, Argument::None).then_some(MAX_SECONDS);
            self.max_stale
                .get_or_insert_with(|| any.or_else(read).unwrap_or_default());
        } else if is("stale-if-error") {
            self.stale_if_error
                .get_or_insert_with(|| read().unwrap_or_default());
        }
    }

    /// Returns true if the directives may send a request to the origin although a fresh response is
    /// stored.
    pub fn demands(&self) -> bool {
        self.no_cache || self.max_age.is_some() || self.min_fresh.is_some()
    }

    /// Removes the directives of [`RequestDirectives::demands`]: those left cost the origin nothing. `no-store`
    /// keeps this client's response out of the store, and `only-if-cached` and the two that accept
    /// stale responses save requests to the origin.
    #[must_use]
    pub fn without_demands(self) -> Self {
        Self {
            no_cache: false,
            max_age: None,
            min_fresh: None,
            ..self
        }
    }

    fn asks_for_validation(&self) -> bool {
        self.no_cache || self.max_age.is_some_and(|most| most.is_zero())
    }
}

pub(super) fn is_pragma_no_cache(headers: &HeaderMap) -> bool {
    list_of(headers, &header::PRAGMA).any(|member| member.eq_ignore_ascii_case(b"no-cache"))
}

/// Ways in which a stored response may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usability {
    /// The response is fresh and used as stored.
    Fresh,
    /// The stale response is used while it is revalidated (RFC 5861, 3).
    StaleWhileRevalidate,
    /// The stale response is used: the client sent `max-stale`.
    StaleAsAsked,
    /// The response is used after successful validation.
    Validate,
    /// The response is not used, and the origin not contacted: 504 (`only-if-cached`).
    GatewayTimeout,
}

/// Decides how a stored response may be used for a request (RFC 9111, 4, and RFC 5861, 3).
///
/// A client that sends `max-age` or `min-fresh` without `max-stale` does not accept stale responses
/// (RFC 9111, 5.2.1.1 and 5.2.1.3), even within the origin's window.
pub fn judge(lifetime: &Lifetime, wants: &RequestDirectives, now: SystemTime) -> Usability {
    let otherwise = if wants.only_if_cached {
        Usability::GatewayTimeout
    } else {
        Usability::Validate
    };
    let age = lifetime.age(now);
    if lifetime.always_validate
        || wants.asks_for_validation()
        || wants.max_age.is_some_and(|most| age > most)
    {
        return otherwise;
    }
    if age < lifetime.fresh_for {
        let left = lifetime.fresh_for.saturating_sub(age);
        return match wants.min_fresh {
            Some(least) if left < least => otherwise,
            _ => Usability::Fresh,
        };
    }
    let stale_for = lifetime.stale_for(now);
    if wants.min_fresh.is_some() {
        return otherwise;
    }
    match wants.max_stale {
        Some(most) if stale_for > most => return otherwise,
        None if wants.max_age.is_some() => return otherwise,
        _ => {}
    }
    if stale_for < lifetime.stale_while_revalidate {
        return Usability::StaleWhileRevalidate;
    }
    if wants.max_stale.is_some() && !lifetime.must_revalidate {
        return Usability::StaleAsAsked;
    }
    otherwise
}

/// Returns true if a stored response may be used after the origin failed: the origin was
/// unreachable, or responded with 500, 502, 503 or 504 (RFC 5861, 4).
///
/// This overrides the client's limits on age, except `no-cache`: a user who reloads a page of a
/// failed origin is better off with the stored one.
pub fn after_error(lifetime: &Lifetime, wants: &RequestDirectives, now: SystemTime) -> bool {
    if lifetime.always_validate || wants.no_cache {
        return false;
    }
    if lifetime.is_fresh(now) {
        return true;
    }
    let by_client = match wants.stale_if_error {
        Some(window) if !lifetime.must_revalidate => window,
        _ => Duration::ZERO,
    };
    lifetime.stale_for(now) < lifetime.stale_if_error.max(by_client)
}
