//! `jwt` as written, and how it compiles.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use http::{HeaderName, HeaderValue, Uri, header};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{
    Jwt, Keys, Strip,
    jwks::{Jwks, Source as JwksSource},
    keys::{self, Algorithm, Key, MOST_KEYS},
    source::Source,
    token::{Problem, Required, Rules},
};
use crate::{
    base::{
        fetch::{self, Fetch, Trust},
        loopback::is_loopback_host,
        own_headers::OwnHeaders,
        recent::Recent,
        secret,
        units::Span,
    },
    chain::{AuthMetrics, CompileCx},
    config::{
        diagnostic::Place,
        tree::{
            OneOrMany, Spanned,
            short::{self, Short, read_short},
        },
    },
};

const LONGEST_LEEWAY: Span = Span::secs(5);
const REFRESH: Span = Span::secs(300);
const STALE: Span = Span::secs(3600);
const DEADLINE: Span = Span::secs(5);
const SHORTEST_REFRESH: Span = Span::secs(1);
const LONGEST_DEADLINE: Span = Span::secs(30);
/// A file with keys has a few KiB.
const LARGEST_FILE: u64 = 256 * 1024;
/// Tokens that are remembered as verified, for each filter.
const REMEMBERED: usize = 4096;

/// Lets requests pass whose JSON Web Token is signed with a known key, is in its time and
/// says what is required.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// The keys that tokens are signed with: `file:PATH` of a public key or certificate in
    /// PEM, of a JWK set, or of a secret for HS256; or the same from the environment. One, or
    /// a list, each of which may be `{ key: file:PATH, kid: NAME }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<OneOrMany<Spanned<KeyConfig>>>,
    /// The URL of a JWK set instead, fetched and refreshed by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks: Option<Spanned<JwksConfig>>,
    /// How tokens may be signed. If absent: by the kinds of the keys, RS256 for RSA, ES256 and
    /// ES384 for P-256 and P-384, `EdDSA` for Ed25519, HS256 for a secret.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<Spanned<Algorithm>>,
    /// Who must have issued the token (`iss`): one, or one of a list.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    issuer: OneOrMany<String>,
    /// Whom the token must be for (`aud`): one, or one of a list.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    audience: OneOrMany<String>,
    /// How far the clocks of issuer and gateway may be apart; at most 5 s.
    leeway: Spanned<Span>,
    /// The longest life of a token, from `iat` to `exp`, which both must be there then.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ttl: Option<Spanned<Span>>,
    /// Whether a token must have an end (`exp`).
    require_exp: bool,
    /// Claims that must have a value, or one of a list: `{ role: admin }`. A claim that is a
    /// list must have one of them in it. Who is known and lacks it gets 403.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    require: BTreeMap<String, OneOrMany<Scalar>>,
    /// Where the token stands: `header: NAME`, `cookie: NAME` or `query: NAME`, or a list, of
    /// which the first that is there counts. `header: Authorization` if absent.
    token: OneOrMany<Spanned<SourceConfig>>,
    /// Whether a request without a token, or with a wrong one, passes as anybody's.
    optional: bool,
    /// Claims that the backend gets as headers: `{ sub: X-User-Id }`. Clients cannot send these
    /// headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    forward: BTreeMap<String, Spanned<String>>,
    /// `true` takes the token out of what the backend gets, `false` leaves it there; if
    /// absent, it is taken out of the query only.
    #[serde(skip_serializing_if = "Option::is_none")]
    strip: Option<bool>,
    /// The realm in `WWW-Authenticate`.
    realm: Spanned<String>,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            keys: None,
            jwks: None,
            algorithms: Vec::new(),
            issuer: OneOrMany::default(),
            audience: OneOrMany::default(),
            leeway: Spanned::nowhere(LONGEST_LEEWAY),
            max_ttl: None,
            require_exp: true,
            require: BTreeMap::new(),
            token: OneOrMany(vec![Spanned::nowhere(SourceConfig::default())]),
            optional: false,
            forward: BTreeMap::new(),
            strip: None,
            realm: Spanned::nowhere("restricted".to_owned()),
        }
    }
}

/// A key: a text, or a mapping that names it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = short::or_text)]
struct KeyConfig {
    /// `file:PATH`, or the key itself from the environment.
    key: KeyText,
    /// The name that tokens call it by (`kid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

impl Short for KeyConfig {
    const WHAT: &'static str = "`file:PATH`, or a mapping such as `{ key: file:PATH, kid: NAME }`";

    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::deserialize(d)
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            key: KeyText(text.to_owned()),
            kid: None,
        }))
    }
}

impl<'de> Deserialize<'de> for KeyConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_short(d)
    }
}

impl Serialize for KeyConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.kid {
            None => self.key.serialize(s),
            Some(_) => Self::serialize(self, s),
        }
    }
}

/// A path that may be shown, or a text that may not.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct KeyText(String);

impl KeyText {
    fn path(&self) -> Option<&str> {
        self.0.strip_prefix("file:")
    }
}

impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path().map_or(secret::REDACTED, |_| &self.0))
    }
}

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.path().map_or(secret::REDACTED, |_| &self.0))
    }
}

/// A set of keys behind a URL.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
struct JwksConfig {
    /// Such as `https://login.example.com/.well-known/jwks.json`.
    url: String,
    /// A PEM file with the authorities that count for this URL, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<Spanned<PathBuf>>,
    /// The longest time between two fetches; the answer's `max-age` may shorten it.
    refresh: Spanned<Span>,
    /// How long the keys stay good beyond that if the URL fails.
    stale: Span,
    /// How long one fetch may take.
    timeout: Spanned<Span>,
    /// Takes a URL without TLS that is not of this machine: whoever is on the way can then
    /// sign tokens.
    allow_http: bool,
}

impl Default for JwksConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca: None,
            refresh: Spanned::nowhere(REFRESH),
            stale: STALE,
            timeout: Spanned::nowhere(DEADLINE),
            allow_http: false,
        }
    }
}

impl Short for JwksConfig {
    const WHAT: &'static str = "a URL, or a mapping such as `{ url: https://…, refresh: 5min }`";

    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::deserialize(d)
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            url: text.to_owned(),
            ..Self::default()
        }))
    }
}

impl<'de> Deserialize<'de> for JwksConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_short(d)
    }
}

impl Serialize for JwksConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, s)
    }
}

/// A place in a request where a token may stand: exactly one of the three.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
#[derive(Default)]
struct SourceConfig {
    /// A header; `Authorization` has `Bearer` before the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// A cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<String>,
    /// A parameter of the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<String>,
}

impl Short for SourceConfig {
    const WHAT: &'static str = "`header:NAME`, `cookie:NAME` or `query:NAME`";

    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::deserialize(d)
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        let mut config = Self::default();
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let slot = match kind {
            "header" => &mut config.header,
            "cookie" => &mut config.cookie,
            "query" => &mut config.query,
            _ => {
                return Some(Err(format!(
                    "`{text}` is no place for a token\nhelp: write {}",
                    Self::WHAT
                )));
            }
        };
        *slot = Some(name.trim().to_owned());
        Some(Ok(config))
    }
}

impl<'de> Deserialize<'de> for SourceConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_short(d)
    }
}

impl Serialize for SourceConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.names().is_empty() {
            return s.collect_map([("header", header::AUTHORIZATION.as_str())]);
        }
        Self::serialize(self, s)
    }
}

/// A value that a claim may have.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
enum Scalar {
    Flag(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

impl Scalar {
    fn value(self) -> Value {
        match self {
            Self::Flag(flag) => flag.into(),
            Self::Whole(number) => number.into(),
            Self::Number(number) => number.into(),
            Self::Text(text) => text.into(),
        }
    }
}

impl SourceConfig {
    fn names(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("header", &self.header),
            ("cookie", &self.cookie),
            ("query", &self.query),
        ];
        let given = all.into_iter();
        given
            .filter_map(|(kind, name)| Some((kind, name.as_deref()?)))
            .collect()
    }

    fn compile(&self, place: Place, cx: &mut CompileCx<'_>) -> Option<Source> {
        const CODE: &str = "edgeway::jwt::token";
        let names = self.names();
        let (kind, name) = match names[..] {
            // Not written at all.
            [] if place == Place::default() => ("header", header::AUTHORIZATION.as_str()),
            [one] => one,
            _ => {
                let message = "a place for a token is one of a header, a cookie and a query";
                let help =
                    "write a list for several: `[{ header: Authorization }, { query: token }]`";
                cx.report_at(place, CODE, message, help);
                return None;
            }
        };
        let source = Source::new(kind, name);
        if source.is_none() {
            let message = format!("`{name}` is no name of a {kind}");
            let help = "write the name as clients send it, such as `query: token`";
            cx.report_at(place, CODE, message, help);
        }
        source
    }
}

impl JwtConfig {
    /// The query parameters that tokens stand in.
    pub(super) fn queries(&self) -> Vec<String> {
        let sources = self.token.0.iter();
        sources
            .filter_map(|source| source.value.query.clone())
            .collect()
    }

    pub(super) fn compile(self, cx: &mut CompileCx<'_>) -> Option<Jwt> {
        let keys = self.keys(cx);
        let sources: Vec<Option<Source>> = self
            .token
            .0
            .iter()
            .map(|source| source.value.compile(source.place, cx))
            .collect();
        let sources: Option<Vec<Source>> = sources.into_iter().collect();
        let names = self.forwarded(cx);
        let challenges = self.challenges(cx);
        let is_timely = self.has_good_times(cx);
        let algorithms = keys.as_ref().and_then(|keys| self.algorithms(keys, cx));
        let (keys, sources, names, challenges) = (keys?, sources?, names?, challenges?);
        let algorithms = algorithms?;
        if !is_timely {
            return None;
        }
        let strip = match self.strip {
            None => Strip::Query,
            Some(true) => Strip::Everywhere,
            Some(false) => Strip::Nowhere,
        };
        let dropped = match strip {
            Strip::Query | Strip::Everywhere => self.queries(),
            Strip::Nowhere => Vec::new(),
        };
        let rules = Rules {
            algorithms,
            issuers: self.issuer.0.into_iter().map(Into::into).collect(),
            audiences: self.audience.0.into_iter().map(Into::into).collect(),
            leeway: self.leeway.value.0,
            max_ttl: self.max_ttl.map(|most| most.value.0),
            needs_exp: self.require_exp,
            require: self
                .require
                .into_iter()
                .map(|(claim, values)| Required {
                    claim: claim.into(),
                    values: values.0.into_iter().map(Scalar::value).collect(),
                })
                .collect(),
            forward: self.forward.into_keys().map(Into::into).collect(),
        };
        Some(Jwt {
            keys,
            sources: sources.into(),
            rules,
            recent: Recent::new(REMEMBERED),
            is_optional: self.optional,
            strip,
            dropped: dropped.into_iter().map(Into::into).collect(),
            own: OwnHeaders::new(names.iter().cloned()),
            names: names.into(),
            challenges,
            metrics: AuthMetrics::new("jwt", cx.route, cx.metrics),
            clock: cx.clock.clone(),
        })
    }

    fn keys(&self, cx: &mut CompileCx<'_>) -> Option<Keys> {
        const CODE: &str = "edgeway::jwt::keys";
        match (&self.keys, &self.jwks) {
            (Some(keys), None) => {
                let read: Vec<Option<Vec<Key>>> = keys.0.iter().map(|key| key.read(cx)).collect();
                let keys: Option<Vec<Vec<Key>>> = read.into_iter().collect();
                let keys = keys?.concat();
                if keys.len() > MOST_KEYS {
                    let message = format!("more than {MOST_KEYS} keys");
                    cx.report(CODE, message, "leave out those that sign no more");
                    return None;
                }
                Some(Keys::Fixed(keys.into()))
            }
            (None, Some(jwks)) => jwks.value.compile(jwks.place, cx),
            (Some(_), Some(jwks)) => {
                let message = "both `keys` and `jwks` say what tokens are signed with";
                cx.report_at(jwks.place, CODE, message, "remove one of them");
                None
            }
            (None, None) => {
                let message = "nothing says what tokens are signed with";
                let help = "write `keys: file:jwt.pub`, or `jwks: https://…`";
                cx.report(CODE, message, help);
                None
            }
        }
    }

    /// Those that are written, all of which must have a key; or those of the keys.
    fn algorithms(&self, keys: &Keys, cx: &mut CompileCx<'_>) -> Option<Box<[Algorithm]>> {
        const CODE: &str = "edgeway::jwt::algorithms";
        let written = || self.algorithms.iter().map(|alg| alg.value);
        let keys = match keys {
            Keys::Fixed(keys) => keys,
            Keys::Remote { .. } => {
                let secret = self
                    .algorithms
                    .iter()
                    .find(|alg| alg.value.kind() == keys::Kind::Secret);
                if let Some(alg) = secret {
                    let message = format!("`{}` needs a secret", alg.value.name());
                    let help = "a set of keys that is fetched has public keys only: write one of \
                                their algorithms, such as `RS256`";
                    cx.report_at(alg.place, CODE, message, help);
                    return None;
                }
                if self.algorithms.is_empty() {
                    let kinds = [
                        keys::Kind::Rsa,
                        keys::Kind::P256,
                        keys::Kind::P384,
                        keys::Kind::Ed25519,
                    ];
                    return Some(kinds.map(keys::Kind::usual).into());
                }
                return Some(written().collect());
            }
        };
        if self.algorithms.is_empty() {
            let mut algorithms: Vec<Algorithm> = Vec::new();
            for key in keys {
                let alg = key.usual();
                if !algorithms.contains(&alg) {
                    algorithms.push(alg);
                }
            }
            return Some(algorithms.into());
        }
        let mut is_good = true;
        for alg in &self.algorithms {
            if !keys.iter().any(|key| key.fits(alg.value)) {
                is_good = false;
                let kinds: Vec<&str> = keys.iter().map(|key| key.kind.name()).collect();
                cx.report_at(
                    alg.place,
                    CODE,
                    format!("no key is for `{}`", alg.value.name()),
                    format!("the keys are {}: write their algorithm", kinds.join(", ")),
                );
            }
        }
        if let Some(idle) = keys.iter().find(|key| !written().any(|alg| key.fits(alg))) {
            is_good = false;
            let place = self.algorithms.first().map_or(cx.place, |alg| alg.place);
            cx.report_at(
                place,
                CODE,
                format!(
                    "{} is among the keys, and no algorithm uses it",
                    idle.kind.name()
                ),
                format!("add `{}`, or remove the key", idle.usual().name()),
            );
        }
        is_good.then(|| written().collect())
    }

    fn forwarded(&self, cx: &mut CompileCx<'_>) -> Option<Vec<HeaderName>> {
        const CODE: &str = "edgeway::jwt::forward";
        let mut names: Vec<HeaderName> = Vec::new();
        let mut is_good = true;
        for header in self.forward.values() {
            match OwnHeaders::parse(&header.value) {
                Ok(name) if names.contains(&name) => {
                    is_good = false;
                    let message = format!("two claims become `{}`", header.value);
                    cx.report_at(header.place, CODE, message, "write a name for each");
                }
                Ok(name) => names.push(name),
                Err(error) => {
                    is_good = false;
                    cx.report_at(header.place, CODE, error.to_string(), error.help);
                }
            }
        }
        is_good.then_some(names)
    }

    fn has_good_times(&self, cx: &mut CompileCx<'_>) -> bool {
        let mut is_good = true;
        if self.leeway.value > LONGEST_LEEWAY {
            is_good = false;
            cx.report_at(
                self.leeway.place,
                "edgeway::jwt::leeway",
                format!(
                    "`leeway: {}` is longer than {LONGEST_LEEWAY}",
                    self.leeway.value
                ),
                "tokens that have expired would go on working: set the clocks by NTP, and write \
                 `5s` or less",
            );
        }
        if let Some(most) = &self.max_ttl {
            let problem = if most.value < Span::secs(1) {
                Some((
                    format!("no token lives for `{}`", most.value),
                    "write a time such as `90s`",
                ))
            } else if !self.require_exp {
                Some((
                    "`max_ttl` bounds tokens that need not have an end".to_owned(),
                    "remove `require_exp: false`",
                ))
            } else {
                None
            };
            if let Some((message, help)) = problem {
                is_good = false;
                cx.report_at(most.place, "edgeway::jwt::max_ttl", message, help);
            }
        }
        is_good
    }

    /// The `WWW-Authenticate` of each refusal.
    fn challenges(&self, cx: &mut CompileCx<'_>) -> Option<super::Challenges> {
        let realm = &self.realm.value;
        let is_plain = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\';
        if realm.is_empty() || !realm.chars().all(is_plain) {
            cx.report_at(
                self.realm.place,
                "edgeway::jwt::realm",
                format!("`{realm}` cannot be a realm"),
                "write words of plain ASCII without quotes",
            );
            return None;
        }
        let made = |text: String| HeaderValue::try_from(text).expect("it was found to be plain");
        // RFC 6750, 3: who brought no token is told of no error.
        let missing = format!("Bearer realm=\"{realm}\"");
        Some(super::Challenges {
            problems: Problem::ALL.map(|problem| {
                let description = problem.description();
                made(format!(
                    "{missing}, error=\"invalid_token\", error_description=\"{description}\""
                ))
            }),
            denied: made(format!("{missing}, error=\"insufficient_scope\"")),
            missing: made(missing),
        })
    }
}

impl Spanned<KeyConfig> {
    /// The keys in one text or file, which is read now: a reload reads it anew.
    fn read(&self, cx: &mut CompileCx<'_>) -> Option<Vec<Key>> {
        const CODE: &str = "edgeway::jwt::key";
        let text = match self.value.key.path() {
            None => Ok(self.value.key.0.clone()),
            Some(path) => std::fs::metadata(path)
                .map_err(|error| error.to_string())
                .and_then(|metadata| {
                    if metadata.len() > LARGEST_FILE {
                        return Err(format!("it is larger than {LARGEST_FILE} bytes"));
                    }
                    let text = std::fs::read_to_string(path);
                    text.map_err(|error| error.to_string())
                }),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                let path = self.value.key.path().unwrap_or_default();
                let message = format!("cannot read the key in `{path}`: {error}");
                let help = "name a file with a public key or a certificate in PEM, a JWK set, or \
                            a secret";
                cx.report_at(self.place, CODE, message, help);
                return None;
            }
        };
        let mut keys = match keys::read(&text) {
            Ok(keys) => keys,
            Err(error) => {
                let message = match self.value.key.path() {
                    Some(path) => format!("`{path}`: {error}"),
                    None => error.to_string(),
                };
                cx.report_at(self.place, CODE, message, error.help);
                return None;
            }
        };
        if let Some(kid) = &self.value.kid {
            let [key] = &mut keys[..] else {
                let message = format!("several keys are called `{kid}`");
                cx.report_at(
                    self.place,
                    CODE,
                    message,
                    "remove `kid`: the set has names itself",
                );
                return None;
            };
            key.kid = Some(kid.as_str().into());
        }
        Some(keys)
    }
}

impl JwksConfig {
    fn compile(&self, place: Place, cx: &mut CompileCx<'_>) -> Option<Keys> {
        const CODE: &str = "edgeway::jwt::jwks";
        let url = self.url(place, cx);
        let mut is_good = true;
        for (what, span, bounds) in [
            (
                "refresh",
                &self.refresh,
                SHORTEST_REFRESH..=Span::secs(86_400),
            ),
            (
                "timeout",
                &self.timeout,
                Span::millis(10)..=LONGEST_DEADLINE,
            ),
        ] {
            if !bounds.contains(&span.value) {
                is_good = false;
                let (least, most) = (bounds.start(), bounds.end());
                let message = format!("`{what}: {}` is not between {least} and {most}", span.value);
                let help = format!("write a time such as `{most}`");
                cx.report_at(span.place, CODE, message, help);
            }
        }
        let url = url?;
        let trust = match &self.ca {
            Some(ca) => match fetch::roots(&cx.folder.join(&ca.value)) {
                Ok(roots) => Trust::Roots(Arc::new(roots)),
                Err(problem) => {
                    let message = format!("cannot use `{}`: {problem}", ca.value.display());
                    let help = "name a PEM file with the certificate of the authority";
                    cx.report_at(ca.place, CODE, message, help);
                    return None;
                }
            },
            None if url.scheme_str() == Some("http") => Trust::Plain,
            None => Trust::System,
        };
        let fetch = match Fetch::new(&trust) {
            Ok(fetch) => fetch,
            Err(error) => {
                let message = format!("the system's authorities cannot be used: {error}");
                let help = "install the package `ca-certificates`, or name a file: `ca: ca.pem`";
                cx.report_at(place, CODE, message, help);
                return None;
            }
        };
        if !is_good {
            return None;
        }
        // Other authorities may vouch for other keys.
        let zone = match &self.ca {
            Some(ca) => format!("jwks {} by {}", self.url, ca.value.display()),
            None => format!("jwks {}", self.url),
        };
        let shown = self.url.split(['?', '#']).next().unwrap_or_default();
        let jwks = cx
            .zones
            .get_or_create(&zone, || Jwks::new(shown, cx.clock, cx.metrics));
        let source = Arc::new(JwksSource {
            url,
            fetch,
            refresh: self.refresh.value.0,
            deadline: self.timeout.value.0,
            stale: self.stale.0,
        });
        // Two that fetch one URL in two ways both do.
        let task = format!(
            "{zone} each {} within {} stale {}",
            self.refresh.value, self.timeout.value, self.stale
        );
        let (kept, asked) = (Arc::clone(&jwks), Arc::clone(&source));
        cx.work.add(task, move || {
            Arc::clone(&kept).supervise(Arc::clone(&asked))
        });
        Some(Keys::Remote {
            jwks,
            stale: self.stale.0,
        })
    }

    fn url(&self, place: Place, cx: &mut CompileCx<'_>) -> Option<Uri> {
        const CODE: &str = "edgeway::jwt::jwks";
        const EXAMPLE: &str = "write one such as `https://login.example.com/.well-known/jwks.json`";
        let url = self.url.parse::<Uri>().ok().filter(|url| {
            let authority = url.authority().map_or("", |authority| authority.as_str());
            url.host().is_some_and(|host| !host.is_empty()) && !authority.contains('@')
        });
        let scheme = url.as_ref().and_then(Uri::scheme_str);
        let (message, help) = match scheme {
            Some("https") => return url,
            Some("http") => {
                let host = url.as_ref().and_then(Uri::host).unwrap_or_default();
                if self.allow_http || is_loopback_host(host) {
                    if self.ca.is_none() {
                        return url;
                    }
                    (
                        "`ca` is for HTTPS, and the URL has none".to_owned(),
                        "write `https:`",
                    )
                } else {
                    (
                        format!("`{}` is fetched without TLS", self.url),
                        "write `https:`; whoever is on the way could sign tokens (`allow_http: \
                         true` takes that into account)",
                    )
                }
            }
            _ => (
                format!("`{}` is no URL of a set of keys", self.url),
                EXAMPLE,
            ),
        };
        cx.report_at(place, CODE, message, help);
        None
    }
}
