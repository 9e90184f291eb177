//! Configuration of `cache_control` as written, and its compilation.

use edgeway_base::{target::PathRule, units::Span};
use edgeway_cache::policy::ClientLifetimes;
use edgeway_config::{
    diagnostic::Place,
    model::StatusSet,
    tree::{OneOrMany, Spanned},
};
use edgeway_core::{chain::CompileContext, limits::config::ClassName};
use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CacheControl, Effect, Rule};

const CODE: &str = "edgeway::cache_control::rule";

/// Rules; the first one that matches a response applies.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct CacheControlConfig(OneOrMany<Spanned<RuleConfig>>);

/// Lifetimes of some responses in browsers and in shared caches in front of the gateway.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RuleConfig {
    /// Classes of requests: `page`, `action`, `api`, `image`, `static`, `prefetch`; any if absent.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    class: OneOrMany<ClassName>,
    /// Paths: `/exact`, or `/prefix/*` with all below it; any if absent.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    path: OneOrMany<Spanned<String>>,
    /// True for files whose names contain a hash of their content, such as `main.8e3f2a1b.js`.
    #[serde(skip_serializing_if = "is_false")]
    hashed: bool,
    /// Statuses; `200-299` if absent. A 304 or 206 counts as 200.
    status: Option<StatusSet>,
    /// Time for which browsers store the response: `max-age`.
    browser: Option<Span>,
    /// Time for which shared caches in front of the gateway store it: `s-maxage`.
    shared: Option<Span>,
    /// The same in `CDN-Cache-Control` (RFC 9213), which browsers ignore.
    cdn: Option<Span>,
    /// True if the content at this URL never changes: browsers do not validate it.
    #[serde(skip_serializing_if = "is_false")]
    immutable: bool,
    /// True to keep the response out of every cache.
    #[serde(skip_serializing_if = "is_false")]
    no_store: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl CacheControlConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<CacheControl> {
        let count = self.0.0.len();
        let rules: Vec<Rule> = self
            .0
            .0
            .into_iter()
            .filter_map(|rule| rule.value.compile(rule.place, cx))
            .collect();
        (rules.len() == count).then(|| CacheControl {
            rules: rules.into(),
        })
    }
}

impl RuleConfig {
    fn compile(self, place: Place, cx: &mut CompileContext<'_>) -> Option<Rule> {
        let effect = self.effect(place, cx)?;
        let mut paths = Vec::new();
        for Spanned { value, place } in &self.path.0 {
            paths.push(path(value, *place, cx)?);
        }
        let statuses = match self.status {
            None => vec![(200, 299)],
            Some(StatusSet(statuses)) => statuses,
        };
        Some(Rule {
            classes: self.class.0.iter().map(|name| name.class()).collect(),
            paths: paths.into(),
            is_hashed: self.hashed,
            statuses: statuses.into(),
            effect,
        })
    }

    fn effect(&self, place: Place, cx: &mut CompileContext<'_>) -> Option<Effect> {
        let has_lifetime = self.browser.is_some() || self.shared.is_some() || self.cdn.is_some();
        if self.no_store {
            if has_lifetime || self.immutable {
                return cx.at(place, CODE).refuse(
                    "`no_store` keeps the response out of every cache, so that a lifetime has no \
                     meaning",
                    "remove `no_store`, or the lifetimes",
                );
            }
            return Some(Effect::Forbid);
        }
        if !has_lifetime {
            return cx.at(place, CODE).refuse(
                "this rule sets no lifetime",
                "write `browser: 1h`, `shared: 24h`, `cdn: 24h` or `no_store: true`",
            );
        }
        if self.immutable && self.browser.is_none_or(|span| span.0.is_zero()) {
            return cx.at(place, CODE).refuse(
                "`immutable` is for responses that browsers store",
                "write `browser: 365d` beside it, or remove it",
            );
        }
        let cdn = self.cdn.map(|span| format!("max-age={}", span.0.as_secs()));
        Some(Effect::Set(ClientLifetimes {
            browser: self.browser.map(|span| span.0),
            shared: self.shared.map(|span| span.0),
            cdn: cdn.and_then(|text| HeaderValue::try_from(text).ok()),
            is_immutable: self.immutable,
        }))
    }
}

fn path(text: &str, place: Place, cx: &mut CompileContext<'_>) -> Option<PathRule> {
    PathRule::parse(text).or_else(|| {
        cx.at(place, "edgeway::cache_control::path").refuse(
            format!("invalid path `{text}`"),
            "write a path such as `/logo.svg`, or `/assets/*` for all below it",
        )
    })
}
