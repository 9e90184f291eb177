//! Conversion of a tree to a `File`, section by section, so that a mistake in one hides none in
//! another.

use std::sync::{Arc, LazyLock};

use super::{AdminConfig, File, Key, ListenerConfig, Node, RouteConfig, RouteNode, Spanned, names};
use crate::{
    diagnostic::{Diagnostics, Place, other_gateways, suggest},
    tree::{Value, read, read_value},
};

/// Top-level keys of the file.
static KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let keys = "listeners admin trusted_proxies upstreams defaults routes access_log audit_log \
        flood_guard geo acme redis tracing rate_limits maps media_types sites cache profiles \
        drain watch merge_slashes driver extends include";
    keys.split(' ').collect()
});

/// Keys of a route, besides the names of filters.
pub static ROUTE_KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let keys = "match name upstream redirect respond files rewrite websocket host_header timeouts \
        satisfy upstream_request pass_headers spelling rules site";
    keys.split(' ').collect()
});

type Entry = (Key, Node);

impl File {
    /// Reads a whole configuration; `filters` are the names of all filters.
    ///
    /// `None` if there was any error, all of which are in `diagnostics`.
    pub fn read(node: &Node, filters: &[&str], diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut reader = Sections {
            node,
            filters,
            problems: Diagnostics::default(),
            meant: Vec::new(),
        };
        let file = reader.file();
        let is_right = !reader.problems.has_errors();
        diagnostics.extend(reader.problems);
        file.filter(|_| is_right)
    }
}

struct Sections<'a> {
    node: &'a Node,
    filters: &'a [&'a str],
    problems: Diagnostics,
    /// Keys that unknown ones were meant for.
    meant: Vec<String>,
}

/// A key that an unknown one was probably meant for.
struct MeantKey {
    name: String,
    /// True for a word of another gateway, whose value has another form.
    is_translated: bool,
}

impl Sections<'_> {
    fn file(&mut self) -> Option<File> {
        let Value::Map(entries) = &self.node.value else {
            let message = format!(
                "expected a mapping with `listeners` and `routes`, found {}",
                self.node.kind()
            );
            return self
                .problems
                .at(self.node.place, "edgeway::config::wrong_type")
                .refuse(
                    message,
                    "see `conf/edgeway.yaml` for the smallest useful file",
                );
        };
        for (key, _) in entries {
            let meant = self.known(key, &KEYS, &[], self.node);
            self.meant.extend(meant.map(|meant| meant.name));
        }
        Some(File {
            listeners: self.listeners(),
            admin: self.section::<AdminConfig>("admin").unwrap_or_default(),
            trusted_proxies: self.section("trusted_proxies").unwrap_or_default(),
            upstreams: self.named("upstreams"),
            defaults: self.defaults(),
            routes: self.routes(),
            access_log: self.node.entry("access_log").cloned(),
            acme: self.section("acme"),
            audit_log: self.section("audit_log"),
            redis: self.section("redis"),
            tracing: self.section("tracing"),
            flood_guard: self.section("flood_guard"),
            geo: self.section("geo"),
            cache: self.section("cache"),
            profiles: self.mapping("profiles"),
            tree: Arc::new(self.node.clone()),
            rate_limits: self.mapping("rate_limits"),
            maps: self.mapping("maps"),
            media_types: self.section("media_types"),
            sites: self.named("sites"),
            drain: self.section("drain").unwrap_or_default(),
            watch: self.section("watch"),
            extends: self.section("extends"),
            merge_slashes: self.section("merge_slashes"),
            driver: self.section("driver"),
        })
    }

    /// Reads a section that may be absent, or empty because all of it is commented out.
    fn section<T: serde::de::DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let node = self.node.get(key)?;
        match node.value {
            Value::Null => None,
            _ => read_value(key, Some(KEYS.as_slice()), node, &mut self.problems),
        }
    }

    fn listeners(&mut self) -> Vec<Spanned<ListenerConfig>> {
        let example = "add `listeners: [{ address: \"127.0.0.1:8080\" }]`";
        self.required("listeners", "a listener", example)
            .iter()
            .filter_map(|node| read(node, &mut self.problems))
            .collect()
    }

    /// Reads the items of a mapping.
    fn named<T: serde::de::DeserializeOwned>(&mut self, key: &str) -> Vec<(Key, T)> {
        self.mapping(key)
            .into_iter()
            .filter_map(|(key, node)| Some((key, read(&node, &mut self.problems)?)))
            .collect()
    }

    fn defaults(&mut self) -> Vec<Entry> {
        let entries = self.mapping("defaults");
        let filters = self.filters;
        if let Some(level) = self.node.get("defaults") {
            for (key, _) in &entries {
                self.known(key, &[], filters, level);
            }
        }
        entries
    }

    fn routes(&mut self) -> Vec<RouteNode> {
        let example = "add `routes: [{ match: { path: /* }, upstream: NAME }]`";
        let written = self.required("routes", "a route", example);
        let routes = written.iter().filter_map(|node| self.route(node));
        let mut routes = routes.collect::<Vec<_>>();
        names::distinguish(&mut routes, &mut self.problems);
        routes
    }

    /// Separates the keys of a route from its filters and reads the keys.
    fn route(&mut self, node: &Node) -> Option<RouteNode> {
        let Value::Map(entries) = &node.value else {
            // The reader reports the wrong type.
            let _none = read::<RouteConfig>(node, &mut self.problems);
            return None;
        };
        let (mut keys, mut filters) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            if self.filters.contains(&key.name.as_str()) {
                filters.push((key.clone(), value.clone()));
            } else if ROUTE_KEYS.contains(&key.name.as_str()) {
                keys.push((key.clone(), value.clone()));
            } else if let Some(meant) = self.known(key, &ROUTE_KEYS, self.filters, node)
                && ROUTE_KEYS.contains(&meant.name.as_str())
            {
                // Reported. Its value is read under the right name, to find problems in it as well.
                // That of another gateway's word has another form.
                let (name, place) = (meant.name, key.place);
                if !meant.is_translated {
                    keys.push((Key { name, place }, value.clone()));
                } else if name == "match" {
                    let any = Node::new(place, Value::Map(Vec::new()));
                    keys.push((Key { name, place }, any));
                }
            }
        }
        let keys = Node::new(node.place, Value::Map(keys));
        let config = read(&keys, &mut self.problems)?;
        Some(RouteNode {
            name: names::route_name(&config),
            place: node.place,
            config,
            keys,
            filters,
        })
    }

    /// Reports an unknown key; returns the key that was probably meant, if it is one of this level.
    fn known(
        &mut self,
        key: &Key,
        keys: &[&str],
        filters: &[&str],
        level: &Node,
    ) -> Option<MeantKey> {
        let name = key.name.as_str();
        if keys.contains(&name) || filters.contains(&name) {
            return None;
        }
        let absent = || {
            keys.iter()
                .chain(filters)
                .copied()
                .filter(|known| level.get(known).is_none())
        };
        let has = |name: &str| keys.contains(&name) || filters.contains(&name);
        let value = level.get(name).map_or(&Value::Null, |node| &node.value);
        let translated = other_gateways::translate(name, value, has);
        let meant = match &translated {
            Some(translated) => translated.key.map(str::to_owned),
            None => crate::diagnostic::closest(name, absent()).map(str::to_owned),
        };
        let is_translated = translated.is_some();
        let help = translated.map_or_else(
            || suggest(name, absent(), "the keys left to use here are"),
            |translated| translated.help,
        );
        let message = format!("unknown key `{name}`");
        self.problems
            .at(key.place, "edgeway::config::unknown_key")
            .error(message, help);
        Some(MeantKey {
            name: meant?,
            is_translated,
        })
    }

    /// Returns the items of a list that must not be empty.
    fn required(&mut self, key: &str, needed: &str, example: &str) -> Vec<Node> {
        let entry = self.node.entry(key);
        let (place, found) = match entry.map(|(key, node)| (key, node, &node.value)) {
            Some((_, _, Value::List(items))) if !items.is_empty() => return items.clone(),
            Some((key, _, Value::Null | Value::List(_))) => (
                key.place,
                format!("`{}` is empty: {needed} is needed", key.name),
            ),
            Some((_, node, _)) => (
                node.place,
                format!("expected a list, found {}", node.kind()),
            ),
            // A word for it is reported already.
            None if self.meant.iter().any(|meant| meant == key) => return Vec::new(),
            None => (
                beginning(self.node),
                format!("`{key}` is missing: {needed} is needed"),
            ),
        };
        let code = entry.map_or(
            "edgeway::config::missing_key",
            |_| "edgeway::config::wrong_type",
        );
        self.problems.at(place, code).error(found, example);
        Vec::new()
    }

    /// Returns the entries of a section of names.
    fn mapping(&mut self, key: &str) -> Vec<Entry> {
        let Some(node) = self.node.get(key) else {
            return Vec::new();
        };
        match &node.value {
            Value::Map(entries) => entries.clone(),
            Value::Null => Vec::new(),
            _ => {
                self.problems
                    .at(node.place, "edgeway::config::wrong_type")
                    .error(
                        format!("expected a mapping, found {}", node.kind()),
                        format!("write `{key}:` and below it one `name: …` each"),
                    );
                Vec::new()
            }
        }
    }
}

/// Returns a file's first character, as the place of a missing section.
fn beginning(node: &Node) -> Place {
    Place {
        end: node.place.end.min(node.place.start + 1),
        ..node.place
    }
}
