//! Configuration of a token's location as written, and of a required claim's value.

use edgeway_base::gateway_headers::GatewayHeaders;
use edgeway_config::{
    diagnostic::Place,
    tree::short::{self, Short, reads_short},
};
use edgeway_core::chain::{CompileContext, CredentialPlace};
use http::header;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::jwt::source;

/// Location of a token in a request: exactly one of the three.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
#[derive(Default)]
pub(super) struct SourceConfig {
    /// Name of a header; `Authorization` has `Bearer` before the token.
    pub(super) header: Option<String>,
    /// Name of a cookie.
    cookie: Option<String>,
    /// Name of a query parameter.
    pub(super) query: Option<String>,
}

impl Short for SourceConfig {
    const WHAT: &'static str = "`header:NAME`, `cookie:NAME` or `query:NAME`";

    fn text(text: &str) -> Option<Result<Self, String>> {
        let mut config = Self::default();
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let slot = match kind {
            "header" => &mut config.header,
            "cookie" => &mut config.cookie,
            "query" => &mut config.query,
            _ => {
                return Some(Err(format!(
                    "invalid token source `{text}`\nhelp: write {}",
                    Self::WHAT
                )));
            }
        };
        *slot = Some(name.trim().to_owned());
        Some(Ok(config))
    }
}

reads_short!(SourceConfig);

impl Serialize for SourceConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.names().is_empty() {
            return s.collect_map([("header", header::AUTHORIZATION.as_str())]);
        }
        Self::serialize(self, s)
    }
}

impl SourceConfig {
    fn names(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("header", &self.header),
            ("cookie", &self.cookie),
            ("query", &self.query),
        ];
        let names = all.into_iter();
        names
            .filter_map(|(kind, name)| Some((kind, name.as_deref()?)))
            .collect()
    }

    pub(super) fn compile(
        &self,
        place: Place,
        cx: &mut CompileContext<'_>,
    ) -> Option<CredentialPlace> {
        const CODE: &str = "edgeway::jwt::token";
        let names = self.names();
        let (kind, name) = match names[..] {
            // No location was written.
            [] if place == Place::default() => ("header", header::AUTHORIZATION.as_str()),
            [one] => one,
            _ => {
                let message = "a token source is one of `header`, `cookie` and `query`";
                let help =
                    "write a list for several: `[{ header: Authorization }, { query: token }]`";
                return cx.at(place, CODE).refuse(message, help);
            }
        };
        if kind == "header" {
            cx.at(place, CODE)
                .reported(GatewayHeaders::parse_credential(name))?;
        }
        let source = source::location(kind, name);
        if source.is_none() {
            let message = format!("invalid {kind} name `{name}`");
            let help = "write the name as clients send it, such as `query: token`";
            cx.at(place, CODE).error(message, help);
        }
        source
    }
}

/// A value that a claim may have.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Scalar {
    Flag(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

impl Scalar {
    pub(super) fn value(self) -> Value {
        match self {
            Self::Flag(flag) => flag.into(),
            Self::Whole(number) => number.into(),
            Self::Number(number) => number.into(),
            Self::Text(text) => text.into(),
        }
    }
}
