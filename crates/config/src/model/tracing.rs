//! The `tracing:` section as written.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use smart_default::SmartDefault;

use super::{Spanned, placed_number, placed_seconds, yes};
use crate::{
    base::{
        secret::Secret,
        units::{Percent, Span, UnitError},
    },
    tree::short::{Short, reads_short},
};

/// Export of traces to a collector over OTLP. Off without this section.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TracingConfig {
    /// URL of the collector, such as `http://127.0.0.1:4317`. With `protocol: http`, `/v1/traces`
    /// is appended to its path unless the path ends with it.
    pub endpoint: Spanned<String>,
    /// Protocol of the collector: `grpc`, usually on port 4317, or `http` with Protobuf, usually on
    /// port 4318.
    #[serde(default)]
    pub protocol: Spanned<TracingProtocol>,
    /// Headers for the collector, such as an API key: `file:PATH` or `${NAME}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Spanned<Secret>>,
    /// TLS to the collector; for `https://` only.
    pub tls: Option<Spanned<TracingTlsConfig>>,
    /// Name of this gateway in traces.
    #[serde(default = "service_name")]
    pub service_name: Spanned<String>,
    /// More facts about this gateway, such as `deployment.environment.name: production`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resource: BTreeMap<String, Spanned<String>>,
    /// Share of traced requests, among those that begin a trace here.
    #[serde(default = "sample")]
    pub sample: Spanned<Percent>,
    /// Traces every request that takes at least this long, or whose stream begins this late;
    /// `false` for none.
    #[serde(default)]
    pub slow: Spanned<SlowConfig>,
    /// Traces every request that fails with a status from 500, or breaks off.
    #[serde(default = "yes")]
    pub errors: bool,
    /// Senders of a `traceparent` whose traces are continued.
    #[serde(default)]
    pub trust: TraceTrust,
    /// Longest time for sending a batch, retries included.
    #[serde(default = "placed_seconds::<10>")]
    pub timeout: Spanned<Span>,
    /// Longest time that a finished trace waits for others to be sent with it.
    #[serde(default = "placed_seconds::<5>")]
    pub interval: Spanned<Span>,
    /// Number of traces that wait for the collector. Further ones are dropped and counted.
    #[serde(default = "placed_number::<1024>")]
    pub queue: Spanned<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TracingProtocol {
    #[default]
    Grpc,
    Http,
}

/// Senders of a `traceparent` whose traces are continued. A request of any other sender begins a
/// trace, which has a link to the sender's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TraceTrust {
    /// Proxies of `trusted_proxies`, whose decision on sampling is followed as well.
    #[default]
    Proxies,
    /// Every client. Only proxies of `trusted_proxies` can force sampling; for other clients, the
    /// gateway samples the share `sample`.
    All,
    /// Nobody.
    None,
}

/// TLS to a collector.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TracingTlsConfig {
    /// A PEM file of CA certificates, instead of the system's.
    pub ca: Option<Spanned<PathBuf>>,
}

/// Duration from which a request is slow, if any is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SmartDefault)]
pub struct SlowConfig(#[default(Some(Span::secs(1)))] pub Option<Span>);

impl Short for SlowConfig {
    const WHAT: &'static str = "a duration such as `1s`, or `false`";

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        Some(Ok(if flag { Self::default() } else { Self(None) }))
    }

    fn number(number: u64) -> Option<Result<Self, String>> {
        Self::text(&number.to_string())
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        let span = text.parse().map_err(|error: UnitError| error.to_string());
        Some(span.map(|span| Self(Some(span))))
    }
}

reads_short!(scalar: SlowConfig);

impl Serialize for SlowConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(span) => span.serialize(s),
            None => s.serialize_bool(false),
        }
    }
}

impl JsonSchema for SlowConfig {
    fn schema_name() -> Cow<'static, str> {
        "SlowConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let span = generator.subschema_for::<Span>();
        json_schema!({ "anyOf": [span, { "type": "boolean" }] })
    }
}

fn service_name() -> Spanned<String> {
    Spanned::nowhere("edgeway".to_owned())
}

fn sample() -> Spanned<Percent> {
    Spanned::nowhere(Percent(1.0))
}
