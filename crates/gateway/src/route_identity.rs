//! Digest of a route's effect on its requests and stored responses, as a part of cache keys: two
//! routes share a stored response only if the origin would have received the same request.

use edgeway_config::{
    model::RouteNode,
    tree::{Node, Value},
};
use edgeway_core::chain::{Chain, KeyBuilder};
use edgeway_script::report::Reports;
use http::HeaderName;
use ring::digest::{Context, SHA256};

use super::{compile::Compiler, effective};

/// Filters that change neither the request to the origin nor the client's identity nor the stored
/// response. Routes that differ only in these share stored responses. Any other filter separates
/// routes. The upstream that `upstream_by` chooses is a part of the key itself.
const NON_KEY_FILTERS: &str = "access_log body_limit cors csrf in_flight methods rate_limit \
    request_id security_headers timing upstream_by";

/// Keys of `cache` that decide which parts of a request matter and what may be stored. The others
/// decide for how long, and may change without emptying the cache.
const KEY_CACHE_SETTINGS: &str = "anonymous_cookies bypass force key mode pages pass_unkeyed";

/// Further such keys, which are hashed only where they are written.
/// A response has the tags of the route that stored it.
const RARE_CACHE_SETTINGS: [&str; 4] = ["bypass_if", "ignore_headers", "no_store_if", "tags"];

/// Digest of a route. It is the same on every gateway with the same configuration, and after each
/// reload that does not change the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteIdentity([u8; 8]);

/// Key parts that are the same for all requests of a route, framed in advance.
#[derive(Clone, Debug)]
pub(super) struct RouteKeyParts {
    upstream: Box<str>,
    pub(super) parts: KeyBuilder,
}

impl RouteKeyParts {
    pub(super) fn new(upstream: &str, identity: RouteIdentity) -> Self {
        let mut parts = KeyBuilder::default();
        identity.put(Some(upstream), &mut parts);
        Self {
            upstream: upstream.into(),
            parts,
        }
    }

    pub(super) fn is_of(&self, upstream: &str) -> bool {
        *self.upstream == *upstream
    }
}

impl RouteIdentity {
    /// Name of its part in a key.
    pub(super) const PART: &str = "route";

    pub(super) fn put(self, upstream: Option<&str>, parts: &mut KeyBuilder) {
        if let Some(upstream) = upstream {
            parts.part("upstream", upstream.as_bytes());
        }
        parts.part(Self::PART, &self.0);
    }
}

impl Compiler<'_> {
    /// Returns the identity of a route; `passing` are the headers that this route lets pass.
    pub(super) fn route_identity(
        &self,
        node: &RouteNode,
        chain: &Chain,
        passing: &[HeaderName],
    ) -> RouteIdentity {
        let mut text = HashedNodes(Context::new(&SHA256));
        if !passing.is_empty() {
            let mut names: Vec<&str> = passing.iter().map(HeaderName::as_str).collect();
            names.sort_unstable();
            names.dedup();
            text.part(b"pass_headers");
            for name in names {
                text.part(name.as_bytes());
            }
        }
        if let Some(rewrite) = &node.config.rewrite {
            // It combines what the patterns have matched.
            let matches = &node.config.matches.value;
            let written = (&matches.host, &matches.path, &matches.path_regex, rewrite);
            text.part(&serde_json::to_vec(&written).unwrap_or_default());
            if let Some(location) = &matches.location {
                text.part(b"location");
                text.part(location.value.as_bytes());
            }
        }
        if let Some(host) = &node.config.host_header {
            text.part(b"host_header");
            text.part(host.value.as_bytes());
        }
        if let Some(sent) = &node.config.upstream_request {
            text.part(b"upstream_request");
            text.part(&serde_json::to_vec(&sent.value).unwrap_or_default());
        }
        for (entry, filter) in effective::filters(self.file, node.place, &node.filters) {
            if NON_KEY_FILTERS.split(' ').any(|name| name == entry.name) {
                continue;
            }
            match entry.name {
                "cache" => {
                    for key in KEY_CACHE_SETTINGS.split(' ') {
                        text.optional(filter.get(key));
                    }
                    for key in RARE_CACHE_SETTINGS {
                        if let Some(node) = filter.get(key) {
                            text.part(key.as_bytes());
                            text.node(node);
                        }
                    }
                }
                // Response headers for clients are added to each response after the lookup.
                "headers" => {
                    if let Some(request) = filter.get("request") {
                        text.part(b"headers");
                        text.node(request);
                        for (name, map) in self.maps_used_by(request) {
                            text.part(name.name.as_bytes());
                            text.node(map);
                            // The first regular expression that matches counts.
                            let keys = map.get("values").into_iter().flat_map(Node::entries);
                            for (key, _) in keys {
                                text.part(key.name.as_bytes());
                            }
                        }
                    }
                }
                "compression" => text.part(b"compression"),
                // What the clients that these admit get is not for another route, to which other
                // headers lead.
                "access" | "conditions" => {
                    text.part(b"admitted");
                    let headers = &node.config.matches.value.header;
                    text.part(&serde_json::to_vec(headers).unwrap_or_default());
                }
                // What is stored is what the code has made.
                "plugins" => {
                    text.part(b"plugins");
                    text.node(&filter);
                    let reports = chain.extension::<Reports>();
                    for report in reports.iter().flat_map(|reports| reports.ask()) {
                        text.part(report.version.as_bytes());
                    }
                }
                name => {
                    text.part(name.as_bytes());
                    text.node(&filter);
                }
            }
        }
        text.finish()
    }
}

/// Hashed form of nodes: each begins with its kind and its length.
struct HashedNodes(Context);

impl HashedNodes {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn optional(&mut self, node: Option<&Node>) {
        match node {
            Some(node) => self.node(node),
            None => self.0.update(b"-"),
        }
    }

    fn node(&mut self, node: &Node) {
        match &node.value {
            Value::Null => self.0.update(b"0"),
            Value::Bool(flag) => self.0.update(&[b'b', u8::from(*flag)]),
            Value::Integer(number) => {
                self.0.update(b"i");
                self.0.update(&number.to_le_bytes());
            }
            Value::Float(number) => {
                self.0.update(b"f");
                self.0.update(&number.to_bits().to_le_bytes());
            }
            Value::Text(text) => {
                self.0.update(b"t");
                self.part(text.as_bytes());
            }
            Value::List(nodes) => {
                self.0.update(b"l");
                self.0.update(&(nodes.len() as u64).to_le_bytes());
                for node in nodes {
                    self.node(node);
                }
            }
            Value::Map(entries) => {
                // The order of keys in the file does not matter.
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_unstable_by(|a, b| a.0.name.cmp(&b.0.name));
                self.0.update(b"m");
                self.0.update(&(entries.len() as u64).to_le_bytes());
                for (key, node) in entries {
                    self.part(key.name.as_bytes());
                    self.node(node);
                }
            }
        }
    }

    fn finish(self) -> RouteIdentity {
        let digest = self.0.finish();
        let half = digest.as_ref().first_chunk().copied();
        RouteIdentity(half.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{World, compile, load_text};

    /// Returns the identities of the routes with these keys, all with one upstream.
    #[track_caller]
    fn identities<const N: usize>(routes: [&str; N]) -> [RouteIdentity; N] {
        let route = |(number, keys): (usize, &&str)| {
            format!(
                "  - {{ name: r{number}, match: {{ path: '/{number}/*' }}, upstream: web, {keys} }}\n"
            )
        };
        let routes: Vec<String> = routes.iter().enumerate().map(route).collect();
        let yaml = "listeners: [{ address: '127.0.0.1:0' }]\n\
            upstreams: { web: { backends: ['127.0.0.1:1'] } }\nroutes:\n"
            .to_owned()
            + &routes.concat();
        let file = load_text("test.yaml", &yaml).file.expect("it can be read");
        let (gateway, diagnostics) = compile(&file, Path::new("."), &World::default());
        let gateway = gateway.unwrap_or_else(|| panic!("{diagnostics:?}"));
        std::array::from_fn(|index| gateway.routes[index].cache.as_ref().unwrap().identity)
    }

    #[test]
    fn routes_are_the_same_if_the_origin_is_asked_the_same() {
        let [plain, same @ ..] = identities([
            "cache: {}",
            "cache: { ttl: 5min, stale_if_error: 1h, quota: 1MiB }",
            "cache: true, security_headers: false, timing: true, methods: [GET]",
            "cache: {}, headers: { response: { set: { X-A: b } } }",
            "cache: { client_directives: true }, access_log: false",
            "cache: { min_uses: 3 }",
        ]);
        for (number, same) in same.into_iter().enumerate() {
            assert_eq!(same, plain, "{number}");
        }
    }

    #[test]
    fn routes_differ_if_the_origin_is_asked_something_else() {
        let all = identities([
            "cache: {}",
            "cache: {}, compression: false",
            "cache: {}, access: { allow: [10.0.0.0/8] }",
            "cache: {}, rewrite: { prefix: /1, with: / }",
            "cache: {}, rewrite: { prefix: /1, with: / } ",
            "cache: {}, headers: { request: { set: { X-A: b } } }",
            "cache: {}, headers: { request: { set: { X-A: c } } }",
            "cache: { anonymous_cookies: [a] }",
            "cache: { anonymous_cookies: ['*'] }",
            "cache: { key: { ignore_query: [a] } }",
            "cache: { key: { ignore_query: [a], pass_unkeyed: true } }",
            "cache: { key: { by: ['header:X-A'] } }",
            "cache: { bypass: ['header:X-A'] }",
            "cache: { mode: strict }",
            "cache: { bypass_if: ['{header.x-a}'] }",
            "cache: { no_store_if: ['{header.x-a}'] }",
            "cache: { ignore_headers: [vary] }",
            "cache: { tags: [a] }",
            "cache: { ignore_headers: [set-cookie] }",
            "cache: {}, pass_headers: X-Original-URL",
            "cache: {}, pass_headers: [X-Original-URL, X-Rewrite-URL]",
            "cache: {}, jwt: { keys: 'thirty-two bytes that nobody else knows' }",
            "cache: {}, jwt: { keys: 'thirty-two other bytes, as unknown as those' }",
        ]);
        for (number, one) in all.iter().enumerate() {
            let others = all.iter().enumerate();
            let same: Vec<usize> = others
                .filter(|(_, it)| *it == one)
                .map(|(at, _)| at)
                .collect();
            assert_eq!(same, [number]);
        }
    }

    #[test]
    fn headers_that_pass_are_a_set() {
        let [one, other] = identities([
            "cache: {}, pass_headers: [X-Original-URL, Proxy]",
            "cache: {}, pass_headers: [proxy, x-original-url, Proxy]",
        ]);
        assert_eq!(one, other);
    }

    #[test]
    fn every_indifferent_filter_is_one() {
        for name in NON_KEY_FILTERS.split(' ') {
            let mut all = edgeway_filters::FILTERS.iter();
            assert!(all.any(|entry| entry.name == name), "{name}");
        }
    }
}
