//! Configuration of `request_id` as written, and its compilation.

use edgeway_config::tree::Spanned;
use edgeway_core::chain::CompileContext;
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::RequestId;

/// An id for each request, on its response, towards the origin and in the log.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct RequestIdConfig {
    /// Header that carries the id, on responses and towards the origin.
    #[default(Spanned::nowhere("X-Request-Id".to_owned()))]
    header: Spanned<String>,
    /// True to send the id on responses.
    #[default(true)]
    response: bool,
    /// True to keep the id that a proxy of `trusted_proxies` sends. Ids of other clients are always
    /// replaced.
    trust: bool,
    /// True to start a W3C trace for requests without a valid `traceparent`, with the request's id
    /// as trace id. `false` leaves `traceparent` and `tracestate` alone.
    #[default(true)]
    traceparent: bool,
}

impl RequestIdConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<RequestId> {
        let Ok(header) = HeaderName::try_from(self.header.value.as_str()) else {
            return cx.refuse_at(
                self.header.place,
                "edgeway::request_id::header",
                format!("invalid header name `{}`", self.header.value),
                "write a name such as `X-Request-Id`",
            );
        };
        Some(RequestId {
            header,
            response: self.response,
            trust: self.trust,
            traceparent: self.traceparent,
        })
    }
}
