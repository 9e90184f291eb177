//! Lets users pass with their name and password (RFC 7617).
//!
//! Passwords are compared with a slow hash, on threads that may block and never more at once than
//! the machine can handle; clients take turns (`base::turns`). Successful credentials are
//! remembered for a while, by a keyed hash, so that a page with forty files costs one comparison.

mod check;
mod config;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use edgeway_base::{clock::Clock, credential::PasswordHash, gateway_headers::GatewayHeaders};
use edgeway_core::chain::{
    AsyncFilter, AuthMetrics, BoxFuture, Credential, CredentialPlace, Exchange, Filter, Guard,
    Outcome, Phases, Reply, RequestChanges, Traits, Verdict,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use self::check::{ComparisonResult, Comparisons, Credentials};

const INVALID: &str = "basic_auth_invalid";

/// Longest credentials that can be valid.
const MAX_CREDENTIALS_LEN: usize = 1024;

/// The compiled filter.
pub struct BasicAuth {
    users: HashMap<Box<str>, User>,
    /// Hash that differs for every other list of users.
    list: Arc<[u8]>,
    challenge: HeaderValue,
    forward: Option<HeaderName>,
    /// Headers that no client may send.
    own: GatewayHeaders,
    strip: bool,
    checks: Arc<Comparisons>,
    clock: Clock,
    metrics: AuthMetrics,
}

struct User {
    name: Arc<str>,
    hash: Arc<PasswordHash>,
}

/// User that this filter let pass, for the backend.
struct VerifiedUser(HeaderValue);

filter_kind!(BasicAuth: config::BasicAuthConfig = "basic_auth");

impl Filter for BasicAuth {
    fn traits(self: Arc<Self>) -> Traits {
        let stripped = self.strip.then_some(&header::AUTHORIZATION);
        let changed = stripped.into_iter().chain(self.own.names());
        Traits {
            own_headers: self.own.as_slice().to_vec(),
            credentials: vec![Credential {
                place: CredentialPlace::Scheme("basic"),
                is_stripped: self.strip,
            }],
            request_changes: RequestChanges::names(changed.cloned()),
            ..Traits::new(Phases::UPSTREAM, Guard::Identity)
        }
        .waiting(Phases::REQUEST, self)
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let shown = match credentials(ex) {
            Ok(Some((user, _))) => format!("has credentials of `{}`", user.escape_debug()),
            Ok(None) => "has no credentials: 401".to_owned(),
            Err(MalformedCredentials) => "has malformed credentials: 401".to_owned(),
        };
        vec![format!(
            "{} users configured; this request {shown}",
            self.users.len()
        )]
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        if self.strip {
            headers.remove(header::AUTHORIZATION);
        }
        self.own.strip(headers);
        if let Some(name) = &self.forward
            && let Some(VerifiedUser(user)) = ex.facts.slot()
        {
            headers.insert(name.clone(), user.clone());
        }
    }
}

impl AsyncFilter for BasicAuth {
    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.decide(ex))
    }
}

impl BasicAuth {
    async fn decide(&self, ex: &mut Exchange<'_>) -> Verdict {
        let (name, password) = match credentials(ex) {
            Ok(Some(shown)) => shown,
            Ok(None) => return self.refuse(ex, Outcome::Missing, "basic_auth_missing", None),
            Err(MalformedCredentials) => return self.refuse(ex, Outcome::Invalid, INVALID, None),
        };
        let user = self.users.get(name.as_str());
        // An unknown name takes as much time as a wrong password, so response times do not reveal
        // which names exist.
        let hash = user
            .or_else(|| self.users.values().next())
            .map(|user| &user.hash);
        let Some(hash) = hash else {
            return self.refuse(ex, Outcome::Invalid, INVALID, None);
        };
        let now = self.clock.now();
        let shown = self.checks.fingerprint(&self.list, &name, &password);
        let credentials = Credentials {
            shown,
            hash,
            password,
            is_somebody: user.is_some(),
            client: ex.facts.client.ip,
            now,
        };
        match self.checks.verify(credentials).await {
            ComparisonResult::Right => {}
            ComparisonResult::Wrong => {
                let known = user.map(|user| &*user.name);
                return self.refuse(ex, Outcome::Invalid, INVALID, known);
            }
            ComparisonResult::Busy => {
                let reply = Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "basic_auth_busy")
                    .detail("Too many passwords are being verified.")
                    .retry_after(Duration::from_secs(1));
                return self
                    .metrics
                    .refuse(ex.facts, Outcome::Unavailable, reply, None);
            }
        }
        self.metrics.count(Outcome::Passed);
        if let Some(user) = user {
            if self.forward.is_some()
                && let Ok(value) = HeaderValue::from_str(&user.name)
            {
                ex.facts.put(VerifiedUser(value));
            }
            ex.facts.identity_mut().user = Some(Arc::clone(&user.name));
        }
        Verdict::Next
    }

    /// Refuses the request. `subject` is an existing user; a guessed name is no subject.
    fn refuse(
        &self,
        ex: &mut Exchange<'_>,
        outcome: Outcome,
        reason: &'static str,
        subject: Option<&str>,
    ) -> Verdict {
        let reply = Reply::refuse(StatusCode::UNAUTHORIZED, reason)
            .header(header::WWW_AUTHENTICATE, self.challenge.clone());
        self.metrics.refuse(ex.facts, outcome, reply, subject)
    }
}

/// Error for an `Authorization` header that holds no user name and password.
struct MalformedCredentials;

/// Returns name and password as the client sent them; `None` if it sent none.
fn credentials(ex: &Exchange<'_>) -> Result<Option<(String, Vec<u8>)>, MalformedCredentials> {
    let mut values = ex.head.headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| MalformedCredentials)?;
    if values.next().is_some() || text.len() > MAX_CREDENTIALS_LEN {
        return Err(MalformedCredentials);
    }
    let (scheme, encoded) = text.split_once(' ').ok_or(MalformedCredentials)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(MalformedCredentials);
    }
    let mut name = STANDARD
        .decode(encoded.trim())
        .map_err(|_| MalformedCredentials)?;
    let colon = name
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(MalformedCredentials)?;
    let password = name.split_off(colon + 1);
    name.truncate(colon);
    let name = String::from_utf8(name).map_err(|_| MalformedCredentials)?;
    Ok(Some((name, password)))
}
