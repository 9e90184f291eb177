//! What a client allows (RFC 9111, 5.2.1), and how a stored answer may be used for it (4).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

use super::{
    Lifetime,
    directives::{Argument, LONGEST, each},
};
use crate::base::http::list_of;

/// The directives of a request. The default is a client that asks for nothing special, for
/// routes on which clients have no say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Validated, however fresh. `Pragma: no-cache` where there is no `Cache-Control`.
    pub no_cache: bool,
    /// The answer to this request is not kept. One that is kept already may be used.
    pub no_store: bool,
    /// 504 rather than a request to the origin (RFC 9111, 5.2.1.7).
    pub only_if_cached: bool,
    /// No older than this; zero is `no_cache`.
    pub max_age: Option<Duration>,
    /// Fresh for so much longer.
    pub min_fresh: Option<Duration>,
    /// Stale answers too, up to this.
    pub max_stale: Option<Duration>,
    /// Stale answers too where the origin fails (RFC 5861, 4).
    pub stale_if_error: Option<Duration>,
}

impl Wants {
    pub fn of(headers: &HeaderMap) -> Self {
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

    /// The first counts where one stands there twice, and what cannot be read counts as the
    /// stricter thing: a `max-age` of nothing is 0, a `max-stale` of nothing allows nothing.
    fn add(&mut self, name: &[u8], argument: &Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
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
                .get_or_insert_with(|| read().unwrap_or(LONGEST));
        } else if is("max-stale") {
            let any = matches!(argument, Argument::None).then_some(LONGEST);
            self.max_stale
                .get_or_insert_with(|| any.or_else(read).unwrap_or_default());
        } else if is("stale-if-error") {
            self.stale_if_error
                .get_or_insert_with(|| read().unwrap_or_default());
        }
    }

    /// Tells that it may send a request to the origin although what is stored is fresh.
    pub fn demands(&self) -> bool {
        self.no_cache || self.max_age.is_some() || self.min_fresh.is_some()
    }

    /// The same without that: what is left costs the origin nothing. `no-store` keeps what
    /// this client gets out of the store, `only-if-cached` spares the origin, and the two
    /// that take stale responses do too.
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
    const PRAGMA: http::HeaderName = header::PRAGMA;
    headers.contains_key(PRAGMA)
        && list_of(headers, &PRAGMA).any(|member| member.eq_ignore_ascii_case(b"no-cache"))
}

/// How a stored answer may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// As it is.
    Fresh,
    /// As it is, while a new one is fetched (RFC 5861, 3).
    StaleWhileRevalidate,
    /// As it is: the client said `max-stale`.
    StaleAsAsked,
    /// Once the origin has said that it still holds.
    Validate,
    /// Not at all, and the origin is not to be asked: 504 (`only-if-cached`).
    GatewayTimeout,
}

/// How a stored answer may be used for a request (RFC 9111, 4, and RFC 5861, 3).
///
/// A client that says `max-age` or `min-fresh` but not `max-stale` wants nothing stale (RFC
/// 9111, 5.2.1.1 and 5.2.1.3), inside the window of the origin too.
pub fn judge(lifetime: &Lifetime, wants: &Wants, now: SystemTime) -> Use {
    let otherwise = if wants.only_if_cached {
        Use::GatewayTimeout
    } else {
        Use::Validate
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
            _ => Use::Fresh,
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
        return Use::StaleWhileRevalidate;
    }
    if wants.max_stale.is_some() && !lifetime.must_revalidate {
        return Use::StaleAsAsked;
    }
    otherwise
}

/// Whether a stored answer may be used since the origin failed: it could not be reached, or
/// answered 500, 502, 503 or 504 (RFC 5861, 4).
///
/// That counts above what the client said of ages, but for `no-cache`: who reloads a page
/// of a dead origin is better off with the old one.
pub fn after_error(lifetime: &Lifetime, wants: &Wants, now: SystemTime) -> bool {
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
