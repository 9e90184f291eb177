//! The `flood_guard:` section as written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::placed_seconds;
use crate::{
    base::{
        net::Cidr,
        secret::Secret,
        units::{Rate, Span},
    },
    tree::Spanned,
};

/// A generous limit on the requests of each client address, in front of every route.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct FloodGuardConfig {
    /// Requests of one address (IPv6: one /64), for any route; more get 429. Far above the needs of
    /// people behind one address: one page is up to 40 requests.
    #[default(Spanned::nowhere(Rate { count: 100, per: Duration::from_secs(1) }))]
    pub requests: Spanned<Rate>,
    /// Requests of one address in flight at once; more get 503. One HTTP/2 connection of a browser
    /// has up to `http2.concurrent_streams`. A WebSocket counts until it is open.
    #[default(Spanned::nowhere(512))]
    pub in_flight: Spanned<u32>,
    /// Number of addresses at a time for which the estimates are accurate, at 96 bytes each. With
    /// many more addresses, a legitimate client may be refused for another one's requests.
    #[default(Spanned::nowhere(65_536))]
    pub clients: Spanned<u32>,
    /// Addresses and networks that are neither counted nor banned nor challenged.
    pub exempt: Vec<Cidr>,
    /// Bans clients that are refused repeatedly; no bans if absent.
    pub ban: Option<Spanned<BanConfig>>,
    /// Redirects browsers with too many requests to a page that checks whether they are people; no
    /// challenges if absent.
    pub challenge: Option<Spanned<FloodChallengeConfig>>,
}

/// Threshold and duration of a ban.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct BanConfig {
    /// Refusals by rate limits, by this guard and by identity filters that cause a ban.
    #[default(20)]
    pub after: u16,
    /// Time within which the refusals are counted.
    #[default(Span::secs(60))]
    pub within: Span,
    /// Duration of a ban.
    #[serde(rename = "for")]
    #[default(Span::secs(600))]
    pub lasts: Span,
}

/// The challenge for suspicious browsers, and the cookie that proves they passed.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FloodChallengeConfig {
    /// A URL such as `https://check.example.com/`, or a path such as `/challenge` that a route of
    /// this gateway serves. It gets the requested URL as `return`.
    pub redirect: Spanned<String>,
    /// Request rate of an address above which it must pass the challenge; less than `requests`.
    pub above: Spanned<Rate>,
    /// Name of the cookie that a client has after the challenge.
    #[serde(default = "cookie")]
    pub cookie: Spanned<String>,
    /// Key that signs the cookie: `file:PATH` or `${NAME}`, at least 32 visible characters.
    pub key: Spanned<Secret>,
    /// Longest lifetime of a cookie.
    #[serde(rename = "for", default = "placed_seconds::<3600>")]
    pub lasts: Spanned<Span>,
}

fn cookie() -> Spanned<String> {
    Spanned::nowhere("edgeway-clearance".to_owned())
}
