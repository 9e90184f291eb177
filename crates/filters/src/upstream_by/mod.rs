//! Sends requests to the upstream that a lookup table names: by host, by cookie, or a share of the
//! traffic by a stable hash.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use edgeway_config::{diagnostic::closest, tree::Spanned};
use edgeway_core::chain::{CompileContext, Exchange, Filter, FilterKind, Guard, Phases, Traits};
use edgeway_routes::values::{Destination, Template};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

const CODE: &str = "edgeway::upstream_by::map";

/// Lookup table whose result is the name of the upstream, such as `{map.pool}`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct UpstreamByConfig(Spanned<String>);

impl JsonSchema for UpstreamByConfig {
    fn schema_name() -> Cow<'static, str> {
        "UpstreamBy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Lookup table whose result is the name of the upstream, such as \
                            `{map.pool}`; the route's `upstream` if the result is empty.",
            "type": "string",
        })
    }
}

/// The compiled filter.
#[derive(Debug)]
pub struct UpstreamBy {
    value: Template,
    /// Upstreams that the table names.
    upstreams: Box<[Arc<str>]>,
}

impl FilterKind for UpstreamBy {
    const NAME: &'static str = "upstream_by";
    type Config = UpstreamByConfig;

    fn compile(config: UpstreamByConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let Spanned { value: text, place } = &config.0;
        let value = Template::compile(text, *place, Destination::Comparison, CODE, cx)?;
        let mut tables = text.strip_prefix("{map.").into_iter();
        let is_table = tables.any(|rest| rest.find('}') == Some(rest.len() - 1));
        if !is_table {
            return cx.at(*place, CODE).refuse(
                format!("`{text}` is no lookup table: clients could choose any upstream"),
                "write `\"{map.NAME}\"`, and the table in `maps`",
            );
        }
        // A table with a problem of its own is reported there.
        let table = value.lookup()?;
        let Some(results) = table.fixed_results() else {
            return cx.at(*place, CODE).refuse(
                format!("results of `{text}` have placeholders"),
                "write the names of upstreams in the table",
            );
        };
        let mut upstreams: Vec<Arc<str>> = Vec::new();
        let mut unknown = Vec::new();
        for name in results {
            if name.is_empty() || upstreams.iter().any(|known| **known == *name) {
                continue;
            }
            if cx.upstreams.iter().any(|known| known == name) {
                upstreams.push(Arc::from(name));
            } else {
                unknown.push(name.to_owned());
            }
        }
        for name in &unknown {
            let known = cx.upstreams.iter().map(String::as_str);
            let help = match closest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name upstreams of `upstreams` in the table".to_owned(),
            };
            let message = format!("`{text}` names the unknown upstream `{name}`");
            cx.at(*place, CODE).error(message, help);
        }
        unknown.is_empty().then(|| Self {
            value,
            upstreams: upstreams.into(),
        })
    }
}

impl Filter for UpstreamBy {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::ROUTE, Guard::Nothing)
    }

    fn on_route(&self, ex: &Exchange<'_>) -> Option<Arc<str>> {
        let mut name = String::new();
        // Without a decision, the table's default chooses.
        let _undecided = self.value.write(ex, &mut name);
        let mut known = self.upstreams.iter();
        known.find(|known| ***known == *name).cloned()
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        vec![match self.on_route(ex) {
            Some(upstream) => format!("goes to upstream `{upstream}`"),
            None => "goes to the route's own upstream".to_owned(),
        }]
    }
}
