//! Form, signature, times and claims of a token: pure rules, with the time as an argument.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use edgeway_core::chain::Claims;
use http::HeaderValue;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::{Map, Value};

use super::keys::{Algorithm, Key};

/// Longest token that is parsed. Header sections are limited too, but cookies may be longer than
/// this.
pub(super) const MAX_TOKEN_LEN: usize = 8 * 1024;

edgeway_base::enum_table! {
    /// Problem of a token.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum TokenError => words: (&'static str, &'static str) {
        /// The token is not a signed JWT in compact form.
        Malformed = ("jwt_malformed", "the token is malformed"),
        /// The token is signed with an algorithm that is not allowed here, or not at all.
        Algorithm = ("jwt_algorithm", "the token's algorithm is not accepted"),
        /// No known key can have signed the token.
        Key = ("jwt_key", "the token is signed with an unknown key"),
        Signature = ("jwt_signature", "the token's signature is invalid"),
        Expired = ("jwt_expired", "the token has expired"),
        /// The token is not valid yet.
        NotYet = ("jwt_not_yet", "the token is not valid yet"),
        /// The token has no expiry, or one too far away.
        Lifetime = ("jwt_lifetime", "the token has no expiry or is valid for too long"),
        Issuer = ("jwt_issuer", "the token is from another issuer"),
        Audience = ("jwt_audience", "the token is for another audience"),
    }
}

impl TokenError {
    pub(super) fn reason(self) -> &'static str {
        self.words().0
    }

    /// Returns a description for the client's developers, which does not help to forge a token.
    pub(super) fn description(self) -> &'static str {
        self.words().1
    }
}

/// Requirements for tokens.
#[derive(Debug, Default)]
pub(super) struct TokenRules {
    pub(super) algorithms: Box<[Algorithm]>,
    /// Accepted issuers; any if empty.
    pub(super) issuers: Box<[Box<str>]>,
    pub(super) audiences: Box<[Box<str>]>,
    pub(super) leeway: Duration,
    /// Maximum time from `iat` to `exp`.
    pub(super) max_ttl: Option<Duration>,
    pub(super) needs_exp: bool,
    /// Required claims; a valid token without them is denied.
    pub(super) require: Box<[RequiredClaim]>,
    /// Claims that are sent to the backend as headers.
    pub(super) forward: Box<[Box<str>]>,
}

/// A claim that must be one of these values, or a list that contains one of them.
#[derive(Debug)]
pub(super) struct RequiredClaim {
    pub(super) claim: Box<str>,
    pub(super) values: Box<[Value]>,
}

/// A token with a valid signature, issuer and audience. Its times are checked for each request.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// `sub`, if it is a string.
    pub(super) user: Option<Arc<str>>,
    /// True if the token has all required claims.
    pub(super) is_entitled: bool,
    /// Values in the order of [`TokenRules::forward`]; `None` if absent or not a valid header value.
    pub(super) forward: Box<[Option<HeaderValue>]>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

/// A parsed token. Nothing in it is proven.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// Header and payload as they are signed.
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
    alg: Algorithm,
    pub(super) kid: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// True if the field is there, whatever its value.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str, rules: &TokenRules) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN_LEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header: Header = decode(header)?;
        // RFC 7515, 4.1.11: a critical extension that is not understood is refused.
        if header.crit {
            return Err(TokenError::Malformed);
        }
        let alg = Algorithm::parse(&header.alg)
            .filter(|alg| rules.algorithms.contains(alg))
            .ok_or(TokenError::Algorithm)?;
        if signature.is_empty() {
            return Err(TokenError::Signature);
        }
        Ok(Self {
            signed,
            payload,
            signature,
            alg,
            kid: header.kid,
        })
    }

    /// Verifies the signature with one of `keys`, then everything that does not depend on the time.
    pub(super) fn verify(&self, keys: &[Key], rules: &TokenRules) -> Result<Verified, TokenError> {
        self.signature_by(keys)?;
        rules.judge(decode(self.payload)?)
    }

    /// Verifies the signature with the key that the token names, or one without a name (RFC 7515,
    /// 4.1.4).
    fn signature_by(&self, keys: &[Key]) -> Result<(), TokenError> {
        let is_named = |key: &&Key| self.kid.is_none() || self.kid.as_deref() == key.kid.as_deref();
        let fitting = || keys.iter().filter(|key| key.fits(self.alg));
        let mut candidates = fitting().filter(is_named).peekable();
        let is_right = |key: &Key| key.verifies(self.alg, self.signed.as_bytes(), self.signature);
        let is_verified = if candidates.peek().is_some() {
            candidates.any(is_right)
        } else {
            let mut nameless = fitting().filter(|key| key.kid.is_none()).peekable();
            if nameless.peek().is_none() {
                return Err(TokenError::Key);
            }
            nameless.any(is_right)
        };
        if is_verified {
            Ok(())
        } else {
            Err(TokenError::Signature)
        }
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part);
    let bytes = bytes.map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

impl TokenRules {
    fn judge(&self, claims: Map<String, Value>) -> Result<Verified, TokenError> {
        let (exp, nbf, iat) = (
            date(&claims, "exp")?,
            date(&claims, "nbf")?,
            date(&claims, "iat")?,
        );
        if self.needs_exp && exp.is_none() {
            return Err(TokenError::Lifetime);
        }
        if let Some(max) = self.max_ttl {
            match (iat, exp) {
                (Some(iat), Some(exp)) if exp - iat <= max.as_secs_f64() => {}
                _ => return Err(TokenError::Lifetime),
            }
        }
        // RFC 7519, 4.1.1: an issuer is one text; a list would be no part of a cache key.
        let issuer = claims.get("iss").filter(|issuer| issuer.is_string());
        if !self.issuers.is_empty() && !names_one(issuer, &self.issuers) {
            return Err(TokenError::Issuer);
        }
        if !self.audiences.is_empty() && !names_one(claims.get("aud"), &self.audiences) {
            return Err(TokenError::Audience);
        }
        let user = claims.get("sub").and_then(Value::as_str).map(Into::into);
        let claims = Claims(Arc::new(claims));
        // A token issued for later cannot be used before, however long it lives.
        let nbf = match (nbf, iat.filter(|_| self.max_ttl.is_some())) {
            (Some(nbf), Some(iat)) => Some(nbf.max(iat)),
            (nbf, iat) => nbf.or(iat),
        };
        Ok(Verified {
            is_entitled: self.require.iter().all(|required| required.is_met(&claims)),
            forward: self
                .forward
                .iter()
                .map(|name| header_of(&claims, name))
                .collect(),
            claims,
            user,
            exp,
            nbf,
        })
    }
}

/// Parses a date (RFC 7519, 2): seconds since 1970, possibly with a fraction.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64().filter(|seconds| seconds.is_finite()) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(TokenError::Malformed),
        },
    }
}

fn names_one(claim: Option<&Value>, known: &[Box<str>]) -> bool {
    let is_known = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| known.iter().any(|k| **k == *text))
    };
    match claim {
        Some(Value::Array(items)) => items.iter().any(is_known),
        Some(value) => is_known(value),
        None => false,
    }
}

impl Verified {
    /// Checks that the token is valid at this time.
    pub(super) fn is_timely(&self, now: f64, leeway: Duration) -> Result<(), TokenError> {
        let leeway = leeway.as_secs_f64();
        // RFC 7519, 4.1.4: the token expires on `exp`.
        if self.exp.is_some_and(|exp| now >= exp + leeway) {
            return Err(TokenError::Expired);
        }
        if self.nbf.is_some_and(|nbf| now + leeway < nbf) {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }
}

impl RequiredClaim {
    fn is_met(&self, claims: &Claims) -> bool {
        let is_wanted = |value: &Value| self.values.iter().any(|wanted| is_same(value, wanted));
        match claims.get(&self.claim) {
            Some(Value::Array(items)) => items.iter().any(is_wanted),
            // RFC 8693, 4.2: a list, separated by spaces.
            Some(Value::String(list)) if *self.claim == *"scope" => list
                .split(' ')
                .any(|word| self.values.iter().any(|wanted| wanted == word)),
            Some(value) => is_wanted(value),
            None => false,
        }
    }
}

/// Compares values; numbers are the same if they are equal, such as `1` and `1.0`. A float beyond
/// 2^53 may have been rounded: it is the same as none.
fn is_same(value: &Value, wanted: &Value) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match (value, wanted) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() || other.is_f64() => {
            let numbers = one.as_f64().zip(other.as_f64());
            numbers.is_some_and(|(one, other)| one.abs() < EXACT && one.total_cmp(&other).is_eq())
        }
        _ => value == wanted,
    }
}

/// Returns a claim as a header value: the text of [`Claims::text`], or the items of a list
/// separated by commas. `None` for values that a reader could split elsewhere.
fn header_of(claims: &Claims, name: &str) -> Option<HeaderValue> {
    let text = match claims.get(name)? {
        Value::Array(items) => {
            let words: Option<Vec<&str>> = items
                .iter()
                .map(|item| item.as_str().filter(|word| !word.contains(',')))
                .collect();
            words.filter(|words| !words.is_empty())?.join(",")
        }
        _ => claims.text(name)?.into_owned(),
    };
    let is_trimmed = !text.is_empty() && text.trim() == text;
    HeaderValue::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| is_trimmed)
}
