//! Config of one limit in `rate_limits`.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    key::{KeyList, Source},
    memory::DEFAULT_MAX_KEYS,
};
use crate::{
    base::{
        net::Cidr,
        units::{Percent, Rate, Span},
    },
    chain::Class,
    config::tree::{
        Entries, OneOrMany, Spanned,
        short::{self, Short, short_form},
    },
};

/// A named limit: its rate alone, such as `5/min`, or a mapping. It applies to the routes whose
/// `rate_limit` names it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_rate)]
pub struct LimitConfig {
    /// Requests per unit of time, such as `10/s` or `100/15min`. The bucket refills evenly.
    pub(super) rate: Spanned<Rate>,
    /// Number of requests that may come at once; the count of the rate if absent.
    pub(super) burst: Option<Spanned<u32>>,
    /// Key that requests are counted by: one part of a request, or a list: the first part that the
    /// request has is used. If it has none, its client's address is used.
    #[serde(default)]
    pub(super) key: KeyList,
    /// Text that requests are counted by in place of `key`, with the placeholders of `headers`,
    /// such as `{map.counted}`. If it is empty, the request is not counted.
    pub by: Option<Spanned<String>>,
    /// Other rates for some clients: a part of a request such as `jwt.role`, its values, and the
    /// rate for each. The first part with a listed value decides.
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, TierConfig>>")]
    pub(super) tiers: Entries<Source, Entries<String, TierConfig>>,
    /// Classes of requests that are counted: `page`, `action`, `api`, `image`, `static`,
    /// `prefetch`; all of them if absent.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub(super) classes: OneOrMany<ClassName>,
    /// Maximum time for which requests are delayed before they are refused.
    #[serde(default)]
    pub(super) delay: Spanned<Span>,
    /// Clients that are not counted, by address.
    #[serde(default)]
    pub(super) exempt: Vec<Cidr>,
    /// Location of the buckets: in this process, or in Redis for all gateways together.
    #[serde(default)]
    pub(super) store: Spanned<StoreConfig>,
    /// Behaviour while Redis is unavailable.
    pub(super) on_store_error: Option<Spanned<OnStoreError>>,
    /// Share of a bucket that a gateway may take from Redis in advance, for keys with frequent
    /// requests.
    pub(super) lease: Option<Spanned<Percent>>,
    /// Maximum number of keys that are stored.
    #[serde(default = "max_keys")]
    pub(super) max_keys: Spanned<usize>,
    /// Response headers that report the limit to clients.
    #[serde(default)]
    pub(super) headers: HeadersConfig,
    /// Status of refusals, such as 503 as with nginx: from 400 to 599.
    #[serde(default = "too_many", deserialize_with = "refusal_status")]
    #[schemars(range(min = 400, max = 599))]
    pub(super) status: u16,
}

fn too_many() -> u16 {
    429
}

fn refusal_status<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    let status = u64::deserialize(d)?;
    let valid = u16::try_from(status).ok();
    valid.filter(|status| (400..=599).contains(status)).ok_or_else(|| {
        de::Error::custom(format_args!(
            "a refusal cannot have the status {status}\nhelp: write one from 400 to 599, or leave \
             `status` out for 429"
        ))
    })
}

/// A rate for some clients: alone, or with a burst.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_rate)]
pub struct TierConfig {
    /// Requests per unit of time.
    pub(super) rate: Rate,
    /// Number of requests that may come at once; the count of the rate if absent.
    pub(super) burst: Option<u32>,
}

/// Location of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreConfig {
    /// In this process.
    #[default]
    Memory,
    /// In the Redis of the section `redis`, for all gateways together.
    Redis,
}

/// Behaviour while Redis is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreError {
    /// Each gateway counts for itself, and lets its share pass: the limit divided by the number of
    /// gateways, rounded up.
    #[default]
    Local,
    /// Each gateway counts for itself, and lets the whole limit pass.
    Full,
    /// Requests pass uncounted.
    Allow,
    /// Requests are refused with 503.
    Deny,
}

/// Response headers that report a limit to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadersConfig {
    /// `RateLimit` and `RateLimit-Policy`.
    #[default]
    Standard,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    Legacy,
    /// All five.
    Both,
    /// None but `Retry-After`.
    Off,
}

edgeway_base::enum_table! {
    /// A class of requests by its name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    pub enum ClassName => class: Class {
        Static = Class::Static,
        Image = Class::Image,
        Prefetch = Class::Prefetch,
        Page = Class::Page,
        Action = Class::Action,
        Api = Class::Api,
    }
}

fn max_keys() -> Spanned<usize> {
    Spanned::nowhere(DEFAULT_MAX_KEYS)
}

/// Extends the schema: a rate alone is valid as well.
fn or_rate(schema: &mut Schema) {
    let rate = Rate::json_schema(&mut SchemaGenerator::default());
    short::or(schema, rate.to_value());
}

impl Short for LimitConfig {
    const WHAT: &'static str = "a rate such as `10/s`, or a mapping with `rate`";

    const TEXT: Option<&'static str> = Some("rate");
}

short_form!(LimitConfig);

impl Short for TierConfig {
    const WHAT: &'static str = "a rate such as `10/s`, or a mapping with `rate`";

    const TEXT: Option<&'static str> = Some("rate");
}

short_form!(TierConfig);
