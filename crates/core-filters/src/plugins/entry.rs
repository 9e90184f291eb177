//! `onLog`: passes the facts of a finished request to plugins, and adds their fields to its log
//! line.

use std::sync::Arc;

use edgeway_core::chain::{Exchange, LateFields, LogFields, host::public_host};
use edgeway_script::{Failure, Hook, HookResult, Input};
use serde_json::{Map, Value, json};

use super::{Plugins, RoutePlugin, path_of};

impl Plugins {
    /// Schedules the hooks for the end of the request; its log line waits for their results.
    pub(super) fn logged(&self, ex: &Exchange<'_>, late: &mut Option<LateFields>) {
        let mut calls = Vec::new();
        let mut entry: Option<String> = None;
        for (index, each) in self.uses.iter().enumerate() {
            if !each.plugin.has(Hook::Log) || !each.is_for(ex) {
                continue;
            }
            let Some(permit) = each.logs.one() else {
                each.metrics.busy.inc();
                continue;
            };
            let entry = entry.get_or_insert_with(|| facts_of(ex).to_string());
            let input = Input {
                entry: Some(entry.clone()),
                ..each.input_of(ex, ex.head.headers.clone(), None)
            };
            calls.push((index, input, permit));
        }
        let Some((first, ..)) = calls.first() else {
            return;
        };
        let (uses, tasks) = (Arc::clone(&self.uses), self.uses[*first].log_tasks.clone());
        *late = Some(LateFields::new(tasks, async move {
            let mut fields = LogFields::new();
            for (index, input, permit) in calls {
                let each = &uses[index];
                if let Some(logged) = each.log(input).await.filter(are_fields) {
                    let name = Arc::clone(each.plugin.name());
                    fields.entry(name).or_default().extend(logged);
                }
                drop(permit);
            }
            fields
        }));
    }
}

impl RoutePlugin {
    /// Calls `onLog`. A failure does not count for the breaker: no request is refused because a log
    /// line failed.
    async fn log(&self, input: Input) -> Option<Map<String, Value>> {
        self.is_enabled().ok()?;
        let id = input.request_id.clone();
        let start = self.clock.now();
        let outcome = self.plugin.call(Hook::Log, input).await;
        self.metrics.called(Hook::Log, self.clock.now() - start);
        let fields = outcome.and_then(|output| match output.result {
            HookResult::Json(text) => serde_json::from_str(&text).map_err(|error| {
                Failure::script(format!(
                    "the return value of onLog is not an object: {error}"
                ))
            }),
            _ => Ok(None),
        });
        match fields {
            Ok(fields) => fields,
            Err(failure) => {
                self.metrics.failures[failure.kind].inc();
                self.recent.count(&failure);
                self.warn(Hook::Log, &id, &failure);
                None
            }
        }
    }
}

/// Maximum number of fields that a plugin adds to a line, and maximum length of their names.
const MAX_FIELDS: usize = 16;
const MAX_NAME_LEN: usize = 64;

/// Returns true if the fields are valid in a log line. Built-in JavaScript has checked them before,
/// with better messages, unless the plugin has changed the objects that the check uses.
fn are_fields(fields: &Map<String, Value>) -> bool {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        (1..=MAX_NAME_LEN).contains(&name.len())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let is_single = |value: &Value| !value.is_object() && !value.is_array();
    let mut pairs = fields.iter();
    (1..=MAX_FIELDS).contains(&fields.len())
        && pairs.all(|(name, value)| is_name(name) && is_single(value))
}

/// Returns the facts as in the access log, without the query, which may hold secrets: the plugin
/// knows which parameters it may log, and finds them in `ctx.request`.
fn facts_of(ex: &Exchange<'_>) -> Value {
    let facts = &*ex.facts;
    let (client, upstream) = (&facts.client, &facts.upstream);
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let user = facts.identity.as_ref().and_then(|who| who.user.as_deref());
    json!({
        "id": facts.request_id.as_str(),
        "client": client.ip.to_string(),
        "listener": &*client.listener,
        "method": ex.head.method.as_str(),
        "scheme": client.scheme.as_str(),
        "host": public_host(ex.head, client),
        "path": path_of(ex.head.raw_path()),
        "protocol": client.protocol.as_str(),
        "status": facts.status,
        "bytes_in": facts.bytes_received,
        "bytes_out": facts.bytes_sent,
        "route": facts.route.as_deref(),
        "class": facts.class.name(),
        "upstream": upstream.name.as_deref(),
        "backend": upstream.backend.as_deref(),
        "attempts": upstream.attempts,
        "upstream_status": Some(upstream.status).filter(|status| *status != 0),
        "cache": facts.cache.map(|cached| cached.outcome.name()),
        "cache_why": facts.cache.and_then(|cached| cached.why),
        "total_ms": millis(facts.total),
        "first_byte_ms": facts.first_byte.map(millis),
        "upstream_ms": upstream.first_byte.map(millis),
        "reason": facts.why(),
        "limit": facts.limit.as_deref(),
        "user": user,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_can_stand_in_a_line() {
        let fits = |json: Value| are_fields(json.as_object().expect("it is one"));
        assert!(fits(json!({ "a_1": "x y", "b": null, "c": 1.5 })));
        for wrong in [
            json!({}),
            json!({ "": 1 }),
            json!({ "a status=200": 1 }),
            json!({ "a\nb": 1 }),
            json!({ "a": { "b": 1 } }),
            json!({ "a": [1] }),
            json!({ "a".repeat(65): 1 }),
            (0..17).map(|n| (format!("a{n}"), json!(1))).collect(),
        ] {
            assert!(!fits(wrong.clone()), "{wrong}");
        }
    }
}
