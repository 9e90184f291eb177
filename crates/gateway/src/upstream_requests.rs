//! Checks `upstream_request` of routes against what else they have.

use edgeway_config::model::RouteNode;
use edgeway_routes::Action;

use super::compile::Compiler;

const CODE: &str = "edgeway::route::upstream_request";

impl Compiler<'_> {
    /// Reports a method or body that cannot reach the backend of a route, or whose responses its
    /// cache would return to requests that are for something else.
    pub(super) fn check_upstream_request(
        &mut self,
        node: &RouteNode,
        action: &Action,
        has_cache: bool,
    ) {
        let (Action::Forward(forward), Some(written)) = (action, &node.config.upstream_request)
        else {
            return;
        };
        let Some(request) = forward.request.as_deref() else {
            return;
        };
        // The response to a `GET` of a client is one to a `GET` without a text of its own.
        let is_get = request.method.as_ref().is_none_or(|method| method == "GET");
        if has_cache && (!is_get || request.has_text()) {
            self.at(written.place, CODE).error(
                "`cache` would store responses to requests that no client sent",
                "write `cache: false` for this route, or leave `method` and the text of `body` out",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{World, compile, load_text};

    /// Returns the problems of a route with these keys, as `code: message`.
    fn problems(keys: &str) -> Vec<String> {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
             upstreams:\n  web: {{ backends: [127.0.0.1:1] }}\n\
             \x20 h2: {{ backends: [127.0.0.1:2], protocol: h2 }}\n\
             routes:\n- {{ match: {{ path: /h2 }}, upstream: h2 }}\n\
             - {{ match: {{ path: /web }}, upstream: web }}\n- {{ match: {{}}, {keys} }}\n"
        );
        let file = load_text("t.yaml", &yaml).file.expect("it is YAML");
        let (_, diagnostics) = compile(&file, Path::new("."), &World::default());
        let list = diagnostics.list().iter();
        list.map(|one| format!("{}: {}", one.code, one.message))
            .collect()
    }

    #[test]
    fn what_cannot_work_is_an_error() {
        for (keys, problem) in [
            ("upstream: web, upstream_request: { method: POST }", ""),
            (
                "upstream: h2, upstream_request: { method: POST, body: '' }",
                "",
            ),
            (
                "upstream: web, upstream_request: { method: GET, body: '' }, cache: {}",
                "",
            ),
            (
                "upstream: web, upstream_request: {}",
                "`upstream_request` changes nothing",
            ),
            (
                "upstream: web, upstream_request: { method: HEAD }",
                "`HEAD` is no method for every request to a backend",
            ),
            (
                "upstream: web, upstream_request: { method: post }",
                "`post` is no method for every request to a backend",
            ),
            (
                "upstream: web, upstream_request: { method: GET }, websocket: true",
                "a request for a WebSocket is always a `GET` without a body",
            ),
            (
                "upstream: web, upstream_request: { body: '{nothing}' }",
                "unknown variable `{nothing}`",
            ),
            ("upstream: h2, upstream_request: { body: a }", ""),
            (
                "upstream: web, upstream_request: { method: POST }, cache: {}",
                "`cache` would store responses to requests that no client sent",
            ),
            (
                "upstream: web, upstream_request: { body: '{cookie.a}' }, cache: {}",
                "`cache` would store responses to requests that no client sent",
            ),
        ] {
            let expected = match problem {
                "" => Vec::new(),
                problem => vec![format!("edgeway::route::upstream_request: {problem}")],
            };
            assert_eq!(problems(keys), expected, "{keys}");
        }
        let redirect = problems("redirect: https, upstream_request: { method: GET }");
        assert!(
            redirect[0].contains("`upstream_request` has no effect"),
            "{redirect:?}"
        );
    }
}
