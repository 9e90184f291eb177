//! Configuration of `jwt` as written, and its compilation.

mod jwks;
mod key;
mod place;

use std::collections::BTreeMap;

use edgeway_base::{gateway_headers::GatewayHeaders, recent_values::RecentValues, units::Span};
use edgeway_config::tree::{OneOrMany, Spanned};
use edgeway_core::chain::{AuthMetrics, CompileContext, CredentialPlace};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use self::{
    jwks::JwksConfig,
    key::KeyConfig,
    place::{Scalar, SourceConfig},
};
use super::{
    Challenges, Jwt, Keys, TokenRemoval,
    keys::{self, Algorithm, Key, MAX_KEYS},
    token::{RequiredClaim, TokenError, TokenRules},
};

const MAX_LEEWAY: Span = Span::secs(5);
/// Maximum number of verified tokens that each filter remembers.
const REMEMBERED: usize = 4096;

/// Lets requests pass whose JSON Web Token is signed with a known key, is valid at this time and
/// has the required claims.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// Keys that tokens are signed with: `file:PATH` of a public key or certificate in PEM, of a
    /// JWK set, or of a secret for HS256; or the same from the environment. One key, or a list,
    /// each of which may be `{ key: file:PATH, kid: NAME }`.
    keys: Option<OneOrMany<Spanned<KeyConfig>>>,
    /// URL of a JWK set to use in place of `keys`, fetched and refreshed by the gateway.
    jwks: Option<Spanned<JwksConfig>>,
    /// Accepted signature algorithms. If absent: by the kinds of the keys, RS256 for RSA, ES256 and
    /// ES384 for P-256 and P-384, `EdDSA` for Ed25519, HS256 for a secret.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<Spanned<Algorithm>>,
    /// Accepted issuers of the token (`iss`): one, or a list.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    issuer: OneOrMany<String>,
    /// Accepted audiences of the token (`aud`): one, or a list.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    audience: OneOrMany<String>,
    /// Accepted clock difference between issuer and gateway; at most 5 s.
    #[default(Spanned::nowhere(MAX_LEEWAY))]
    leeway: Spanned<Span>,
    /// Maximum lifetime of a token, from `iat` to `exp`; both are then required.
    max_ttl: Option<Spanned<Span>>,
    /// True if a token must have an expiry (`exp`).
    #[default(true)]
    require_exp: bool,
    /// Claims that must have a value, or one of a list: `{ role: admin }`. A claim that is a list
    /// must contain one of them. A valid token without them gets 403.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    require: BTreeMap<String, OneOrMany<Scalar>>,
    /// Location of the token: `header: NAME`, `cookie: NAME` or `query: NAME`, or a list: the first
    /// one present is used. `header: Authorization` if absent.
    #[default(OneOrMany(vec![Spanned::nowhere(SourceConfig::default())]))]
    token: OneOrMany<Spanned<SourceConfig>>,
    /// True if a request without a token, or with an invalid one, passes without an identity.
    optional: bool,
    /// Claims that are sent to the backend as headers: `{ sub: X-User-Id }`. Clients cannot send
    /// these headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    forward: BTreeMap<String, Spanned<String>>,
    /// `true` removes the token from the request to the backend, `false` keeps it; if absent, it is
    /// removed from the query only.
    strip: Option<bool>,
    /// Realm in `WWW-Authenticate`.
    #[default(Spanned::nowhere("restricted".to_owned()))]
    realm: Spanned<String>,
}

impl JwtConfig {
    /// Returns the query parameters and headers that carry tokens.
    pub(super) fn secret_names(&self) -> Vec<String> {
        let sources = self.token.0.iter().map(|source| &source.value);
        let names = sources.flat_map(|source| [&source.query, &source.header]);
        names.flatten().cloned().collect()
    }

    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Jwt> {
        let keys = self.keys(cx);
        let sources = self.token.0.iter();
        let sources: Box<[CredentialPlace]> = sources
            .filter_map(|source| source.value.compile(source.place, cx))
            .collect();
        let names = self.forwarded(cx);
        let challenges = self.challenges(cx);
        self.check_times(cx);
        let algorithms = keys.as_ref().and_then(|keys| self.algorithms(keys, cx));
        let (keys, challenges, algorithms) = (keys?, challenges?, algorithms?);
        let strip = match self.strip {
            None => TokenRemoval::Query,
            Some(true) => TokenRemoval::Everywhere,
            Some(false) => TokenRemoval::Nowhere,
        };
        let rules = TokenRules {
            algorithms,
            issuers: self.issuer.0.into_iter().map(Into::into).collect(),
            audiences: self.audience.0.into_iter().map(Into::into).collect(),
            leeway: self.leeway.value.0,
            max_ttl: self.max_ttl.map(|most| most.value.0),
            needs_exp: self.require_exp,
            require: self
                .require
                .into_iter()
                .map(|(claim, values)| RequiredClaim {
                    claim: claim.into(),
                    values: values.0.into_iter().map(Scalar::value).collect(),
                })
                .collect(),
            forward: self.forward.into_keys().map(Into::into).collect(),
        };
        Some(Jwt {
            keys,
            sources,
            rules,
            recent: RecentValues::new(REMEMBERED),
            is_optional: self.optional,
            strip,
            own: GatewayHeaders::new(names.iter().cloned()),
            names: names.into(),
            challenges,
            metrics: AuthMetrics::new(cx.metrics, "jwt", cx.route),
            clock: cx.clock.clone(),
        })
    }

    fn keys(&self, cx: &mut CompileContext<'_>) -> Option<Keys> {
        const CODE: &str = "edgeway::jwt::keys";
        match (&self.keys, &self.jwks) {
            (Some(keys), None) => {
                let keys: Vec<Key> = cx.checked(|cx| {
                    let keys = keys.0.iter().filter_map(|key| key::read(key, cx));
                    keys.flatten().collect()
                })?;
                if keys.len() > MAX_KEYS {
                    let message = format!("more than {MAX_KEYS} keys");
                    return cx
                        .here(CODE)
                        .refuse(message, "remove keys that no longer sign");
                }
                Some(Keys::Fixed(keys.into()))
            }
            (None, Some(jwks)) => jwks.value.compile(jwks.place, cx),
            (Some(_), Some(jwks)) => {
                let message = "`jwt` has both `keys` and `jwks`";
                cx.at(jwks.place, CODE)
                    .refuse(message, "remove one of them")
            }
            (None, None) => {
                let message = "`jwt` has neither `keys` nor `jwks`";
                let help = "write `keys: file:jwt.pub`, or `jwks: https://…`";
                cx.here(CODE).refuse(message, help)
            }
        }
    }

    /// Returns the configured algorithms, each of which must have a key; or the algorithms of the
    /// keys.
    fn algorithms(&self, keys: &Keys, cx: &mut CompileContext<'_>) -> Option<Box<[Algorithm]>> {
        const CODE: &str = "edgeway::jwt::algorithms";
        let written = || self.algorithms.iter().map(|alg| alg.value);
        let keys = match keys {
            Keys::Fixed(keys) => keys,
            Keys::Remote { .. } => {
                let secret = self
                    .algorithms
                    .iter()
                    .find(|alg| alg.value.kind() == keys::KeyKind::Secret);
                if let Some(alg) = secret {
                    let message = format!("`{}` needs a secret", alg.value.name());
                    let help = "a fetched JWK set has public keys only: write one of their \
                                algorithms, such as `RS256`";
                    return cx.at(alg.place, CODE).refuse(message, help);
                }
                if self.algorithms.is_empty() {
                    let kinds = [
                        keys::KeyKind::Rsa,
                        keys::KeyKind::P256,
                        keys::KeyKind::P384,
                        keys::KeyKind::Ed25519,
                    ];
                    return Some(kinds.map(keys::KeyKind::usual).into());
                }
                return Some(written().collect());
            }
        };
        if self.algorithms.is_empty() {
            let mut algorithms: Vec<Algorithm> = Vec::new();
            for key in keys {
                let alg = key.usual();
                algorithms.extend((!algorithms.contains(&alg)).then_some(alg));
            }
            return Some(algorithms.into());
        }
        for alg in &self.algorithms {
            if !keys.iter().any(|key| key.fits(alg.value)) {
                let kinds: Vec<&str> = keys.iter().map(|key| key.kind.name()).collect();
                cx.at(alg.place, CODE).error(
                    format!("no key fits `{}`", alg.value.name()),
                    format!("the keys are {}: write their algorithm", kinds.join(", ")),
                );
            }
        }
        if let Some(idle) = keys.iter().find(|key| !written().any(|alg| key.fits(alg))) {
            let place = self.algorithms.first().map_or(cx.place, |alg| alg.place);
            cx.at(place, CODE).error(
                format!("{} is listed, and no algorithm uses it", idle.kind.name()),
                format!("add `{}`, or remove the key", idle.usual().name()),
            );
        }
        Some(written().collect())
    }

    fn forwarded(&self, cx: &mut CompileContext<'_>) -> Vec<HeaderName> {
        const CODE: &str = "edgeway::jwt::forward";
        let mut names: Vec<HeaderName> = Vec::new();
        for header in self.forward.values() {
            match cx.own_header(header, CODE) {
                Some(name) if names.contains(&name) => {
                    let message = format!("two claims are forwarded as `{}`", header.value);
                    cx.at(header.place, CODE)
                        .error(message, "write a different name for each");
                }
                Some(name) => names.push(name),
                None => {}
            }
        }
        names
    }

    fn check_times(&self, cx: &mut CompileContext<'_>) {
        if self.leeway.value > MAX_LEEWAY {
            cx.at(self.leeway.place, "edgeway::jwt::leeway").error(
                format!(
                    "`leeway: {}` is longer than {MAX_LEEWAY}",
                    self.leeway.value
                ),
                "expired tokens would stay valid: synchronize clocks by NTP, and write `5s` or \
                 less",
            );
        }
        if let Some(max) = &self.max_ttl {
            const CODE: &str = "edgeway::jwt::max_ttl";
            if max.value < Span::secs(1) {
                let message = format!("no token is valid for `{}`", max.value);
                cx.at(max.place, CODE)
                    .error(message, "write a time such as `90s`");
            } else if !self.require_exp {
                let message = "`max_ttl` needs tokens that expire, and `require_exp` is `false`";
                cx.at(max.place, CODE)
                    .error(message, "remove `require_exp: false`");
            }
        }
    }

    /// Builds the `WWW-Authenticate` header of each refusal.
    fn challenges(&self, cx: &mut CompileContext<'_>) -> Option<Challenges> {
        let realm = &self.realm.value;
        let is_plain = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\';
        if realm.is_empty() || !realm.chars().all(is_plain) {
            return cx.at(self.realm.place, "edgeway::jwt::realm").refuse(
                format!("invalid realm `{realm}`"),
                "write plain ASCII without quotes",
            );
        }
        let header = |text: String| HeaderValue::try_from(text).expect("it was found to be plain");
        // RFC 6750, 3: a request without a token gets no error code.
        let missing = format!("Bearer realm=\"{realm}\"");
        Some(Challenges {
            problems: TokenError::ALL.map(|problem| {
                let description = problem.description();
                header(format!(
                    "{missing}, error=\"invalid_token\", error_description=\"{description}\""
                ))
            }),
            denied: header(format!("{missing}, error=\"insufficient_scope\"")),
            missing: header(missing),
        })
    }
}
