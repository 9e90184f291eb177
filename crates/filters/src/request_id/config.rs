//! Configuration of `request_id` as written, and its compilation.

use edgeway_base::gateway_headers::GatewayHeaders;
use edgeway_config::tree::Spanned;
use edgeway_core::chain::CompileContext;
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
        Some(RequestId {
            header: cx
                .at(self.header.place, "edgeway::request_id::header")
                .reported(GatewayHeaders::parse(&self.header.value))?,
            response: self.response,
            trust: self.trust,
            traceparent: self.traceparent,
        })
    }
}
