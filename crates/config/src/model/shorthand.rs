//! Types with a shorter form than their mapping, and numbers with bounds.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::json;

use super::{
    BackendConfig, BackendTarget, HealthConfig, InFlightConfig, RedirectConfig, RespondConfig,
    Spanned, StatusSet, TimeoutsConfig, UpstreamTlsConfig, WatchConfig, WebsocketConfig,
    route::RedirectMapping, upstream::BackendMapping,
};
use crate::{
    base::units::Span,
    tree::short::{self, FromMapping, Short, reads_short, short_form},
};

const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

reads_short!(by_hand: BackendConfig, RedirectConfig);
reads_short!(scalar: Statuses);
short_form!(
    HealthConfig,
    InFlightConfig,
    RespondConfig,
    TimeoutsConfig,
    UpstreamTlsConfig,
    WatchConfig,
    WebsocketConfig
);

impl FromMapping for BackendConfig {
    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let written = BackendMapping::deserialize(d)?;
        if written.weight == 0 {
            return Err(D::Error::custom(
                "a backend's weight must be at least 1\nhelp: remove the backend to send it nothing",
            ));
        }
        let target = match (written.address, written.dns) {
            (Some(address), None) => BackendTarget::Address(address),
            (None, Some(dns)) => BackendTarget::Dns(dns),
            (Some(_), Some(_)) => {
                return Err(D::Error::custom(
                    "a backend has `address` or `dns`, not both\nhelp: make it two backends",
                ));
            }
            (None, None) => {
                return Err(D::Error::custom(
                    "this backend has no address\nhelp: add `address: 127.0.0.1:3000` or `dns: \"name:3000\"`",
                ));
            }
        };
        Ok(Self {
            target,
            weight: written.weight,
            backup: written.backup,
        })
    }
}

impl Short for BackendConfig {
    const WHAT: &'static str = "a backend such as `127.0.0.1:3000`, or a mapping";

    fn number(number: u64) -> Option<Result<Self, String>> {
        let help = match u16::try_from(number) {
            Ok(port) if port > 0 => format!("write `127.0.0.1:{port}`"),
            _ => "write `IP:PORT`, such as `127.0.0.1:3000`".to_owned(),
        };
        Some(Err(format!(
            "a backend is an address, found the number {number}\nhelp: {help}"
        )))
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            target: BackendTarget::Address(text.to_owned()),
            weight: 1,
            backup: false,
        }))
    }
}

impl From<BackendConfig> for BackendMapping {
    fn from(backend: BackendConfig) -> Self {
        let (address, dns) = match backend.target {
            BackendTarget::Address(address) => (Some(address), None),
            BackendTarget::Dns(dns) => (None, Some(dns)),
        };
        Self {
            address,
            dns,
            weight: backend.weight,
            backup: backend.backup,
        }
    }
}

impl Short for HealthConfig {
    const WHAT: &'static str =
        "a mapping such as `{ path: /api/health }`, a path, or `false` for no checks";

    const FLAG: Option<&'static str> = Some("enabled");

    fn text(path: &str) -> Option<Result<Self, String>> {
        if !path.starts_with('/') {
            return None;
        }
        Some(Ok(Self {
            path: Some(Spanned::nowhere(path.to_owned())),
            ..Self::default()
        }))
    }
}

impl Short for InFlightConfig {
    const WHAT: &'static str = "a number of requests, or a mapping such as `{ per_backend: 100 }`";

    fn number(number: u64) -> Option<Result<Self, String>> {
        Some(match u32::try_from(number) {
            Ok(per_backend) if per_backend > 0 => Ok(Self {
                per_backend,
                ..Self::default()
            }),
            _ => Err(format!("must be from 1 to {}, found {number}", u32::MAX)),
        })
    }
}

impl Short for TimeoutsConfig {
    const WHAT: &'static str =
        "a time for each step, such as `1min`, or a mapping such as `{ first_byte: 5min }`";

    fn text(text: &str) -> Option<Result<Self, String>> {
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        let read = text.parse::<Span>().map_err(|error| error.to_string());
        Some(read.map(|time| Self {
            connect: time,
            first_byte: time,
            idle: time,
            stream_idle: time,
            total: None,
        }))
    }
}

impl Short for WebsocketConfig {
    const WHAT: &'static str = "`true`, `false`, `ignore` or a mapping such as `{ idle: 1h }`";

    const FLAG: Option<&'static str> = Some("enabled");

    fn text(text: &str) -> Option<Result<Self, String>> {
        (text == "ignore").then(|| {
            Ok(Self {
                enabled: false,
                refuse: false,
                ..Self::default()
            })
        })
    }
}

impl Short for WatchConfig {
    const WHAT: &'static str = "`true`, `false` or a mapping such as `{ debounce: 2s }`";

    const FLAG: Option<&'static str> = Some("enabled");
}

impl Short for UpstreamTlsConfig {
    const WHAT: &'static str = "`true`, `false` or a mapping such as `{ name: api.internal }`";

    const FLAG: Option<&'static str> = Some("enabled");
}

impl Short for RespondConfig {
    const WHAT: &'static str =
        "a mapping such as `{ status: 200, body: ok }`, a status, or the text of the body";

    const NUMBER: Option<&'static str> = Some("status");
    const TEXT: Option<&'static str> = Some("body");
}

impl FromMapping for RedirectConfig {
    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let RedirectMapping { to, status } = RedirectMapping::deserialize(d)?;
        Self::from_target(&to.value, status).map_err(D::Error::custom)
    }
}

impl Short for RedirectConfig {
    const WHAT: &'static str =
        "`https`, a target, or a mapping such as `{ to: /new, status: 308 }`";

    fn text(to: &str) -> Option<Result<Self, String>> {
        Some(Self::from_target(to, None))
    }
}

impl RedirectConfig {
    fn from_target(to: &str, status: Option<u16>) -> Result<Self, String> {
        if to.is_empty() {
            return Err(
                "a redirect needs a target\nhelp: write `https`, a path such as `/new`, or a URL"
                    .to_owned(),
            );
        }
        Ok(Self {
            to: to.to_owned(),
            status: status.unwrap_or(if to == "https" { 308 } else { 307 }),
        })
    }
}

/// A single status or a single range.
struct Statuses(u16, u16);

impl Short for Statuses {
    const WHAT: &'static str = "a status such as 200, or a range such as `200-399`";

    fn number(status: u64) -> Option<Result<Self, String>> {
        Self::text(&status.to_string())
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        let status = |text: &str| {
            let digits = text.trim();
            let status = digits.parse().ok();
            status.filter(|status| digits.len() == 3 && (100..=599).contains(status))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first, last)),
            (Some(first), Some(last)) => Err(format!(
                "invalid range `{text}`: it is reversed\nhelp: write `{last}-{first}`"
            )),
            _ => Err(format!(
                "invalid status `{text}`\nhelp: write a status from 100 to 599, or a range such as `200-399`"
            )),
        })
    }
}

impl<'de> Deserialize<'de> for StatusSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let super::OneOrMany(statuses) = super::OneOrMany::<Statuses>::deserialize(d)?;
        Ok(Self(statuses.into_iter().map(|s| (s.0, s.1)).collect()))
    }
}

impl Serialize for StatusSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter().map(|(first, last)| {
            if first == last {
                json!(first)
            } else {
                json!(format!("{first}-{last}"))
            }
        }))
    }
}

impl JsonSchema for StatusSet {
    fn schema_name() -> Cow<'static, str> {
        "StatusSet".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let single = json!({ "type": "integer", "minimum": 100, "maximum": 599 });
        let range = json!({ "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" });
        json_schema!({
            "description": "Statuses: `200`, `200-399`, or a list of both. Ranges include both ends.",
            "anyOf": [
                single,
                range,
                { "type": "array", "minItems": 1, "items": { "anyOf": [single, range] } },
            ],
        })
    }
}

pub(super) fn at_least_one<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match u32::deserialize(d)? {
        0 => Err(D::Error::custom("must be at least 1, found 0")),
        number => Ok(number),
    }
}

pub(super) fn reply_status<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    match Option::<u64>::deserialize(d)? {
        Some(status) if !(200..=599).contains(&status) => Err(D::Error::custom(format_args!(
            "the status of a reply must be from 200 to 599, found {status}"
        ))),
        status => Ok(status.and_then(|status| u16::try_from(status).ok())),
    }
}

pub(super) fn redirect_status<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    match Option::<u16>::deserialize(d)? {
        Some(status) if !REDIRECT_STATUSES.contains(&status) => {
            Err(D::Error::custom(format_args!(
                "invalid redirect status {status}\nhelp: write 301 or 308 (for good), 302 or 307 (for now), or 303 (look there with GET)"
            )))
        }
        status => Ok(status),
    }
}

pub(super) fn redirect_statuses(schema: &mut Schema) {
    schema.remove("format");
    schema.remove("minimum");
    schema.remove("maximum");
    schema.insert("type".to_owned(), json!("integer"));
    schema.insert("enum".to_owned(), json!(REDIRECT_STATUSES));
}

/// Allows the path of a check in the schema as well.
pub(super) fn or_a_path(schema: &mut Schema) {
    short::or(schema, json!({ "type": "string", "pattern": "^/" }));
}

/// Allows bare numbers in the schema where the words of an enum are statuses.
pub(super) fn or_a_status_number(schema: &mut Schema) {
    short::or(
        schema,
        json!({ "type": "integer", "enum": [500, 502, 503, 504] }),
    );
}
