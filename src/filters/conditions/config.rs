//! Configuration of `conditions` as written, and its compilation.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use regex::RegexBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, Conditions, Test, Then};
use crate::{
    chain::CompileContext,
    config::{diagnostic::Place, tree::Spanned},
    values::{Maps, Names, Template},
};

const TEXT: &str = "text/plain; charset=utf-8";

/// Conditions on values of the request, of which the first that holds responds.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct ConditionsConfig(Vec<ConditionConfig>);

/// A condition, and the response to a request for which it holds.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConditionConfig {
    /// Value to compare: text with the placeholders of `headers`, such as `{map.bad_bot}`.
    #[serde(rename = "if")]
    value: Spanned<String>,
    /// Text that the value must be; `~` begins a regular expression that it must match, `~*` one
    /// without regard to case, and `\~` a text that begins with `~`. If absent, the value must be
    /// neither empty nor `0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is: Option<Spanned<String>>,
    /// True if the condition is that it does not hold.
    #[serde(default)]
    not: bool,
    /// Status of the response; 444 closes the connection.
    #[schemars(range(min = 200, max = 599))]
    status: Spanned<u16>,
    /// Target of a redirect, with placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Spanned<String>>,
    /// Body, with placeholders; the built-in page of an error if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Spanned<String>>,
    /// Media type of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Spanned<String>>,
}

impl ConditionsConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Conditions> {
        if self.0.is_empty() {
            cx.report(
                "edgeway::conditions::none",
                "`conditions` has no condition",
                "write `[{ if: \"{map.bad_bot}\", status: 403 }]`, or remove it",
            );
            return None;
        }
        let all: Vec<Option<Condition>> = self.0.iter().map(|one| one.compile(cx)).collect();
        let all = all.into_iter().map(|one| one.map(Arc::new));
        all.collect::<Option<_>>().map(Conditions)
    }
}

impl ConditionConfig {
    fn compile(&self, cx: &mut CompileContext<'_>) -> Option<Condition> {
        let maps = cx.shared.get::<Maps>().unwrap_or_default();
        let clock = cx.clock.clone();
        let names = Names {
            clock: &clock,
            maps: &maps,
        };
        let value = template(&self.value, &names, cx);
        let test = self.test(cx);
        let status = self.status(cx);
        let then = self.then(&names, cx);
        Some(Condition {
            value: value?,
            test: test?,
            is_negated: self.not,
            status: status?,
            then: then?,
        })
    }

    fn test(&self, cx: &mut CompileContext<'_>) -> Option<Test> {
        let Some(is) = &self.is else {
            return Some(Test::True);
        };
        let Some(regex) = is.value.strip_prefix('~') else {
            let text = is.value.strip_prefix('\\');
            let text = text.filter(|text| text.starts_with('~'));
            return Some(Test::Equal(text.unwrap_or(&is.value).into()));
        };
        let (regex, ignores_case) = match regex.strip_prefix('*') {
            Some(regex) => (regex, true),
            None => (regex, false),
        };
        let built = RegexBuilder::new(regex)
            .case_insensitive(ignores_case)
            .build();
        match built {
            Ok(regex) => Some(Test::Like(regex)),
            Err(error) => {
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default().trim();
                let reason = reason.trim_start_matches("error: ");
                cx.report_at(
                    is.place,
                    "edgeway::conditions::regex",
                    format!("invalid regular expression `{regex}`: {reason}"),
                    "correct it; look-around and back-references are not supported",
                );
                None
            }
        }
    }

    fn status(&self, cx: &mut CompileContext<'_>) -> Option<StatusCode> {
        let number = self.status.value;
        let is_redirect = matches!(number, 301 | 302 | 303 | 307 | 308);
        let has_body = self.body.is_some();
        let (why, help) = if !(200..600).contains(&number) {
            ("is no status of a response", "write one from 200 to 599")
        } else if is_redirect && self.to.is_none() {
            (
                "is a redirect without a target",
                "write where to: `to: /new`",
            )
        } else if !is_redirect && self.to.is_some() {
            (
                "is no redirect, and has a target",
                "write 301, 302, 303, 307 or 308, or remove `to`",
            )
        } else if has_body && (is_redirect || matches!(number, 204 | 205 | 304 | 444)) {
            ("has no body", "remove `body`")
        } else {
            return StatusCode::from_u16(number).ok();
        };
        report(
            self.status.place,
            format!("status {number} {why}"),
            help,
            cx,
        );
        None
    }

    fn then(&self, names: &Names<'_>, cx: &mut CompileContext<'_>) -> Option<Then> {
        if let Some(to) = &self.to {
            return template(to, names, cx).map(Then::Redirect);
        }
        let Some(body) = &self.body else {
            return Some(Then::ByStatus);
        };
        let content_type = match &self.content_type {
            Some(written) => HeaderValue::from_str(&written.value).map_err(|_| written.place),
            None => Ok(HeaderValue::from_static(TEXT)),
        };
        match content_type {
            Ok(content_type) => match Template::parse_text(&body.value, names) {
                Ok(text) => Some(match text.plain_text() {
                    Some(plain) => Then::Body(content_type, plain.to_owned().into()),
                    None => Then::Text(content_type, text),
                }),
                Err((message, help)) => {
                    cx.report_at(body.place, "edgeway::conditions::value", message, help);
                    None
                }
            },
            Err(place) => {
                let help = "write one such as `text/html; charset=utf-8`";
                report(place, "invalid media type".to_owned(), help, cx);
                None
            }
        }
    }
}

fn report(place: Place, message: String, help: &str, cx: &mut CompileContext<'_>) {
    cx.report_at(place, "edgeway::conditions::response", message, help);
}

fn template(
    text: &Spanned<String>,
    names: &Names<'_>,
    cx: &mut CompileContext<'_>,
) -> Option<Template> {
    let parsed = Template::parse(&text.value, names);
    parsed
        .map_err(|(message, help)| {
            cx.report_at(text.place, "edgeway::conditions::value", message, help);
        })
        .ok()
}
