//! The `flood_guard:` section as written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::unplaced;
use crate::{
    base::{
        net::Cidr,
        secret::Secret,
        units::{Rate, Span},
    },
    config::tree::Spanned,
};

/// A wide bound on what each client address may ask for, in front of every route.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FloodGuardConfig {
    /// Requests of one address (IPv6: one /64), whatever they are for; beyond it 429. Far
    /// above what people behind one address need: one page is up to 40 requests.
    pub requests: Spanned<Rate>,
    /// Requests that one address may have under way at once; beyond it 503. A WebSocket
    /// counts until it is open.
    pub in_flight: Spanned<u32>,
    /// How many different addresses at a time the estimates are made for, at 96 bytes each.
    /// With many more, innocent ones may be taken for others.
    pub clients: Spanned<u32>,
    /// Addresses and networks that are neither counted nor banned nor challenged.
    pub exempt: Vec<Cidr>,
    /// Bans clients that are refused over and over; nobody if absent.
    pub ban: Option<Spanned<BanConfig>>,
    /// Sends browsers that ask too often to a page that finds out whether they are people;
    /// nobody if absent.
    pub challenge: Option<Spanned<FloodChallengeConfig>>,
}

impl Default for FloodGuardConfig {
    fn default() -> Self {
        Self {
            requests: unplaced(Rate {
                count: 100,
                per: Duration::from_secs(1),
            }),
            in_flight: unplaced(50),
            clients: unplaced(65_536),
            exempt: Vec::new(),
            ban: None,
            challenge: None,
        }
    }
}

/// When a client is banned, and for how long.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BanConfig {
    /// So many refusals by rate limits, by this guard and by identity filters …
    pub after: u16,
    /// … within this time …
    pub within: Span,
    /// … are a ban for so long.
    #[serde(rename = "for")]
    pub lasts: Span,
}

impl Default for BanConfig {
    fn default() -> Self {
        Self {
            after: 20,
            within: Span::secs(60),
            lasts: Span::secs(600),
        }
    }
}

/// Where suspicious browsers are sent, and how they show that they passed.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FloodChallengeConfig {
    /// A URL such as `https://check.example.com/`, or a path such as `/challenge` that a
    /// route of this gateway serves. It gets the URL that was asked for as `return`.
    pub redirect: Spanned<String>,
    /// An address that asks more often than this must pass; less than `requests`.
    pub above: Spanned<Rate>,
    /// The cookie that whoever has passed brings back.
    #[serde(default = "cookie")]
    pub cookie: Spanned<String>,
    /// What the cookie is signed with: `file:PATH` or `${NAME}`, at least 32 visible
    /// characters.
    pub key: Spanned<Secret>,
    /// The longest that a cookie may last.
    #[serde(rename = "for", default = "hour")]
    pub lasts: Spanned<Span>,
}

fn cookie() -> Spanned<String> {
    unplaced("edgeway-clearance".to_owned())
}

fn hour() -> Spanned<Span> {
    unplaced(Span::secs(3600))
}
