//! Configuration of `api_key` as written, and its compilation.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use edgeway_base::{credential::ApiKeyHash, gateway_headers::GatewayHeaders, units::Rate};
use edgeway_config::{diagnostic::Place, tree::Spanned};
use edgeway_core::{
    chain::{AuthMetrics, CompileContext},
    limits::{
        gcra::Quota,
        memory::{BucketTable, DEFAULT_MAX_KEYS},
    },
};
use http::{HeaderValue, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{ApiKey, ApiKeyEntry, KeyLimit};
use crate::read_list;

const CREATE_KEY_HELP: &str = "create a key and its line with `edgeway hash api-key NAME`";

/// Requires an API key that was issued to a client.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeyConfig {
    /// Header that carries the key; in `Authorization` after the scheme `Bearer`.
    #[default(Spanned::nowhere("X-API-Key".to_owned()))]
    pub(super) header: Spanned<String>,
    /// The keys by name and hash.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<Spanned<KeyConfig>>,
    /// File with lines `NAME HASH` or `NAME HASH RATE`, in addition to `keys`. Read when the
    /// configuration is loaded.
    file: Option<Spanned<PathBuf>>,
    /// Lets requests without a key pass, without an identity. An invalid key is still refused.
    optional: bool,
    /// Header that carries the name of the key to the backend; a header of this name sent by a
    /// client is removed.
    forward: Option<Spanned<String>>,
    /// True to remove the key from the request to the backend.
    #[default(true)]
    strip: bool,
}

/// An API key.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyConfig {
    /// Name of the key's owner in logs, limits and requests to the backend.
    name: String,
    /// `sha256:` and 64 hexadecimal digits, as `edgeway hash api-key` prints it.
    hash: String,
    /// Number of uses per period on this gateway; unlimited if absent.
    rate: Option<Rate>,
    /// Number of uses that may come at once; the count of `rate` if absent.
    burst: Option<u32>,
}

impl ApiKeyConfig {
    /// Returns the header that carries keys.
    pub(super) fn secret_names(&self) -> Vec<String> {
        vec![self.header.value.clone()]
    }

    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<ApiKey> {
        let errors = cx.diagnostics.errors();
        // One table for all routes: a key has one budget, on whatever route it is used.
        let counts = cx
            .zones
            .get_or_create("api_key", || BucketTable::new(DEFAULT_MAX_KEYS, cx.clock));
        let mut keys = KeysFound {
            keys: HashMap::new(),
            names: HashSet::new(),
            counts,
            has_limits: false,
        };
        for key in self.keys {
            keys.add(key.value, key.place, "", cx);
        }
        if let Some(file) = &self.file {
            keys.read(file, cx);
        }
        let header = GatewayHeaders::parse_credential(&self.header.value);
        let header = cx
            .at(self.header.place, "edgeway::api_key::header")
            .reported(header);
        let forward = self.forward.as_ref();
        let forward = forward.and_then(|name| cx.own_header(name, "edgeway::api_key::forward"));
        let header = header?;
        if keys.names.is_empty() && cx.diagnostics.errors() == errors {
            return cx.here("edgeway::api_key::nobody").refuse(
                "`api_key` has no keys, so no client could pass",
                CREATE_KEY_HELP,
            );
        }
        let is_bearer = header == header::AUTHORIZATION;
        Some(ApiKey {
            is_bearer,
            challenge: if is_bearer {
                HeaderValue::from_static("Bearer")
            } else {
                HeaderValue::try_from(format!("ApiKey header=\"{header}\""))
                    .expect("a header name is plain text")
            },
            header,
            keys: keys.keys,
            optional: self.optional,
            own: GatewayHeaders::new(forward.iter().cloned()),
            forward,
            strip: self.strip,
            counts: keys.has_limits.then_some(keys.counts),
            clock: cx.clock.clone(),
            metrics: AuthMetrics::new(cx.metrics, "api_key", cx.route),
        })
    }
}

/// Keys found so far.
struct KeysFound {
    keys: HashMap<u64, Vec<ApiKeyEntry>>,
    names: HashSet<String>,
    counts: Arc<BucketTable>,
    has_limits: bool,
}

impl KeysFound {
    fn read(&mut self, file: &Spanned<PathBuf>, cx: &mut CompileContext<'_>) {
        let text = read_list(file, "keys", "edgeway::api_key::file", CREATE_KEY_HELP, cx);
        for (index, line) in text.unwrap_or_default().lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let at = format!("line {} of `{}`: ", index + 1, file.value.display());
            match (words.next(), words.next(), words.next(), words.next()) {
                (None, ..) => {}
                (Some(name), Some(hash), rate, None) => {
                    let rate = match rate.map(str::parse).transpose() {
                        Ok(rate) => rate,
                        Err(error) => {
                            let message = format!("{at}{error}");
                            let help = "write a rate such as `100/min` behind the hash";
                            cx.at(file.place, "edgeway::api_key::rate")
                                .error(message, help);
                            continue;
                        }
                    };
                    let key = KeyConfig {
                        name: name.to_owned(),
                        hash: hash.to_owned(),
                        rate,
                        burst: None,
                    };
                    self.add(key, file.place, &at, cx);
                }
                _ => {
                    let message = format!("{at}expected `NAME HASH` or `NAME HASH RATE`");
                    cx.at(file.place, "edgeway::api_key::line")
                        .error(message, CREATE_KEY_HELP);
                }
            }
        }
    }

    fn add(&mut self, key: KeyConfig, place: Place, at: &str, cx: &mut CompileContext<'_>) {
        let shown = key.name.escape_debug().to_string();
        let header = HeaderValue::from_str(&key.name);
        let header = header.ok().filter(|_| !key.name.is_empty());
        let Some(header) = header else {
            let message = format!("{at}invalid key name `{shown}`");
            let help = "write a name of visible characters";
            cx.at(place, "edgeway::api_key::name").error(message, help);
            return;
        };
        let hash: ApiKeyHash = match key.hash.parse() {
            Ok(hash) => hash,
            Err(error) => {
                let message = format!("{at}the key `{shown}`: {error}");
                cx.at(place, "edgeway::api_key::hash")
                    .error(message, error.help);
                return;
            }
        };
        let limit = match (key.rate, key.burst) {
            (Some(rate), burst) => {
                let burst = burst.unwrap_or(rate.count);
                let Some(quota) = Quota::new(rate.count, rate.per, burst) else {
                    let message = format!("{at}the key `{shown}` could never be used at this rate");
                    let help =
                        "write a rate such as `100/min`, and a `burst` above 0 if one is wanted";
                    cx.at(place, "edgeway::api_key::rate").error(message, help);
                    return;
                };
                let mut hasher = self.counts.hashing().begin();
                hasher.part(0, key.name.as_bytes());
                let place = hasher.finish();
                Some(KeyLimit { quota, place })
            }
            (None, Some(_)) => {
                let message = format!("{at}the key `{shown}` has a `burst` and no `rate`");
                let help = "write a `rate` beside it, or remove it";
                cx.at(place, "edgeway::api_key::burst").error(message, help);
                return;
            }
            (None, None) => None,
        };
        let same = self.keys.entry(hash.bucket()).or_default();
        let is_twice = same.iter().any(|other| other.hash.is(&hash));
        if is_twice || !self.names.insert(key.name.clone()) {
            let kind = if is_twice { "hash" } else { "name" };
            let message = format!("{at}duplicate {kind}, already used by `{shown}`");
            let help = "remove one of the two";
            cx.at(place, "edgeway::api_key::twice").error(message, help);
            return;
        }
        self.has_limits |= limit.is_some();
        let same = self.keys.entry(hash.bucket()).or_default();
        same.push(ApiKeyEntry {
            header,
            name: Arc::from(key.name),
            hash,
            limit,
        });
    }
}
