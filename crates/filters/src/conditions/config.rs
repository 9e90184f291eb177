//! Configuration of `conditions` as written, and its compilation.

use std::sync::Arc;

use edgeway_config::tree::Spanned;
use edgeway_core::chain::CompileContext;
use edgeway_routes::values::{Codes, Comparison, ConditionResponse, ResponseParts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, Conditions};

const CODES: Codes = Codes {
    value: "edgeway::conditions::value",
    regex: "edgeway::conditions::regex",
    response: "edgeway::conditions::response",
};

/// Conditions on values of the request; the first one that holds responds.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ConditionsConfig(Vec<ConditionConfig>);

/// A condition, and the response if it holds.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConditionConfig {
    /// Value to compare: text with the placeholders of `headers`, such as `{map.bad_bot}`.
    #[serde(rename = "if")]
    value: Spanned<String>,
    /// Text that the value must be; `~` begins a regular expression that it must match, `~*` one
    /// without regard to case, and `\~` a text that begins with `~`. If absent, the value must be
    /// neither empty nor `0`.
    is: Option<Spanned<String>>,
    /// True to reverse the condition.
    #[serde(default)]
    not: bool,
    /// Status of the response; 444 closes the connection.
    #[schemars(range(min = 200, max = 599))]
    status: Spanned<u16>,
    /// Target of a redirect, with placeholders; `{group.1}` and `{group.NAME}` are groups of the
    /// expression in `is`.
    to: Option<Spanned<String>>,
    /// Body, with the placeholders of `to`; the built-in page of an error if absent.
    body: Option<Spanned<String>>,
    /// Media type of the body; `*` for that of a file with the request's path, by `media_types`.
    content_type: Option<Spanned<String>>,
}

impl ConditionsConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Conditions> {
        if self.0.is_empty() {
            return cx.here("edgeway::conditions::none").refuse(
                "`conditions` has no condition",
                "write `[{ if: \"{map.bad_bot}\", status: 403 }]`, or remove it",
            );
        }
        let all = self.0.iter().filter_map(|one| one.compile(cx));
        Some(Conditions(all.map(Arc::new).collect()))
    }
}

impl ConditionConfig {
    fn compile(&self, cx: &mut CompileContext<'_>) -> Option<Condition> {
        let comparison = Comparison::compile(&self.value, self.is.as_ref(), self.not, CODES, cx);
        let parts = ResponseParts {
            status: &self.status,
            to: self.to.as_ref(),
            body: self.body.as_ref(),
            content_type: self.content_type.as_ref(),
        };
        let regex = comparison.as_ref().and_then(Comparison::pattern);
        let response = ConditionResponse::compile(&parts, regex, CODES, cx);
        Some(Condition {
            response: response?,
            comparison: comparison?,
        })
    }
}
