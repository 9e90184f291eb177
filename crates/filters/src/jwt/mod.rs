//! Lets requests pass by their JSON Web Token, and reports its user to limits, logs and backends.
//!
//! A token is verified once and remembered for a while by a fingerprint; its times are compared for
//! each request.

mod config;
mod jwks;
mod keys;
mod source;
#[doc(hidden)]
pub mod testkit;
#[cfg(test)]
mod tests;
mod token;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use edgeway_base::{clock::Clock, gateway_headers::GatewayHeaders, recent_values::RecentValues};
use edgeway_core::chain::{
    AsyncFilter, AuthMetrics, BoxFuture, Credential, CredentialPlace, Exchange, Filter, Guard,
    Leniency, Outcome, Phases, Reply, RequestChanges, Traits, Verdict,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use self::{
    jwks::{Jwks, KeySet, RefreshOutcome},
    keys::Key,
    source::SourceContent,
    token::{Token, TokenError, TokenRules, Verified},
};

/// Maximum length of a remembered token; longer ones are verified again each time, to save memory.
const MAX_REMEMBERED_LEN: usize = 4 * 1024;

/// Value of `Retry-After`, in seconds, while there are no keys yet.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The compiled filter.
#[derive(Debug)]
pub struct Jwt {
    keys: Keys,
    sources: Box<[CredentialPlace]>,
    rules: TokenRules,
    recent: RecentValues<CachedToken>,
    is_optional: bool,
    strip: TokenRemoval,
    /// Headers for claims, in the order of [`TokenRules::forward`].
    names: Box<[HeaderName]>,
    own: GatewayHeaders,
    challenges: Challenges,
    metrics: AuthMetrics,
    clock: Clock,
}

#[derive(Debug)]
enum Keys {
    Fixed(Box<[Key]>),
    Remote { jwks: Arc<Jwks>, stale: Duration },
}

/// Parts of the request to the backend from which the token is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenRemoval {
    Query,
    Everywhere,
    Nowhere,
}

/// All possible `WWW-Authenticate` headers.
#[derive(Debug)]
struct Challenges {
    problems: [HeaderValue; TokenError::ALL.len()],
    denied: HeaderValue,
    missing: HeaderValue,
}

/// A token that was verified with keys of this generation.
#[derive(Clone, Debug)]
struct CachedToken {
    verified: Arc<Verified>,
    generation: u64,
}

/// Claims of this request for the backend.
struct ForwardedClaims(Arc<Verified>);

/// Result of verifying a token.
#[derive(Debug)]
enum TokenVerdict {
    Passed(Arc<Verified>),
    Wrong(TokenError),
    Unavailable,
}

impl From<Result<Arc<Verified>, TokenError>> for TokenVerdict {
    fn from(result: Result<Arc<Verified>, TokenError>) -> Self {
        match result {
            Ok(verified) => Self::Passed(verified),
            Err(problem) => Self::Wrong(problem),
        }
    }
}

filter_kind!(Jwt: config::JwtConfig = "jwt"; secret_names);

impl Filter for Jwt {
    fn traits(self: Arc<Self>) -> Traits {
        // Keys may still be in flight.
        let waits = matches!(self.keys, Keys::Remote { .. });
        let credential = |place: &CredentialPlace| Credential {
            is_stripped: self.strips(place),
            place: place.clone(),
        };
        let credentials: Vec<_> = self.sources.iter().map(credential).collect();
        let stripped = { credentials.iter() }.filter(|each| each.is_stripped);
        let stripped: Vec<_> = stripped.filter_map(|each| each.place.header()).collect();
        let changes = !(stripped.is_empty() && self.names.is_empty());
        Traits {
            own_headers: self.own.as_slice().to_vec(),
            request_changes: RequestChanges::names(
                stripped.iter().chain(self.own.names()).cloned(),
            ),
            credentials,
            leniency: Leniency::Always.when(self.is_optional),
            ..Traits::new(
                Phases::REQUEST | Phases::UPSTREAM.when(changes),
                Guard::Identity,
            )
        }
        .waiting(Phases::REQUEST.when(waits), self)
    }

    fn explain(&self, _ex: &Exchange<'_>) -> Vec<String> {
        let places: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        let algorithms: Vec<&str> = self.rules.algorithms.iter().map(|alg| alg.name()).collect();
        let mut lines = vec![format!(
            "a token in {}, signed by {}{}",
            places.join(" or "),
            algorithms.join(" or "),
            if self.is_optional {
                "; requests without one are anonymous"
            } else {
                ""
            }
        )];
        lines.extend(self.rules.require.iter().map(|required| {
            let values: Vec<String> = required.values.iter().map(ToString::to_string).collect();
            format!(
                "its `{}` is or contains {}",
                required.claim,
                values.join(" or ")
            )
        }));
        lines
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        let token = match self.find(ex) {
            Ok(token) => token,
            Err(problem) => return self.refuse(ex, problem),
        };
        let judged = match &self.keys {
            Keys::Fixed(keys) => self.judge(&token, keys, 0).into(),
            Keys::Remote { .. } => TokenVerdict::Unavailable,
        };
        self.conclude(ex, judged)
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        for place in self.sources.iter().filter(|place| self.strips(place)) {
            place.strip(headers);
        }
        self.own.strip(headers);
        if let Some(ForwardedClaims(verified)) = ex.facts.slot() {
            for (name, value) in self.names.iter().zip(&verified.forward) {
                if let Some(value) = value {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
}

impl AsyncFilter for Jwt {
    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let token = match self.find(ex) {
                Ok(token) => token,
                Err(problem) => return self.refuse(ex, problem),
            };
            let judged = match &self.keys {
                Keys::Fixed(keys) => self.judge(&token, keys, 0).into(),
                Keys::Remote { jwks, stale } => self.judge_remote(&token, jwks, *stale).await,
            };
            self.conclude(ex, judged)
        })
    }
}

impl Jwt {
    fn strips(&self, place: &CredentialPlace) -> bool {
        match self.strip {
            TokenRemoval::Query => matches!(place, CredentialPlace::Query(_)),
            TokenRemoval::Everywhere => true,
            TokenRemoval::Nowhere => false,
        }
    }

    /// Returns the token of the first location that has one; `Err(None)` if there is no token.
    fn find<'a>(&'a self, ex: &Exchange<'a>) -> Result<Cow<'a, str>, Option<TokenError>> {
        for place in &self.sources {
            match source::find(place, ex) {
                SourceContent::Nothing => {}
                SourceContent::Token(token) => return Ok(token),
                SourceContent::Unclear => return Err(Some(TokenError::Malformed)),
            }
        }
        Err(None)
    }

    /// Verifies a token, or takes the result from the remembered tokens.
    fn judge(
        &self,
        text: &str,
        keys: &[Key],
        generation: u64,
    ) -> Result<Arc<Verified>, TokenError> {
        let now = self.clock.wall().duration_since(UNIX_EPOCH);
        let now = now.map_or(0.0, |since| since.as_secs_f64());
        let fingerprint = self.recent.fingerprint([text.as_bytes()]);
        if let Some(seen) = self.recent.get(fingerprint)
            && seen.generation == generation
        {
            let timely = seen.verified.is_timely(now, self.rules.leeway);
            if timely == Err(TokenError::Expired) {
                self.recent.remove(fingerprint);
            }
            return timely.map(|()| seen.verified);
        }
        let verified = Token::parse(text, &self.rules)?.verify(keys, &self.rules)?;
        verified.is_timely(now, self.rules.leeway)?;
        let verified = Arc::new(verified);
        if text.len() <= MAX_REMEMBERED_LEN {
            let seen = CachedToken {
                verified: Arc::clone(&verified),
                generation,
            };
            self.recent.insert(fingerprint, seen);
        }
        Ok(verified)
    }

    async fn judge_remote(&self, text: &str, jwks: &Jwks, stale: Duration) -> TokenVerdict {
        let with = |set: &KeySet| self.judge(text, &set.keys, set.generation);
        let known = jwks.keys(stale);
        let generation = known.as_ref().map(|set| set.generation);
        let result = match known {
            Some(set) => with(&set),
            // A token that no key could make valid needs no keys.
            None => match Token::parse(text, &self.rules) {
                Err(problem) => Err(problem),
                Ok(_) => Err(TokenError::Key),
            },
        };
        let is_unknown = match &result {
            Err(TokenError::Key) => true,
            // A token without `kid` may be signed with any new key.
            Err(TokenError::Signature) => {
                Token::parse(text, &self.rules).is_ok_and(|token| token.kid.is_none())
            }
            _ => false,
        };
        if !is_unknown {
            return result.into();
        }
        match jwks.newer(generation, stale).await {
            RefreshOutcome::Changed => match jwks.keys(stale) {
                Some(set) => with(&set).into(),
                None => TokenVerdict::Unavailable,
            },
            RefreshOutcome::Same => result.into(),
            RefreshOutcome::Unknown => TokenVerdict::Unavailable,
        }
    }

    fn conclude(&self, ex: &mut Exchange<'_>, judged: TokenVerdict) -> Verdict {
        let verified = match judged {
            TokenVerdict::Passed(verified) => verified,
            TokenVerdict::Wrong(problem) => return self.refuse(ex, Some(problem)),
            TokenVerdict::Unavailable => {
                let reply = Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "jwt_unavailable")
                    .detail("Tokens cannot be verified at the moment.")
                    .retry_after(RETRY_AFTER);
                return self
                    .metrics
                    .refuse(ex.facts, Outcome::Unavailable, reply, None);
            }
        };
        if let Some(user) = &verified.user {
            ex.facts.identity_mut().user = Some(Arc::clone(user));
        }
        if !verified.is_entitled {
            let reply = Reply::refuse(StatusCode::FORBIDDEN, "jwt_claims")
                .detail("You are signed in, but not allowed to do this.")
                .header(header::WWW_AUTHENTICATE, self.challenges.denied.clone());
            let user = verified.user.as_deref();
            return self.metrics.refuse(ex.facts, Outcome::Denied, reply, user);
        }
        self.metrics.count(Outcome::Passed);
        ex.facts.identity_mut().claims = Some(verified.claims.clone());
        if !self.names.is_empty() {
            ex.facts.put(ForwardedClaims(verified));
        }
        Verdict::Next
    }

    /// Handles a request without a token (`None`) or with an invalid one: it passes without an
    /// identity if tokens are optional, and is refused otherwise.
    fn refuse(&self, ex: &mut Exchange<'_>, problem: Option<TokenError>) -> Verdict {
        let outcome = match problem {
            Some(_) => Outcome::Invalid,
            None => Outcome::Missing,
        };
        if self.is_optional {
            self.metrics.count(outcome);
            return Verdict::Next;
        }
        let (reply, challenge) = match problem {
            Some(problem) => (
                Reply::refuse(StatusCode::UNAUTHORIZED, problem.reason())
                    .detail("The token of this request is not valid."),
                &self.challenges.problems[problem],
            ),
            None => (
                Reply::refuse(StatusCode::UNAUTHORIZED, "jwt_missing")
                    .detail("A token is required."),
                &self.challenges.missing,
            ),
        };
        let reply = reply.header(header::WWW_AUTHENTICATE, challenge.clone());
        self.metrics.refuse(ex.facts, outcome, reply, None)
    }
}
