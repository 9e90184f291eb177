//! Names of routes, which metrics and logs know them by.

use std::collections::HashMap;

use edgeway_base::secret;

use super::{MatchConfig, OneOrMany, RouteConfig, RouteNode, Spanned};
use crate::diagnostic::{Diagnostic, Diagnostics};

/// Makes the names that nobody has written differ, and warns of equal ones that are written.
pub(super) fn distinguish(routes: &mut [RouteNode], diagnostics: &mut Diagnostics) {
    let mut routes_of = HashMap::<String, usize>::new();
    let mut places = HashMap::new();
    for route in &mut *routes {
        *routes_of.entry(route.name.clone()).or_default() += 1;
        let Some(name) = &route.config.name else {
            continue;
        };
        if let Some(first) = places.insert(route.name.clone(), name.place) {
            let problem = Diagnostic::warning(
                "edgeway::route::same_name",
                name.place,
                format!(
                    "another route has the name `{}`: metrics and logs do not tell them apart",
                    name.value
                ),
            );
            diagnostics.push(
                problem
                    .help("write different names")
                    .related(first, "the same name"),
            );
        }
    }
    let is_default = |route: &&mut RouteNode| route.config.name.is_none();
    for route in routes.iter_mut().filter(is_default) {
        let conditions = route.config.matches.value.conditions();
        if routes_of[&route.name] > 1 && !conditions.is_empty() {
            route.name = format!("{} ({})", route.name, conditions.join(" "));
        }
        if places.contains_key(&route.name) {
            let mut numbered = (2..).map(|number| format!("{} ({number})", route.name));
            let free = numbered.find(|name| !places.contains_key(name));
            route.name = free.unwrap_or_default();
        }
        places.insert(route.name.clone(), route.place);
    }
}

/// Returns the name of a route, whatever the others have: the written one, or else its methods, host
/// and path.
pub(crate) fn route_name(config: &RouteConfig) -> String {
    if let Some(name) = &config.name {
        return name.value.clone();
    }
    let matches = &config.matches.value;
    let host = matches
        .host
        .0
        .first()
        .map_or("", |host| host.value.as_str());
    let written = matches.path_regex.as_ref().or(matches.location.as_ref());
    let path = matches.path.0.first().or(written);
    let path = path.map_or("/*", |path| path.value.as_str());
    let around = matches
        .within
        .0
        .iter()
        .map(|outer| format!("{} > ", outer.value));
    let path: String = around.chain([path.to_owned()]).collect();
    let space = if host.is_empty() || path.starts_with('/') {
        ""
    } else {
        " "
    };
    match &*matches.method.listed() {
        "" => format!("{host}{space}{path}"),
        methods => format!("{methods} {host}{space}{path}"),
    }
}

impl MatchConfig {
    /// Returns the conditions besides method, host and path, for display.
    pub fn conditions(&self) -> Vec<String> {
        let mut words = Vec::new();
        if !self.listener.is_empty() {
            words.push(format!("listener {}", self.listener.listed()));
        }
        for (kind, demands) in [
            ("header", &self.header),
            ("query", &self.query),
            ("cookie", &self.cookie),
        ] {
            for (name, value) in demands {
                let value = secret::shown(name, &value.value);
                words.push(format!("{kind} {name}={value}"));
            }
        }
        words
    }
}

impl OneOrMany<Spanned<String>> {
    /// Returns the texts with commas between them, for display.
    pub fn listed(&self) -> String {
        let texts: Vec<&str> = self.0.iter().map(|text| text.value.as_str()).collect();
        texts.join(",")
    }
}
