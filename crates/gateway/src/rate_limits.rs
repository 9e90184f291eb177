//! Section `rate_limits`: named limits, compiled before the routes that apply them.

use std::sync::Arc;

use edgeway_config::tree::{Spanned, read};
use edgeway_core::{
    chain::CompileContext,
    limits::{
        config::LimitConfig,
        key::CountedText,
        limit::{Limit, Limits},
        shared::RedisBuckets,
    },
};
use edgeway_net::redis::Redis;
use edgeway_routes::values::{Destination, Template};

use super::compile::Compiler;

impl Compiler<'_> {
    /// Compiles the limits for everything that is compiled after them.
    pub(super) fn rate_limits(&mut self) {
        let file = self.file;
        if let Some(redis) = self.shared.get::<Redis>() {
            self.shared.insert(Arc::new(RedisBuckets::new(redis)));
        }
        let mut limits = Limits::default();
        let mut routes = file.routes.iter();
        let has_open_route = routes.any(|route| {
            let matches = &route.config.matches.value;
            matches.host.is_empty() && !matches.named && !matches.internal
        });
        for (name, node) in &file.rate_limits {
            let config = read::<LimitConfig>(node, &mut self.diagnostics);
            let mut cx = self.cx(node.place, "");
            let limit = config.and_then(|config| {
                let by = match &config.by {
                    Some(by) => Some(counted_by(by, &mut cx)?),
                    None => None,
                };
                config.compile(name, by, (file.redis.is_some(), has_open_route), &mut cx)
            });
            match limit {
                Some(limit) => {
                    limits.0.insert(name.name.clone(), Arc::new(limit));
                }
                None => limits.1.push(name.name.clone()),
            }
        }
        self.shared.insert(Arc::new(limits));
    }

    /// Warns about limits that no route names, because they protect nothing.
    pub(super) fn unused_rate_limits(&mut self) {
        let limits = self.shared.get::<Limits>().unwrap_or_default();
        let is_unused = |name: &str| {
            limits
                .0
                .get(name)
                .is_some_and(|limit: &Arc<Limit>| !limit.is_used())
        };
        for (key, _) in self
            .file
            .rate_limits
            .iter()
            .filter(|(key, _)| is_unused(&key.name))
        {
            self.at(key.place, "edgeway::rate_limits::unused").warn(
                format!("no route applies the limit `{}`", key.name),
                format!(
                    "remove it, or write `rate_limit: [{}]` on a route or in `defaults`",
                    key.name
                ),
            );
        }
    }
}

/// Compiles the text that a limit counts by.
fn counted_by(by: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<Box<dyn CountedText>> {
    let destination = Destination::Comparison;
    let code = "edgeway::rate_limits::by";
    let template = Template::compile(&by.value, by.place, destination, code, cx)?;
    if template.needs_status() {
        let message = format!(
            "`{}` has a status, and requests are counted before",
            by.value
        );
        return cx
            .at(by.place, code)
            .refuse(message, "count by values of the request");
    }
    if template.is_always_new() {
        let message = format!(
            "`{}` is another text for each request or connection, so that nothing is limited",
            by.value
        );
        return cx.at(by.place, code).refuse(
            message,
            "count by a value that a client keeps, such as `{client.ip}`",
        );
    }
    Some(Box::new(template))
}
