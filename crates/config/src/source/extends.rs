//! Lays the tree of a file over the preset that it extends.
//!
//! Mappings join at every depth, and where both have a key the file's value counts. Any other value
//! of the file, lists included, replaces the preset's. Routes join by `name`, or by an equal
//! `match`; the preset's other routes are added. An upstream that is `false` removes the preset's,
//! with its routes. What has no use any more in the preset's part, such as the times of a profile
//! for a route that is gone, is left out.

use crate::tree::{Key, Node, Value};

/// Keys of a route of which a route has one.
const ACTIONS: [&str; 4] = ["upstream", "redirect", "respond", "files"];

/// Keys of `match` of which a route has one.
const PATHS: [&str; 3] = ["path", "path_regex", "location"];

/// Keys of a route that are refused or without effect beside another action than `upstream`.
const OF_UPSTREAMS: [&str; 4] = ["websocket", "cache", "host_header", "upstream_request"];

/// Keys whose texts never name an upstream or a limit, though some are the same words.
const NO_NAMES: [&str; 6] = ["name", "match", "class", "classes", "tags", "mode"];

/// Settings of a preset for each listener of the file.
const LISTENER: &str = "listener";

/// Lays `file` over `preset`.
pub(super) fn laid_over(mut file: Node, mut preset: Node) -> Node {
    let each_listener = take(&mut preset, LISTENER);
    let routes = take(&mut preset, "routes");
    drop_refused_upstreams(&mut file, &mut preset);
    let removed = |upstream: &Node| {
        let has = |node: &Node, name: &str| {
            let upstreams = node.get("upstreams");
            upstreams.and_then(|all| all.get(name)).is_some()
        };
        upstream
            .text()
            .is_some_and(|name| !has(&file, name) && !has(&preset, name))
    };
    let routes: Vec<Node> = list(routes)
        .into_iter()
        .filter(|route| !route.get("upstream").is_some_and(removed))
        .collect();
    if let Some(each) = each_listener {
        for listener in file.items_mut("listeners") {
            under_listener(listener, each.clone());
        }
    }
    lay_routes(&mut file, routes);
    let own_upstreams = names(&file, "upstreams");
    let own_limits = names(&file, "rate_limits");
    let from = preset.place.file;
    under(&mut file, preset);
    drop_idle_profiles(&mut file, from);
    drop_unused_cache(&mut file, from);
    drop_unused(&mut file, "upstreams", &own_upstreams);
    drop_unused(&mut file, "rate_limits", &own_limits);
    file
}

/// Lays `file` over `below`: the keys that only `below` has are added.
fn under(file: &mut Node, below: Node) {
    if file.value == Value::Null {
        *file = below;
        return;
    }
    let (Value::Map(entries), Value::Map(added)) = (&mut file.value, below.value) else {
        return;
    };
    for (key, node) in added {
        match entries.iter_mut().find(|(own, _)| own.name == key.name) {
            Some((_, own)) => under(own, node),
            None => entries.push((key, node)),
        }
    }
}

/// Lays a listener over the settings for all: those of `tls` are for listeners with TLS.
fn under_listener(listener: &mut Node, mut each: Node) {
    if listener
        .get("tls")
        .is_none_or(|tls| tls.value == Value::Null)
    {
        let _without = take(&mut each, "tls");
    }
    if matches!(listener.value, Value::Map(_)) {
        under(listener, each);
    }
}

fn lay_routes(file: &mut Node, routes: Vec<Node>) {
    let mut added = Vec::new();
    let place = file.place;
    for mut route in routes {
        let existing = file
            .items_mut("routes")
            .iter_mut()
            .find(|existing| is_same(existing, &route));
        let Some(existing) = existing else {
            added.push(route);
            continue;
        };
        if ACTIONS.iter().any(|action| existing.get(action).is_some()) {
            let goes_upstream = existing.get("upstream").is_some();
            let pointless = OF_UPSTREAMS.iter().filter(|_| !goes_upstream);
            for key in ACTIONS.iter().chain(pointless) {
                let _replaced = take(&mut route, key);
            }
        }
        let has_path = |existing: &Node| PATHS.iter().any(|key| existing.get(key).is_some());
        if existing.get("match").is_some_and(has_path)
            && let Some(below) = route.get_mut("match")
        {
            for key in PATHS {
                let _replaced = take(below, key);
            }
        }
        under(existing, route);
    }
    let Value::Map(entries) = &mut file.value else {
        return;
    };
    if let Some((_, node)) = entries.iter_mut().find(|(key, _)| key.name == "routes") {
        match &mut node.value {
            Value::List(list) => list.extend(added),
            Value::Null => node.value = Value::List(added),
            _ => {}
        }
        return;
    }
    let key = Key {
        name: "routes".to_owned(),
        place,
    };
    entries.push((key, Node::new(place, Value::List(added))));
}

/// Returns true if a route of the file is the preset's: by its name, or by what both match.
fn is_same(left: &Node, route: &Node) -> bool {
    let same = |key: &str| match (left.get(key), route.get(key)) {
        (Some(left), Some(route)) => left.has_same_value(route),
        _ => false,
    };
    match left.get("name") {
        Some(_) => same("name"),
        None => same("match"),
    }
}

/// Removes the upstreams of the preset that the file has as `false`.
fn drop_refused_upstreams(file: &mut Node, preset: &mut Node) {
    let Some(Value::Map(below)) = preset.get_mut("upstreams").map(|node| &mut node.value) else {
        return;
    };
    let Some(Value::Map(upstreams)) = file.get_mut("upstreams").map(|node| &mut node.value) else {
        return;
    };
    upstreams.retain(|(key, node)| {
        let is_refused = node.value == Value::Bool(false);
        let index = below.iter().position(|(name, _)| name.name == key.name);
        if let (true, Some(index)) = (is_refused, index) {
            below.remove(index);
            return false;
        }
        true
    });
}

/// Removes what profiles of the preset, whose file number is `from`, set for routes that do not
/// exist, that have no cache, or that have the same values already: it would be an error that the
/// user cannot mend.
fn drop_idle_profiles(file: &mut Node, from: u16) {
    let routes: Vec<Node> = file.items("routes").to_vec();
    let shared = file.get("defaults").and_then(|all| all.get("cache"));
    let shared = shared.filter(|cache| !is_off(cache)).cloned();
    let changes = |name: &str, section: &Node| {
        let is_named = |route: &&Node| route.get("name").and_then(Node::text) == Some(name);
        let cache_of = |route: &Node| match route.get("cache") {
            Some(own) => (!is_off(own)).then(|| own.clone()),
            None => shared.clone(),
        };
        let entries = section.get("cache").map_or(&[][..], Node::entries);
        let mut caches = routes.iter().filter(is_named).filter_map(cache_of);
        caches.any(|cache| {
            let differs = |(key, node): &(Key, Node)| {
                cache
                    .get(&key.name)
                    .is_none_or(|own| !own.has_same_value(node))
            };
            entries.iter().any(differs)
        })
    };
    let is_empty = |node: &Node| node.entries().is_empty() && matches!(node.value, Value::Map(_));
    if let Some(Value::Map(profiles)) = file.get_mut("profiles").map(|node| &mut node.value) {
        for (_, profile) in profiles.iter_mut() {
            let Some(Value::Map(set)) = profile.get_mut("routes").map(|node| &mut node.value)
            else {
                continue;
            };
            set.retain(|(key, node)| key.place.file != from || changes(&key.name, node));
            if profile.get("routes").is_some_and(is_empty) {
                let _empty = take(profile, "routes");
            }
        }
        profiles.retain(|(key, node)| key.place.file != from || !is_empty(node));
    }
    let has_none = |(key, node): &(Key, Node)| key.place.file == from && is_empty(node);
    if file.entry("profiles").is_some_and(has_none) {
        let _empty = take(file, "profiles");
    }
}

/// Removes the section `cache` of the preset if no route has a cache.
fn drop_unused_cache(file: &mut Node, from: u16) {
    let has_cache = |node: &Node| node.get("cache").is_some_and(|cache| !is_off(cache));
    let is_used =
        file.get("defaults").is_some_and(has_cache) || file.items("routes").iter().any(has_cache);
    let is_presets = file
        .get("cache")
        .is_some_and(|node| node.place.file == from);
    if is_presets && !is_used {
        let _unused = take(file, "cache");
    }
}

/// Returns true if a filter is switched off.
fn is_off(node: &Node) -> bool {
    match &node.value {
        Value::Bool(is_on) => !is_on,
        Value::Text(text) => text == "off",
        _ => false,
    }
}

/// Removes what only the preset names in a section, and what nothing in the file uses.
fn drop_unused(file: &mut Node, section: &str, kept: &[String]) {
    let mut used = Vec::new();
    for (key, node) in file.entries() {
        if key.name != section {
            texts(node, false, &mut used);
        }
    }
    if let Some(Value::Map(entries)) = file.get_mut(section).map(|node| &mut node.value) {
        entries.retain(|(key, _)| kept.contains(&key.name) || used.contains(&key.name));
    }
}

/// Collects the texts that may be names; in the settings of plugins (`is_settings`), keys too.
fn texts(node: &Node, is_settings: bool, list: &mut Vec<String>) {
    match &node.value {
        Value::Text(text) => list.push(text.clone()),
        Value::List(items) => items.iter().for_each(|item| texts(item, is_settings, list)),
        Value::Map(entries) => {
            for (key, node) in entries {
                list.extend(is_settings.then(|| key.name.clone()));
                if is_settings || !NO_NAMES.contains(&key.name.as_str()) {
                    texts(node, is_settings || key.name == "plugins", list);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {}
    }
}

fn names(file: &Node, section: &str) -> Vec<String> {
    let entries = file.get(section).map_or(&[][..], Node::entries);
    entries.iter().map(|(key, _)| key.name.clone()).collect()
}

/// Removes an entry.
fn take(node: &mut Node, key: &str) -> Option<Node> {
    let Value::Map(entries) = &mut node.value else {
        return None;
    };
    let index = entries.iter().position(|(own, _)| own.name == key)?;
    Some(entries.remove(index).1)
}

fn list(node: Option<Node>) -> Vec<Node> {
    match node.map(|node| node.value) {
        Some(Value::List(items)) => items,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::diagnostic::Place;

    const FILE: u16 = 0;
    const PRESET: u16 = 1;

    /// Draws a tree in which each node has the file number `of`.
    fn tree(of: u16) -> impl Strategy<Value = Node> {
        let node = move |value| {
            let place = Place {
                file: of,
                ..Place::default()
            };
            Node::new(place, value)
        };
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (0..3_i64).prop_map(Value::Integer),
            "[a-c]".prop_map(Value::Text),
            vec((0..3_i64).prop_map(Value::Integer).prop_map(node), 0..3).prop_map(Value::List),
        ];
        let value = leaf.prop_map(node).prop_recursive(3, 24, 4, move |inner| {
            vec(("[a-d]", inner), 0..4).prop_map(move |drawn| {
                let mut entries: Vec<(Key, Node)> = Vec::new();
                for (name, value) in drawn {
                    let place = value.place;
                    if entries.iter().all(|(key, _)| key.name != name) {
                        entries.push((Key { name, place }, value));
                    }
                }
                node(Value::Map(entries))
            })
        });
        value.prop_filter("a file is a mapping", |node| {
            matches!(node.value, Value::Map(_))
        })
    }

    type Leaf<'n> = (Vec<&'n str>, &'n Node);

    /// Returns each value that is no mapping with entries, and the keys that lead to it.
    fn leaves<'n>(node: &'n Node, way: &mut Vec<&'n str>, found: &mut Vec<Leaf<'n>>) {
        if node.entries().is_empty() {
            found.push((way.clone(), node));
        }
        for (key, node) in node.entries() {
            way.push(&key.name);
            leaves(node, way, found);
            way.pop();
        }
    }

    fn at<'n>(node: &'n Node, way: &[&str]) -> Option<&'n Node> {
        way.iter().try_fold(node, |node, key| node.get(key))
    }

    proptest! {
        /// A value of the file counts unless it is empty, and a value of the preset counts unless
        /// the file has something else there or above.
        #[test]
        fn values_of_the_file_come_first(file in tree(FILE), preset in tree(PRESET)) {
            let mut merged = laid_over(file.clone(), preset.clone());
            // The section is added in any case.
            prop_assert_eq!(take(&mut merged, "routes").map(|it| it.value), Some(Value::List(vec![])));
            let (mut own, mut below, mut all) = (Vec::new(), Vec::new(), Vec::new());
            leaves(&file, &mut Vec::new(), &mut own);
            leaves(&preset, &mut Vec::new(), &mut below);
            leaves(&merged, &mut Vec::new(), &mut all);
            for (way, value) in own {
                let is_mapping = matches!(value.value, Value::Map(_));
                if value.value != Value::Null && !is_mapping {
                    prop_assert_eq!(at(&merged, &way), Some(value));
                }
            }
            for (way, value) in below {
                let replaces = |end: usize| at(&file, &way[..end]).is_some_and(|own| {
                    let is_mapping = matches!(own.value, Value::Map(_));
                    let joins = is_mapping && matches!(at(&preset, &way[..end]), Some(
                        Node { value: Value::Map(_), .. }
                    ));
                    own.value != Value::Null && !joins
                });
                let found = at(&merged, &way);
                if (0..=way.len()).any(replaces) {
                    prop_assert!(found.is_none_or(|it| it.place.file == FILE));
                } else if !matches!(value.value, Value::Map(_)) {
                    prop_assert_eq!(found, Some(value));
                }
            }
            for (way, value) in all {
                let source = if value.place.file == FILE { &file } else { &preset };
                prop_assert!(at(source, &way).is_some_and(|it| it.has_same_value(value)
                    || matches!(value.value, Value::Map(_))));
            }
        }
    }
}
