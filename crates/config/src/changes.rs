//! Differences between two configurations, by name. Only the content counts, not its position in
//! the file, and the order of routes only where it decides.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{
    model::{File, route_name},
    tree::{Node, Spanned, Value},
};

/// Differences of a new configuration from an old one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changes {
    pub listeners: Delta,
    pub routes: Delta,
    pub upstreams: Delta,
    /// Plugins by the versions of their files, which the configuration only names.
    pub plugins: Delta,
    /// Other top-level keys whose values differ, or that are in one of the two only.
    pub sections: Vec<String>,
    /// Files with other contents, such as users, keys and pages, that both configurations name.
    pub files: Vec<String>,
    /// True if routes that are compared in the order of the file are in another order.
    pub route_order: bool,
}

/// Versions that exist of each name.
pub type Versions = BTreeMap<String, BTreeSet<String>>;

/// Changed names of one kind of section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delta {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

/// Sections whose entries are compared by name.
const NAMED: [&str; 3] = ["listeners", "routes", "upstreams"];

impl Changes {
    pub fn between(old: &File, new: &File) -> Self {
        Self {
            listeners: Delta::between(listeners(old), listeners(new)),
            routes: Delta::between(routes(old), routes(new)),
            upstreams: Delta::between(upstreams(old), upstreams(new)),
            plugins: Delta::default(),
            sections: sections(&old.tree, &new.tree),
            files: Vec::new(),
            route_order: is_reordered(ordered(old), ordered(new)),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Formats one line for each change: `+ route checkout`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, delta) in [
            ("listener", &self.listeners),
            ("route", &self.routes),
            ("upstream", &self.upstreams),
            ("plugin", &self.plugins),
        ] {
            for (sign, names) in [
                ('+', &delta.added),
                ('-', &delta.removed),
                ('~', &delta.changed),
            ] {
                lines.extend(names.iter().map(|name| format!("{sign} {kind} {name}")));
            }
        }
        lines.extend(self.sections.iter().map(|name| format!("~ {name}")));
        lines.extend(self.files.iter().map(|path| format!("~ file {path}")));
        lines.extend(self.route_order.then(|| "~ order of routes".to_owned()));
        lines
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        f.write_str(&self.lines().join("\n"))
    }
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Compares entries, several of which may share a name: identical entries cancel out, and of
    /// the rest as many have changed as have a counterpart.
    fn between<'a>(old: Vec<(String, &'a Node)>, new: Vec<(String, &'a Node)>) -> Self {
        let mut before: HashMap<String, Vec<&Node>> = HashMap::new();
        for (name, node) in &old {
            before.entry(name.clone()).or_default().push(node);
        }
        let different: Vec<String> = new
            .into_iter()
            .filter_map(|(name, node)| {
                let others = before.get_mut(&name);
                let same = others.and_then(|others| {
                    let index = others.iter().position(|other| other.has_same_value(node))?;
                    Some(others.swap_remove(index))
                });
                same.is_none().then_some(name)
            })
            .collect();
        let mut delta = Self::default();
        for name in different {
            let counterpart = before.get_mut(&name).and_then(Vec::pop);
            delta.push(name, |delta| match counterpart {
                Some(_) => &mut delta.changed,
                None => &mut delta.added,
            });
        }
        for (name, _) in old {
            if before.get_mut(&name).and_then(Vec::pop).is_some() {
                delta.push(name, |delta| &mut delta.removed);
            }
        }
        delta
    }

    pub fn between_versions(old: &Versions, new: &Versions) -> Self {
        let missing_in = |here: &Versions, there: &Versions| -> Vec<String> {
            let names = here.keys().filter(|name| !there.contains_key(*name));
            names.cloned().collect()
        };
        let is_other = |(name, now): (&String, _)| {
            let other = old.get(name).is_some_and(|before| before != now);
            other.then(|| name.clone())
        };
        Self {
            added: missing_in(new, old),
            removed: missing_in(old, new),
            changed: new.iter().filter_map(is_other).collect(),
        }
    }

    fn push(&mut self, name: String, list: impl FnOnce(&mut Self) -> &mut Vec<String>) {
        let list = list(self);
        list.extend((!list.contains(&name)).then_some(name));
    }
}

// There is one item for each that was read, since a file is read completely or not at all.

fn listeners(file: &File) -> Vec<(String, &Node)> {
    let names = file.listeners.iter().map(|listener| {
        let config = &listener.value;
        let name = config.name.as_ref().unwrap_or(&config.address.value);
        name.clone()
    });
    names.zip(file.tree.items("listeners")).collect()
}

fn routes(file: &File) -> Vec<(String, &Node)> {
    let names = file.routes.iter().map(|route| route_name(&route.config));
    names.zip(file.tree.items("routes")).collect()
}

/// Returns the names of the routes that are compared in the order of the file: those with a regular
/// expression as their location or host.
fn ordered(file: &File) -> Vec<String> {
    let is_regex = |text: &Spanned<String>| text.value.starts_with('~');
    let routes = file.routes.iter().filter(|route| {
        let matches = &route.config.matches.value;
        matches.location.as_ref().is_some_and(is_regex) || matches.host.0.iter().any(is_regex)
    });
    routes.map(|route| route_name(&route.config)).collect()
}

/// Returns true if the names that are in both lists are in another order.
fn is_reordered(mut old: Vec<String>, mut new: Vec<String>) -> bool {
    let set = |names: &[String]| names.iter().cloned().collect::<HashSet<_>>();
    let (in_old, in_new) = (set(&old), set(&new));
    old.retain(|name| in_new.contains(name));
    new.retain(|name| in_old.contains(name));
    // Of two routes with one name, one may have gone.
    old.dedup();
    new.dedup();
    old != new
}

fn upstreams(file: &File) -> Vec<(String, &Node)> {
    let section = file.tree.get("upstreams");
    let entries = section.map_or(&[][..], Node::entries);
    entries
        .iter()
        .map(|(key, node)| (key.name.clone(), node))
        .collect()
}

/// Returns the other keys whose values differ. A key without a value equals an absent key.
fn sections(old: &Node, new: &Node) -> Vec<String> {
    let names_of = |tree: &Node| -> Vec<String> {
        let entries = tree.entries().iter();
        let keys = entries
            .filter(|(key, node)| !NAMED.contains(&key.name.as_str()) && node.value != Value::Null);
        keys.map(|(key, _)| key.name.clone()).collect()
    };
    let mut names = names_of(new);
    let gone: Vec<_> = names_of(old)
        .into_iter()
        .filter(|name| !names.contains(name))
        .collect();
    names.retain(|name| match (old.get(name), new.get(name)) {
        (Some(before), Some(now)) => !before.has_same_value(now),
        _ => true,
    });
    names.extend(gone);
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::load_text;

    const BASE: &str = r#"
listeners:
  - { address: "127.0.0.1:8080", name: front }
  - address: 127.0.0.1:8081
upstreams:
  web: { backends: [127.0.0.1:3000, 127.0.0.1:3001], balance: p2c }
  api: { backends: [127.0.0.1:5000] }
defaults:
  body_limit: 1MiB
routes:
  - { match: { path: /api/* }, upstream: api }
  - { match: { host: a.test, path: /x, method: [GET, HEAD] }, upstream: web }
  - { name: rest, match: { path: /* }, upstream: web }
"#;

    fn file(text: &str) -> File {
        let (sources, tree, mut diagnostics) = load_text("edgeway.yaml", text);
        let file = File::read(&tree.unwrap(), &["body_limit"], &mut diagnostics);
        let messages: Vec<_> = diagnostics.list().iter().map(|d| &d.message).collect();
        file.unwrap_or_else(|| panic!("{messages:?} in {:?}", sources.files))
    }

    fn between(old: &str, new: &str) -> Vec<String> {
        let changes = Changes::between(&file(old), &file(new));
        let lines = changes.lines();
        assert_eq!(changes.is_empty(), lines.is_empty());
        lines
    }

    /// Checks the reported changes after replacing `from` in the base with `to`.
    #[track_caller]
    fn check(from: &str, to: &str, expected: &[&str]) {
        assert_eq!(BASE.matches(from).count(), 1, "{from}");
        assert_eq!(between(BASE, &BASE.replace(from, to)), expected, "{to}");
    }

    #[test]
    fn what_differs_is_reported_by_name() {
        check("p2c", "round_robin", &["~ upstream web"]);
        check(
            "  api: {",
            "  new: { backends: [127.0.0.1:1] }\n  api: {",
            &["+ upstream new"],
        );
        check(
            "name: front",
            "name: door",
            &["+ listener door", "- listener front"],
        );
        check(
            "name: front }",
            "name: front, underscores: allow }",
            &["~ listener front"],
        );
        check(
            "  - address: 127.0.0.1:8081\n",
            "",
            &["- listener 127.0.0.1:8081"],
        );
        check(
            "/x, method: [GET, HEAD] }, upstream: web",
            "/x, method: [GET, HEAD] }, upstream: api",
            &["~ route GET,HEAD a.test/x"],
        );
        check(
            "[GET, HEAD]",
            "GET",
            &["+ route GET a.test/x", "- route GET,HEAD a.test/x"],
        );
        check(
            "upstream: api }",
            "upstream: api, body_limit: 1KiB }",
            &["~ route /api/*"],
        );
        check("body_limit: 1MiB", "body_limit: 2MiB", &["~ defaults"]);
        check("defaults:\n  body_limit: 1MiB\n", "", &["~ defaults"]);
        check(
            "defaults:",
            "admin: { address: off }\ndefaults:",
            &["~ admin"],
        );
    }

    #[test]
    fn where_it_stands_is_no_change() {
        assert_eq!(between(BASE, BASE), [""; 0]);
        for (from, to) in [
            ("\nlisteners:", "\n# A comment.\n\n\nlisteners:"),
            ("defaults:", "acme:\ndefaults:"),
            // Keys in another order, and quotes.
            (
                "{ address: \"127.0.0.1:8080\", name: front }",
                "\n      name: 'front'\n      address: 127.0.0.1:8080",
            ),
            ("  body_limit: 1MiB", "  body_limit: \"1MiB\""),
        ] {
            check(from, to, &[]);
        }
        let (first, rest) = BASE.split_once("routes:\n").unwrap();
        let mut lines: Vec<_> = rest.lines().collect();
        lines.reverse();
        let moved = format!("routes:\n{}{first}", lines.join("\n"));
        assert_eq!(between(BASE, &moved), [""; 0]);
        // But the order within a list counts.
        check(
            "[127.0.0.1:3000, 127.0.0.1:3001]",
            "[127.0.0.1:3001, 127.0.0.1:3000]",
            &["~ upstream web"],
        );
    }

    #[test]
    fn the_order_of_routes_is_a_change_where_it_decides() {
        let with = |routes: [&str; 3]| {
            let (head, _) = BASE.split_once("routes:\n").unwrap();
            let routes =
                routes.map(|text| format!("  - {{ match: {{ {text} }}, upstream: web }}\n"));
            format!("{head}routes:\n{}", routes.concat())
        };
        for (one, two) in [
            ("location: '~ ^/a'", "location: '~* b$'"),
            ("host: '~^a'", "host: [x.test, '~b$']"),
        ] {
            let old = with([one, two, "path: /c"]);
            assert_eq!(
                between(&old, &with([two, one, "path: /c"])),
                ["~ order of routes"]
            );
            assert_eq!(between(&old, &with(["path: /c", one, two])), [""; 0]);
            let gone = between(&old, &with([two, "path: /d", "path: /c"]));
            assert_eq!(gone.len(), 2, "{gone:?}");
        }
    }

    #[test]
    fn the_order_of_keys_is_a_change_among_regular_expressions() {
        let with = |keys: [&str; 3]| {
            let keys = keys.map(|key| format!("'{key}': x")).join(", ");
            format!("{BASE}maps:\n  m: {{ from: '{{path}}', values: {{ {keys} }} }}\n")
        };
        let old = with(["~^/a", "~b$", "c"]);
        assert_eq!(between(&old, &with(["c", "~^/a", "~b$"])), [""; 0]);
        assert_eq!(between(&old, &with(["~b$", "~^/a", "c"])), ["~ maps"]);
    }

    #[test]
    fn routes_of_one_name_are_distinguished_by_their_content() {
        let with = |routes: &str| {
            let (head, _) = BASE.split_once("routes:\n").unwrap();
            format!("{head}routes:\n{routes}")
        };
        let one = "  - { match: { path: /a, header: { x: y } }, upstream: web }\n";
        let two = "  - { match: { path: /a }, upstream: api }\n";
        let three = "  - { match: { path: /a }, upstream: web }\n";
        let both = with(&format!("{one}{two}"));
        for (old, new, expected) in [
            (&both, with(&format!("{two}{one}")), vec![]),
            (&both, with(one), vec!["- route /a"]),
            (&with(two), both.clone(), vec!["+ route /a"]),
            (&both, with(&format!("{one}{three}")), vec!["~ route /a"]),
            (&both, with(three), vec!["- route /a", "~ route /a"]),
        ] {
            assert_eq!(between(old, &new), expected, "{new}");
        }
    }

    #[test]
    fn names_with_other_versions_have_changed() {
        let versions = |all: &[(&str, &[&str])]| -> Versions {
            let own = |(name, versions): &(&str, &[&str])| {
                let versions = versions.iter().map(|&version| version.to_owned());
                ((*name).to_owned(), versions.collect())
            };
            all.iter().map(own).collect()
        };
        let old = versions(&[("gone", &["1"]), ("same", &["1", "2"]), ("other", &["1"])]);
        let new = versions(&[
            ("new", &["1"]),
            ("same", &["1", "2"]),
            ("other", &["1", "2"]),
        ]);
        let changes = Changes {
            plugins: Delta::between_versions(&old, &new),
            ..Changes::default()
        };
        assert_eq!(
            changes.lines(),
            ["+ plugin new", "- plugin gone", "~ plugin other"]
        );
        assert!(Delta::between_versions(&old, &old).is_empty());
    }

    #[test]
    fn changes_are_sent_as_json() {
        let changed = BASE.replace("p2c", "round_robin");
        let changes = Changes::between(&file(BASE), &file(&changed));
        let json = serde_json::to_value(&changes).unwrap();
        assert_eq!(json["upstreams"]["changed"], serde_json::json!(["web"]));
        assert_eq!(serde_json::from_value::<Changes>(json).unwrap(), changes);
        // A later version may omit fields.
        assert!(serde_json::from_str::<Changes>("{}").unwrap().is_empty());
        assert_eq!(changes.to_string(), "~ upstream web");
        assert_eq!(Changes::default().to_string(), "nothing changed");
    }
}
