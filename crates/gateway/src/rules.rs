//! Rules of sites and routes, and the routes that only names lead to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use edgeway_config::{
    diagnostic::{Place, closest},
    model::RouteNode,
};
use edgeway_core_filters::error_pages::ErrorPages;
use edgeway_routes::{Action, Otherwise, Rules};

use super::{
    Fallback, Route,
    compile::{Compiler, pages_of},
};

/// Rules of the sites by name; `None` for one with a problem, or without rules.
pub(super) type Sites = BTreeMap<String, Option<Arc<Rules>>>;

impl Compiler<'_> {
    /// Compiles the rules of all sites.
    pub(super) fn sites(&mut self) -> Sites {
        let file = self.file;
        let mut sites = Sites::new();
        for (key, site) in &file.sites {
            let mut cx = self.cx(site.place, "");
            let rules = Rules::compile(&site.value.rules, &mut cx);
            sites.insert(key.name.clone(), rules.map(Arc::new));
        }
        sites
    }

    /// Returns the rules of a route, and those of its site.
    pub(super) fn rules(
        &mut self,
        node: &RouteNode,
        name: &str,
        sites: &Sites,
    ) -> (Option<Rules>, Option<Arc<Rules>>) {
        let mut cx = self.cx(node.place, name);
        let rules = Rules::compile(&node.config.rules, &mut cx);
        let Some(site) = &node.config.site else {
            return (rules, None);
        };
        let site_rules = sites.get(&site.value);
        if site_rules.is_none() {
            let help = match closest(&site.value, sites.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add it: `sites: {{ {}: {{ rules: … }} }}`", site.value),
            };
            let message = format!("unknown site `{}`", site.value);
            self.at(site.place, "edgeway::route::unknown_site")
                .error(message, help);
        }
        (rules, site_rules.cloned().flatten())
    }

    /// Returns the routes that only their names lead to, and reports names that no such route has.
    pub(super) fn named(
        &mut self,
        routes: &[Option<Route>],
        fallback: &Fallback,
    ) -> HashMap<Arc<str>, usize> {
        let mut named = HashMap::new();
        let file = self.file;
        for (index, node) in file.routes.iter().enumerate() {
            let matches = &node.config.matches;
            if !matches.value.named {
                continue;
            }
            let Some(name) = &node.config.name else {
                let help = "write its name: `name: old`";
                let message = "nothing leads to a named route without a name".to_owned();
                self.at(matches.place, "edgeway::route::named")
                    .error(message, help);
                continue;
            };
            if named.insert(Arc::from(&*name.value), index).is_some() {
                let message = format!("two named routes are `{}`", name.value);
                self.at(name.place, "edgeway::route::named")
                    .error(message, "rename one");
            }
        }
        let mut wanted: Vec<(Arc<str>, Place)> = pages_of(routes, fallback)
            .flat_map(ErrorPages::named_routes)
            .map(|(name, place)| (Arc::clone(name), place))
            .collect();
        for route in routes.iter().flatten() {
            let rules = route.rules.iter().chain(route.site.as_deref());
            wanted.extend(rules.flat_map(Rules::names).cloned());
            if let Action::Files(serve) = &route.action
                && let Some(Otherwise::Named(name, place)) = &serve.otherwise
            {
                wanted.push((Arc::clone(name), *place));
            }
        }
        wanted.sort();
        wanted.dedup();
        for (name, place) in wanted {
            if named.contains_key(&name) {
                continue;
            }
            let help = match closest(&name, named.keys().map(|key| &**key)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add a route with `name: {name}` and `match: {{ named: true }}`"),
            };
            let message = format!("no route is named `{name}`");
            self.at(place, "edgeway::route::unknown_name")
                .error(message, help);
        }
        named
    }
}
