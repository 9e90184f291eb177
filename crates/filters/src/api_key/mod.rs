//! Lets clients pass that present a valid API key.
//!
//! Keys are long and random, so they are stored as one round of SHA-256. A presented key is hashed,
//! looked up by a part of the hash and compared in full, in a time that does not depend on the
//! position of the first difference.

mod config;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use edgeway_base::{clock::Clock, credential::ApiKeyHash, gateway_headers::GatewayHeaders};
use edgeway_core::{
    chain::{
        AuthMetrics, Credential, CredentialPlace, Exchange, Filter, Guard, Leniency, Outcome,
        Phases, Reply, RequestChanges, Traits, Verdict,
    },
    limits::{
        gcra::{Decision, Quota},
        key::Key as Place,
        memory::BucketTable,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Longest key that can be valid.
const MAX_KEY_LEN: usize = 512;

const BEARER: &[u8] = b"Bearer ";

/// The compiled filter.
pub struct ApiKey {
    header: HeaderName,
    /// True if the key follows the scheme `Bearer`.
    is_bearer: bool,
    /// Keys by a part of their hashes.
    keys: HashMap<u64, Vec<ApiKeyEntry>>,
    optional: bool,
    forward: Option<HeaderName>,
    /// Headers that no client may send.
    own: GatewayHeaders,
    strip: bool,
    /// Uses of each key, if any key has a rate.
    counts: Option<Arc<BucketTable>>,
    clock: Clock,
    challenge: HeaderValue,
    metrics: AuthMetrics,
}

/// A key and its hash.
struct ApiKeyEntry {
    name: Arc<str>,
    /// The name as sent to the backend.
    header: HeaderValue,
    hash: ApiKeyHash,
    limit: Option<KeyLimit>,
}

struct KeyLimit {
    quota: Quota,
    /// Key of the counter in the table.
    place: Place,
}

/// Key presented by a request.
#[derive(Clone, Copy)]
enum PresentedKey<'a> {
    Nothing,
    /// A value that cannot be a valid key.
    Malformed,
    Key(&'a [u8]),
}

/// Name of the key that let the request pass, for the backend.
struct VerifiedKey(HeaderValue);

filter_kind!(ApiKey: config::ApiKeyConfig = "api_key"; secret_names);

impl Filter for ApiKey {
    fn traits(self: Arc<Self>) -> Traits {
        let stripped = self.strip.then_some(&self.header);
        let changed = stripped.into_iter().chain(self.own.names());
        Traits {
            own_headers: self.own.as_slice().to_vec(),
            credentials: vec![Credential {
                place: CredentialPlace::of_header(self.header.clone(), "bearer"),
                is_stripped: self.strip,
            }],
            leniency: Leniency::Always.when(self.optional),
            request_changes: RequestChanges::names(changed.cloned()),
            ..Traits::new(Phases::REQUEST | Phases::UPSTREAM, Guard::Identity)
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let shown = self.shown(ex);
        let shown = match (shown, self.find(shown)) {
            (_, Some(key)) => format!("has the key `{}`", key.name),
            (PresentedKey::Nothing, _) if self.optional => "has no key, and needs none".to_owned(),
            (PresentedKey::Nothing, _) => format!("has no key in `{}`: 401", self.header),
            (PresentedKey::Malformed | PresentedKey::Key(_), None) => {
                "has an unknown key: 401".to_owned()
            }
        };
        vec![format!("this request {shown}")]
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        let shown = self.shown(ex);
        let is_nothing = matches!(shown, PresentedKey::Nothing);
        let Some(key) = self.find(shown) else {
            if is_nothing && self.optional {
                return Verdict::Next;
            }
            let (outcome, reason) = if is_nothing {
                (Outcome::Missing, "api_key_missing")
            } else {
                (Outcome::Invalid, "api_key_invalid")
            };
            let reply = Reply::refuse(StatusCode::UNAUTHORIZED, reason)
                .header(header::WWW_AUTHENTICATE, self.challenge.clone());
            return self.metrics.refuse(ex.facts, outcome, reply, None);
        };
        if let (Some(KeyLimit { quota, place }), Some(counts)) = (&key.limit, &self.counts) {
            let now = self.clock.now();
            let decision = counts.take(*place, quota, 1, Duration::ZERO, now);
            if let Decision::Refuse { retry_after, .. } = decision {
                ex.facts.limit = Some(Arc::clone(&key.name));
                let refusal = Reply::refuse(StatusCode::TOO_MANY_REQUESTS, "api_key_rate");
                return refusal
                    .retry_after(retry_after)
                    .detail("The rate limit of this key is exceeded.")
                    .into();
            }
        }
        self.metrics.count(Outcome::Passed);
        if self.forward.is_some() {
            ex.facts.put(VerifiedKey(key.header.clone()));
        }
        let identity = ex.facts.identity_mut();
        identity.api_key = Some(Arc::clone(&key.name));
        identity.user.get_or_insert_with(|| Arc::clone(&key.name));
        Verdict::Next
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        if self.strip {
            headers.remove(&self.header);
        }
        self.own.strip(headers);
        if let Some(name) = &self.forward
            && let Some(VerifiedKey(key)) = ex.facts.slot()
        {
            headers.insert(name.clone(), key.clone());
        }
    }
}

impl ApiKey {
    fn shown<'e>(&self, ex: &'e Exchange<'_>) -> PresentedKey<'e> {
        let mut values = ex.head.headers.get_all(&self.header).iter();
        let Some(value) = values.next() else {
            return PresentedKey::Nothing;
        };
        let mut key = value.as_bytes();
        if self.is_bearer {
            match key.split_at_checked(BEARER.len()) {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case(BEARER) => key = rest,
                // Credentials of another scheme, which this filter does not accept.
                _ => return PresentedKey::Malformed,
            }
        }
        let key = key.trim_ascii();
        if values.next().is_some() || key.is_empty() || key.len() > MAX_KEY_LEN {
            return PresentedKey::Malformed;
        }
        PresentedKey::Key(key)
    }

    fn find(&self, shown: PresentedKey<'_>) -> Option<&ApiKeyEntry> {
        let PresentedKey::Key(key) = shown else {
            return None;
        };
        let hash = ApiKeyHash::from_key(key);
        let bucket = self.keys.get(&hash.bucket())?;
        bucket.iter().find(|known| known.hash.is(&hash))
    }
}
