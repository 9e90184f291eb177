//! Configuration of `rate_limit` as written, and its compilation.

use std::sync::Arc;

use edgeway_config::{
    diagnostic::{Place, suggest},
    tree::{
        OneOrMany, Spanned,
        short::{self, Short, reads_short},
    },
};
use edgeway_core::{
    chain::CompileContext,
    limits::limit::{Limit, Limits},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{Charge, RateLimit};

/// Limits of `rate_limits`; a request must pass all of them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct RateLimitConfig(OneOrMany<Spanned<UseConfig>>);

/// A limit by its name, or with the cost of a request.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = short::or_text)]
struct UseConfig {
    /// Name of a limit in `rate_limits`.
    limit: String,
    /// Number of units that a request takes from the bucket.
    #[serde(default = "one")]
    cost: u32,
}

fn one() -> u32 {
    1
}

impl Short for UseConfig {
    const WHAT: &'static str =
        "the name of a limit, or a mapping such as `{ limit: user, cost: 5 }`";

    const TEXT: Option<&'static str> = Some("limit");
}

reads_short!(UseConfig);

impl Serialize for UseConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.cost == one() {
            return s.serialize_str(&self.limit);
        }
        Self::serialize(self, s)
    }
}

impl RateLimitConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<RateLimit> {
        let limits = cx.shared.get::<Limits>().unwrap_or_default();
        let mut charges: Vec<Charge> = Vec::new();
        let mut is_good = true;
        for Spanned { value, place } in self.0.0 {
            let place = if place == Place::default() {
                cx.place
            } else {
                place
            };
            let mut check = EntryCheck { cx, place };
            let is_twice = charges
                .iter()
                .any(|other| *other.limit.name == *value.limit);
            let Some(limit) = check.find(&limits, &value.limit, is_twice) else {
                is_good = false;
                continue;
            };
            is_good &= check.cost(&limit, value.cost);
            limit.mark_used();
            charges.push(Charge {
                limit,
                cost: value.cost,
            });
        }
        is_good.then(|| RateLimit::new(charges, cx.clock))
    }
}

/// An entry while it is checked.
struct EntryCheck<'a, 'c> {
    cx: &'a mut CompileContext<'c>,
    place: Place,
}

impl EntryCheck<'_, '_> {
    fn find(&mut self, limits: &Limits, name: &str, is_twice: bool) -> Option<Arc<Limit>> {
        if is_twice {
            return self.cx.at(self.place, "edgeway::rate_limit::twice").refuse(
                format!("`{name}` is listed twice"),
                format!("write `{{ limit: {name}, cost: 2 }}` if a request is to count twice"),
            );
        }
        if let Some(limit) = limits.0.get(name) {
            return Some(Arc::clone(limit));
        }
        // Problems of a limit are reported at its definition.
        if limits.1.iter().any(|refused| refused == name) {
            return None;
        }
        let help = if name.contains('/') {
            format!("name it: `rate_limits: {{ api: {name} }}` at the top level, and `[api]` here")
        } else if limits.0.is_empty() {
            format!("add `rate_limits: {{ {name}: 10/s }}` to the file")
        } else {
            let mut names: Vec<&str> = limits.0.keys().map(String::as_str).collect();
            names.sort_unstable();
            suggest(name, names.into_iter(), "the limits are")
        };
        self.cx
            .at(self.place, "edgeway::rate_limit::unknown")
            .refuse(format!("unknown limit `{name}` in `rate_limits`"), help)
    }

    fn cost(&mut self, limit: &Limit, cost: u32) -> bool {
        let (code, message, help) = if cost == 0 {
            (
                "edgeway::rate_limit::cost",
                "`cost: 0` would count nothing".to_owned(),
                "write 1 or more, or remove the limit".to_owned(),
            )
        } else if cost > limit.smallest_burst() {
            let max = limit.smallest_burst();
            (
                "edgeway::rate_limit::cost",
                format!(
                    "a request of `cost: {cost}` would never pass `{}`, which allows {max} at once",
                    limit.name
                ),
                format!("write {max} or less, or a larger `burst` at the limit and in its tiers"),
            )
        } else {
            return true;
        };
        self.cx.at(self.place, code).error(message, help);
        false
    }
}
