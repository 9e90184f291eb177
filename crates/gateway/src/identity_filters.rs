//! Checks of the filters that prove who a client is, together: whether they guard their route, and
//! whether any request can pass them.

use edgeway_cache::route::RouteCachePolicy;
use edgeway_config::{diagnostic::Place, model::RouteNode};
use edgeway_core::{
    chain::{Chain, CompiledFilter, CredentialPlace, Guard, Leniency, Phase},
    limits::{key::Source, limit::Limits},
};

use super::{Route, compile::Compiler, effective, likely_mistakes::texts};

impl Compiler<'_> {
    /// Reports filters that guard nothing as alternatives, or that no request passes together.
    pub(super) fn check_identity(&mut self, node: &RouteNode, chain: &Chain) {
        let alternatives = chain.alternatives();
        if alternatives.is_empty() {
            return self.check_authorization(node.place, chain);
        }
        let filters = chain.filters().iter();
        for CompiledFilter { name, traits, .. } in
            filters.filter(|it| alternatives.contains(&it.name))
        {
            let report = self.at(node.place, "edgeway::route::satisfy");
            match traits.leniency {
                Leniency::Never | Leniency::ByCode => {}
                Leniency::Always => report.error(
                    format!(
                        "`optional` of `{name}` lets every request pass, so `satisfy: any` guards \
                         nothing"
                    ),
                    "remove `optional: true`",
                ),
                Leniency::WhileFailing => report.warn(
                    format!(
                        "while the service of `{name}` fails, `on_error: allow` lets every request \
                         pass, so `satisfy: any` guards nothing"
                    ),
                    "remove `on_error: allow`",
                ),
            }
        }
    }

    /// Warns of pages that are stored for everybody whom a plugin lets pass, whatever it decides by.
    pub(super) fn shared_beside_plugin(
        &mut self,
        node: &RouteNode,
        policy: &RouteCachePolicy,
        chain: &Chain,
    ) {
        let has = |is_it: fn(&CompiledFilter) -> bool| chain.filters().iter().any(is_it);
        let hides_why = has(|it| it.traits.leniency == Leniency::ByCode);
        // What another filter needs proof for is not for everybody.
        let is_proven = chain.alternatives().is_empty()
            && has(|it| {
                it.traits.guard == Guard::Identity && it.traits.leniency == Leniency::Never
            });
        if hides_why && !is_proven && policy.plain.ttl.is_some() && policy.key.by.is_empty() {
            self.at(node.place, "edgeway::cache::plugin_guards").warn(
                "a plugin decides who passes, and `ttl` stores pages for everybody who does",
                "write what it decides by into `key.by`, such as `header:X-Session`, or let it \
                 export `onCacheKey`",
            );
        }
    }

    /// Warns of limits by who the client is, and of headers with its name, where no filter proves
    /// that.
    pub(super) fn unproven_identity(&mut self, routes: &[Option<Route>]) {
        let limits = self.shared.get::<Limits>().unwrap_or_default();
        let is_by_identity = |name: &str| {
            let limit = limits.0.get(name);
            limit.is_some_and(|limit| limit.needs_identity())
        };
        // What needs an identity, its first route, and if one of its routes proves an identity:
        // routes share limits and defaults.
        let mut needs: Vec<(String, Place, &RouteNode, bool)> = Vec::new();
        for (node, route) in self.file.routes.iter().zip(routes) {
            let Some(Route { chain, cache, .. }) = route else {
                continue;
            };
            let mut by = cache.iter().flat_map(|route| route.policy.key.sources());
            let is_keyed = by.any(Source::needs_identity);
            let waits = chain.filters().iter().any(|each| {
                each.name == "in_flight" && each.traits.phases.wants(Phase::Authorized)
            });
            for (entry, config) in effective::filters(self.file, node.place, &node.filters) {
                let mut words = Vec::new();
                texts(&config, &mut words);
                for (word, place) in words {
                    let (what, place) = match entry.name {
                        "rate_limit" if is_by_identity(word) => (format!("limit `{word}`"), place),
                        "in_flight" if waits => ("the key of `in_flight`".to_owned(), config.place),
                        "cache" if is_keyed => ("`key.by` of `cache`".to_owned(), config.place),
                        "headers" if word.contains("{user}") => ("`{user}`".to_owned(), place),
                        _ => continue,
                    };
                    let is_limit = entry.name == "rate_limit";
                    let mut known = needs.iter_mut();
                    let known = known.find(|it| it.0 == what && (is_limit || it.1 == place));
                    match known {
                        Some(known) => known.3 |= chain.proves_identity(),
                        None => needs.push((what, place, node, chain.proves_identity())),
                    }
                }
            }
        }
        for (what, place, RouteNode { name, .. }, _) in needs.iter().filter(|it| !it.3) {
            self.at(*place, "edgeway::route::unproven_identity").warn(
                format!("no filter of route `{name}` proves who the client is, as {what} needs"),
                format!(
                    "add `jwt`, `api_key`, `basic_auth` or `forward_auth` to route `{name}`; or \
                     name what every request has, such as `client.ip`"
                ),
            );
        }
    }

    /// Reports several filters that have to find their own credentials in `Authorization`.
    fn check_authorization(&mut self, place: Place, chain: &Chain) {
        let needs_it = |each: &&CompiledFilter| {
            let credentials = &each.traits.credentials;
            let mut places = credentials.iter().map(|credential| &credential.place);
            !credentials.is_empty()
                && each.traits.leniency == Leniency::Never
                && places.all(|place| matches!(place, CredentialPlace::Scheme(_)))
        };
        let names: Vec<_> = { chain.filters().iter() }
            .filter(needs_it)
            .map(|it| it.name)
            .collect();
        if let [first, second, ..] = names[..] {
            self.at(place, "edgeway::route::authorization").error(
                format!(
                    "`{first}` and `{second}` both need `Authorization`, which has one value: no \
                     request passes"
                ),
                "write `satisfy: any`, or let one of them read another header",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{World, compile, load_text};

    #[test]
    fn a_plugin_that_guards_stored_pages_says_by_what() {
        let folder = tempfile::tempdir().unwrap();
        let own = "export function onRequest() {}";
        let keyed = "export function onRequest() {}\nexport function onCacheKey() {}";
        for (code, cache, is_warned) in [
            (own, "ttl: 1min", true),
            (own, "", false),
            (own, "ttl: 1min, key: { by: [header:X-Session] }", false),
            (keyed, "ttl: 1min", false),
        ] {
            std::fs::write(folder.path().join("guard.js"), code).unwrap();
            let yaml = format!(
                "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
                 upstreams: {{ web: {{ backends: ['127.0.0.1:3000'] }} }}\n\
                 routes: [{{ match: {{ path: /* }}, upstream: web, cache: {{ {cache} }}, \
                 plugins: [{{ file: guard.js, role: auth }}] }}]\n"
            );
            let file = load_text("t.yaml", &yaml).file.unwrap();
            let (_, problems) = compile(&file, folder.path(), &World::default());
            let codes: Vec<&str> = problems.list().iter().map(|one| one.code).collect();
            let is_it = |code: &&str| *code == "edgeway::cache::plugin_guards";
            assert_eq!(codes.iter().any(is_it), is_warned, "{cache}: {codes:?}");
        }
    }

    #[test]
    fn a_limit_by_an_identity_that_no_filter_proves_is_a_warning() {
        const PASSWORD: &str =
            "basic_auth: { users: { ann: '$apr1$abcdefgh$82JubPF2dQkt1tVfvLnXS.' } }";
        let rate = "rate_limit: [edge, user]";
        let header = "headers: { request: { set: { X-User: '{user}' } } }";
        for (own, other, named) in [
            (rate, "", Some("limit `user`")),
            (
                "in_flight: { per_key: 4, key: user }",
                "",
                Some("`in_flight`"),
            ),
            (header, "", Some("`{user}`")),
            (
                "cache: { ttl: 1min, key: { by: [jwt.sub] } }",
                "",
                Some("`key.by`"),
            ),
            ("cache: { ttl: 1min, key: { by: [host] } }", "", None),
            ("headers: { request: { set: { X-User: ann } } }", "", None),
            ("rate_limit: edge", "", None),
            // The other route proves it, and both have one limit.
            (rate, "rate_limit: [edge, user]", None),
        ] {
            let yaml = format!(
                "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
                 rate_limits: {{ edge: 9/s, user: {{ rate: 1/s, key: [user, client.ip] }} }}\n\
                 routes:\n\
                 - {{ name: open, match: {{ path: /a }}, respond: ok, {own} }}\n\
                 - {{ match: {{ path: /* }}, respond: ok, {PASSWORD}, {other} }}\n"
            );
            let file = load_text("t.yaml", &yaml).file.expect("it is well formed");
            let (_, found) = compile(&file, std::path::Path::new("."), &World::default());
            let code = "edgeway::route::unproven_identity";
            let mut found = found.list().iter().filter(|one| one.code == code);
            let message = found.next().map(|one| one.message.as_str());
            assert_eq!(message.is_some(), named.is_some(), "{yaml}{message:?}");
            if let (Some(message), Some(named)) = (message, named) {
                assert!(
                    message.contains(named) && message.contains("`open`"),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn filters_that_guard_nothing_or_pass_nobody_together_are_reported() {
        const JWT: &str = "jwt: { keys: file:secret";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("secret"),
            "thirty-two bytes that nobody knows",
        )
        .unwrap();
        let hash = "a".repeat(64);
        let key = format!("api_key: {{ keys: [{{ name: a, hash: 'sha256:{hash}' }}]");
        let service = "forward_auth: { url: 'http://127.0.0.1:9/'";
        for (filters, expected) in [
            (
                format!("satisfy: any, {JWT}, optional: true }}, {service} }}"),
                "satisfy",
            ),
            (
                format!("satisfy: any, {key}, optional: true }}, {service} }}"),
                "satisfy",
            ),
            (
                format!("satisfy: any, {JWT} }}, {service}, on_error: allow }}"),
                "satisfy",
            ),
            (format!("satisfy: any, {JWT} }}, {service} }}"), ""),
            (
                format!("{JWT} }}, {key}, header: Authorization }}"),
                "authorization",
            ),
            (
                format!("{JWT}, optional: true }}, {key}, header: Authorization }}"),
                "",
            ),
            (
                format!("{JWT}, token: cookie:session }}, {key}, header: Authorization }}"),
                "",
            ),
            (
                format!("{JWT} }}, {service}, headers: [Authorization] }}"),
                "",
            ),
        ] {
            let yaml = format!(
                "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
                 upstreams: {{ web: {{ backends: ['127.0.0.1:3000'] }} }}\n\
                 routes: [{{ match: {{ path: /* }}, upstream: web, {filters} }}]\n"
            );
            let file = load_text("t.yaml", &yaml).file.unwrap();
            let (_, problems) = compile(&file, folder.path(), &World::default());
            let codes: Vec<&str> = problems.list().iter().map(|one| one.code).collect();
            let code = format!("edgeway::route::{expected}");
            let expected: &[&str] = if expected.is_empty() { &[] } else { &[&code] };
            assert_eq!(codes, expected, "{yaml}");
        }
    }
}
