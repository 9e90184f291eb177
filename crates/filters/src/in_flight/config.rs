//! Configuration of `in_flight` as written, and its compilation.

use std::sync::Arc;

use edgeway_config::tree::{
    Spanned,
    short::{self, Short, short_form},
};
use edgeway_core::{chain::CompileContext, limits::key::KeyList};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{InFlight, PerKey, counts::RouteCounts};

/// Maximum number of requests in flight: a number for the route, or a mapping. Requests beyond it
/// get 503.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = or_number)]
pub struct RouteInFlightConfig {
    /// Maximum for the whole route; unlimited if absent.
    max: Option<u32>,
    /// Maximum per client; unlimited if absent.
    per_key: Option<u32>,
    /// Parts of the request that identify a client: the first part that the request has, or else
    /// its address. With a claim, an API key or a user, requests are counted once they are
    /// authenticated. The address alone if absent.
    key: Option<Spanned<KeyList>>,
}

/// Extends the schema: a number alone is valid too.
fn or_number(schema: &mut Schema) {
    short::or(schema, json!({ "type": "integer", "minimum": 1 }));
}

impl Short for RouteInFlightConfig {
    const WHAT: &'static str = "a number of requests such as `200`, or a mapping";

    const NUMBER: Option<&'static str> = Some("max");
}

short_form!(RouteInFlightConfig);

impl RouteInFlightConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<InFlight> {
        let Self { max, per_key, key } = self;
        if max == Some(0) || per_key == Some(0) {
            return cx.here("edgeway::in_flight::zero").refuse(
                "`in_flight` of 0 would refuse every request",
                "write how many may be in flight, such as `200`, or `in_flight: false` for no \
                 limit",
            );
        }
        if max.is_none() && per_key.is_none() {
            return cx.here("edgeway::in_flight::nothing").refuse(
                "`in_flight` has no limit",
                "write `max` for the route, `per_key` for each client, or both",
            );
        }
        if let (Some(key), None) = (&key, per_key) {
            return cx.at(key.place, "edgeway::in_flight::key").refuse(
                "`key` has no effect without `per_key`",
                "write how many each client may have in flight as `per_key`, or remove `key`",
            );
        }
        let key = key.map(|key| key.value).unwrap_or_default();
        if let (Some(max), Some(per_key)) = (max, per_key)
            && per_key >= max
        {
            cx.here("edgeway::in_flight::one_client").warn(
                format!(
                    "one client may have {per_key} requests in flight, and the whole route {max}"
                ),
                "write a `per_key` well below `max`, so that no client uses up the route's limit",
            );
        }
        // One set of counts per route, whatever its bounds: requests that started under the
        // previous configuration leave the same counts.
        let counts = cx
            .zones
            .get_or_create(&format!("in_flight {}", cx.route), || {
                RouteCounts::new(cx.metrics, cx.route)
            });
        Some(InFlight {
            counts,
            max,
            per_key: per_key.map(|max| Arc::new(PerKey { max, key })),
        })
    }
}
