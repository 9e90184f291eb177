//! The site of a configuration at the names of this machine: while it is developed, its own name
//! leads to the machine in production.

use crate::tree::{Node, Value};

/// Names of this machine that routes with the host of a site take as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSite {
    /// Upstream of the site.
    pub upstream: String,
    pub names: Vec<String>,
}

impl LocalSite {
    /// Returns the host of the site: the first one of the routes to its upstream. `None` if one of
    /// them has no host, and so takes every name already.
    pub fn host(&self, file: &Node) -> Option<String> {
        let is_ours = |route: &&Node| {
            let upstream = route.get("upstream").and_then(Node::text);
            upstream == Some(&*self.upstream)
        };
        let ours = file.items("routes").iter().filter(is_ours);
        let hosts: Option<Vec<String>> =
            ours.map(|route| hosts(route).into_iter().next()).collect();
        hosts?.into_iter().next()
    }

    /// Adds the names of this machine to each route that names the host of the site.
    pub(super) fn lay_over(&self, file: &mut Node) {
        let Some(site) = self.host(file) else {
            return;
        };
        for route in file.items_mut("routes") {
            if !hosts(route).contains(&site) {
                continue;
            }
            let host = route.get_mut("match").and_then(|node| node.get_mut("host"));
            let Some(host) = host else { continue };
            let text = |name: &String| Node::new(host.place, Value::Text(name.clone()));
            let added: Vec<Node> = self.names.iter().map(text).collect();
            let mut all = match std::mem::replace(&mut host.value, Value::Null) {
                Value::List(written) => written,
                written => vec![Node::new(host.place, written)],
            };
            all.extend(added);
            host.value = Value::List(all);
        }
    }
}

/// Returns the hosts of a route: one, or a list.
fn hosts(route: &Node) -> Vec<String> {
    let Some(host) = route.get("match").and_then(|node| node.get("host")) else {
        return Vec::new();
    };
    let written = match &host.value {
        Value::List(list) => list.iter().collect(),
        _ => vec![host],
    };
    let texts = written.into_iter().filter_map(Node::text);
    texts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::load_text;
    use super::*;

    /// Invariant: routes to other hosts stay as they are, and so does a file with a route to the
    /// site that takes any host.
    #[test]
    fn routes_of_the_site_take_the_names_of_this_machine() {
        let site = LocalSite {
            upstream: "web".to_owned(),
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        };
        let route = |host: &str, upstream: &str| {
            let host = if host.is_empty() {
                String::new()
            } else {
                format!("host: {host}, ")
            };
            format!("  - {{ match: {{ {host}path: /* }}, upstream: {upstream} }}\n")
        };
        let own = "[a.test, localhost, 127.0.0.1]";
        for (routes, expected) in [
            (vec![("a.test", "web")], vec![(own, "web")]),
            (
                vec![("[a.test, b.test]", "web")],
                vec![("[a.test, b.test, localhost, 127.0.0.1]", "web")],
            ),
            (
                vec![
                    ("b.test", "api"),
                    ("a.test", "web"),
                    ("a.test", "api"),
                    ("c.test", "web"),
                ],
                vec![
                    ("b.test", "api"),
                    (own, "web"),
                    (own, "api"),
                    ("c.test", "web"),
                ],
            ),
            // Another app may take any host.
            (
                vec![("", "api"), ("a.test", "web")],
                vec![("", "api"), (own, "web")],
            ),
            // Controls.
            (
                vec![("a.test", "web"), ("", "web")],
                vec![("a.test", "web"), ("", "web")],
            ),
            (vec![("a.test", "api")], vec![("a.test", "api")]),
        ] {
            let text = |routes: &[(&str, &str)]| {
                let routes = routes.iter().map(|(host, upstream)| route(host, upstream));
                format!("routes:\n{}", routes.collect::<String>())
            };
            let tree = |routes: &[(&str, &str)]| load_text("t", &text(routes)).1.unwrap();
            let mut found = tree(&routes);
            site.lay_over(&mut found);
            assert!(
                found.has_same_value(&tree(&expected)),
                "{routes:?}\n{found:?}"
            );
        }
    }

    #[test]
    fn mistakes_in_routes_are_left_for_others_to_report() {
        let site = LocalSite {
            upstream: "web".to_owned(),
            names: vec!["localhost".to_owned()],
        };
        for text in [
            "routes: 7",
            "routes: [7, {}]",
            "routes: [{ match: 7, upstream: web }]",
            "routes: [{ match: { host: { a: b } }, upstream: web }]",
            "other: 1",
        ] {
            let mut tree = load_text("t", text).1.unwrap();
            let before = tree.clone();
            site.lay_over(&mut tree);
            assert!(tree.has_same_value(&before), "{text}");
        }
    }
}
