//! Filters that routes share: those with the same settings, if their kind is alike on every route.

use std::collections::HashMap;

use edgeway_config::{
    diagnostic::Place,
    tree::{Node, Value},
};
use edgeway_core::chain::CompiledFilter;

/// Compiled filters by kind and place of their settings, with these settings.
///
/// Routes that take a filter from the defaults share it: in a large configuration these are most of
/// all filters.
#[derive(Default)]
pub(super) struct SharedFilters(HashMap<(&'static str, Place), SharedFilter>);

struct SharedFilter {
    settings: Node,
    filter: CompiledFilter,
}

impl SharedFilters {
    /// Place of the settings of a filter that is on and nowhere configured: they are the same for
    /// every route.
    fn place_of(node: &Node) -> Place {
        match &node.value {
            Value::Map(entries) if entries.is_empty() => Place::default(),
            _ => node.place,
        }
    }

    /// Returns a filter of this kind with these settings.
    pub(super) fn get(&self, name: &'static str, node: &Node) -> Option<CompiledFilter> {
        let shared = self.0.get(&(name, Self::place_of(node)))?;
        // Settings that were merged may have the place of one that was not.
        shared
            .settings
            .has_same_value(node)
            .then(|| shared.filter.clone())
    }

    pub(super) fn insert(&mut self, node: &Node, filter: &CompiledFilter) {
        let key = (filter.name, Self::place_of(node));
        let shared = SharedFilter {
            settings: node.clone(),
            filter: filter.clone(),
        };
        self.0.insert(key, shared);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use crate::{Gateway, World, compile, load_text};

    fn gateway(routes: &str) -> Gateway {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
             defaults: {{ headers: {{ response: {{ set: {{ X-A: a }} }} }}, in_flight: 5 }}\n\
             routes:\n{routes}"
        );
        let file = load_text("t.yaml", &text).file.unwrap();
        let (gateway, problems) = compile(&file, Path::new("."), &World::default());
        gateway.unwrap_or_else(|| panic!("{problems:?}"))
    }

    /// Returns the names of the filters that two routes have in common.
    fn common(gateway: &Gateway, one: usize, two: usize) -> Vec<&'static str> {
        let [one, two] = [one, two].map(|route| gateway.routes[route].chain.filters());
        let same = one
            .iter()
            .filter(|a| two.iter().any(|b| Arc::ptr_eq(&a.filter, &b.filter)));
        same.map(|named| named.name).collect()
    }

    #[test]
    fn routes_share_the_filters_of_the_defaults_and_no_others() {
        let gateway = gateway(
            "- { match: { path: /a }, respond: { status: 200 } }\n\
             - { match: { path: /b }, respond: { status: 200 } }\n\
             - { match: { path: /c }, respond: { status: 200 }, compression: false, \
               headers: { response: { set: { X-A: b } } }, security_headers: false }\n",
        );
        let shared = common(&gateway, 0, 1);
        let all = gateway.routes[0].chain.filters();
        // Each route counts its own requests in flight.
        let expected: Vec<_> = all.iter().map(|named| named.name).collect();
        let expected: Vec<_> = expected.into_iter().filter(|n| *n != "in_flight").collect();
        assert_eq!(shared, expected);
        assert!(shared.contains(&"headers") && all.len() > shared.len());
        assert_eq!(
            common(&gateway, 0, 2),
            ["request_id", "access_log", "body_limit"]
        );
    }
}
