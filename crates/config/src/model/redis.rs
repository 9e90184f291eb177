//! The `redis:` section as written.

use std::{fmt, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smart_default::SmartDefault;

use crate::{
    base::{
        secret::{REDACTED, Secret},
        units::Span,
    },
    tree::{
        OneOrMany, Spanned,
        short::{self, Short, short_form},
    },
};

/// The Redis (or Valkey) through which gateways share limits: `redis://HOST:PORT`, or a mapping.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
pub struct RedisConfig {
    /// A single instance: `redis://USER:PASSWORD@HOST:PORT/DATABASE`, `rediss://…` with TLS, or
    /// `unix:///PATH`.
    #[schemars(with = "Option<String>")]
    pub url: Option<Spanned<RedisUrl>>,
    /// Topology behind `url` or `nodes`: a single instance, or a cluster.
    pub mode: Option<Spanned<RedisMode>>,
    /// `HOST:PORT` of some nodes of a cluster; the others are discovered through them.
    pub nodes: Vec<Spanned<String>>,
    /// Sentinels, which know the address of the primary.
    pub sentinel: Option<Spanned<SentinelConfig>>,
    /// The user of an access list (ACL); Redis' own default user if absent.
    pub username: Option<Spanned<String>>,
    /// `file:PATH` or `${NAME}`.
    pub password: Option<Spanned<Secret>>,
    /// Signs data that gateways read from one another in Redis: stored responses and purges.
    /// `file:PATH` or `${NAME}`, the same for all gateways; in a list the first one signs, and all
    /// are accepted.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub secret: OneOrMany<Spanned<Secret>>,
    /// `true` for TLS with the system's CA certificates, or a mapping.
    pub tls: Option<Spanned<RedisTlsConfig>>,
    /// Longest time that a request waits for Redis; then it continues without Redis.
    #[default(Spanned::nowhere(Span(Duration::from_millis(20))))]
    pub timeout: Spanned<Span>,
    /// Connections to each instance. Commands share them, so two are plenty.
    #[default(Spanned::nowhere(2))]
    pub connections: Spanned<u32>,
    /// Prefix of every key. Gateways that share data use the same prefix.
    #[default(Spanned::nowhere("edgeway:".to_owned()))]
    pub prefix: Spanned<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    Single,
    Cluster,
}

/// Sentinels and the primary that they watch.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelConfig {
    /// Name of the primary at the sentinels.
    pub master: Spanned<String>,
    /// `HOST:PORT` of the sentinels; `:26379` if there is no port.
    pub nodes: Vec<Spanned<String>>,
    /// The user for the sentinels themselves.
    pub username: Option<String>,
    /// The password for the sentinels themselves: `file:PATH` or `${NAME}`.
    pub password: Option<Secret>,
}

/// TLS to Redis.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
pub struct RedisTlsConfig {
    /// Off with `enabled: false`.
    #[default(true)]
    pub enabled: bool,
    /// A PEM file of CA certificates, instead of the system's.
    pub ca: Option<Spanned<PathBuf>>,
    /// Client certificate, if Redis requests one: a file in PEM.
    pub cert: Option<Spanned<PathBuf>>,
    /// The key of `cert`: a file in PEM, as a path or as `file:PATH`.
    pub key: Option<Spanned<PathBuf>>,
    /// Accepts any certificate, so that an attacker in between can read and change everything.
    pub insecure: bool,
}

/// A URL that may hold a password, which is never shown.
#[derive(Clone, derive_more::Debug, PartialEq, Eq)]
#[debug("{self}")]
pub struct RedisUrl(Secret);

impl RedisUrl {
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = || {
            let (scheme, rest) = self.reveal().split_once("://")?;
            // The last `@` separates them, since passwords may contain any character.
            let (who, place) = rest.rsplit_once('@')?;
            let (user, _) = who.split_once(':')?;
            Some(format!("{scheme}://{user}:{REDACTED}@{place}"))
        };
        f.write_str(&shown().unwrap_or_else(|| self.reveal().to_owned()))
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // `file:PATH` as for any secret.
        Secret::deserialize(d).map(Self)
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.file() {
            Some(_) => self.0.serialize(s),
            None => s.collect_str(self),
        }
    }
}

impl Short for RedisConfig {
    const WHAT: &'static str =
        "a URL such as `redis://127.0.0.1:6379`, or a mapping such as `{ url: … }`";

    fn text(url: &str) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            url: Some(Spanned::nowhere(RedisUrl(Secret::new(url)))),
            ..Self::default()
        }))
    }
}

short_form!(RedisConfig);

impl Short for RedisTlsConfig {
    const WHAT: &'static str = "`true`, `false` or a mapping such as `{ ca: ca.pem }`";

    const FLAG: Option<&'static str> = Some("enabled");
}

short_form!(RedisTlsConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_url_is_never_printed() {
        for (url, shown) in [
            ("redis://h:1/0", "redis://h:1/0"),
            ("redis://u@h", "redis://u@h"),
            ("redis://u:hunter2@h/1", "redis://u:[redacted]@h/1"),
            ("rediss://:hun@ter2@h", "rediss://:[redacted]@h"),
            ("redis://u:a/b@h/1", "redis://u:[redacted]@h/1"),
        ] {
            let url = RedisUrl(Secret::new(url));
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
        }
    }
}
