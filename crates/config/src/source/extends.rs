//! Lays the tree of a file over the preset that it extends.
//!
//! Mappings join at every depth, and where both have a key the file's value counts. Any other value
//! of the file, lists included, replaces the preset's. Routes join by `name`, or by an equal
//! `match`; the preset's other routes are added. An upstream that is `false` removes the preset's,
//! with its routes.

use crate::tree::{Key, Node, Value};

/// Keys of a route of which a route has one.
const ACTIONS: [&str; 4] = ["upstream", "redirect", "respond", "files"];

/// Settings of a preset for each listener of the file.
const LISTENER: &str = "listener";

/// Lays `file` over `preset`.
pub(super) fn laid_over(mut file: Node, mut preset: Node) -> Node {
    let each_listener = take(&mut preset, LISTENER);
    let routes = take(&mut preset, "routes");
    drop_refused_upstreams(&mut file, &mut preset);
    let removed = |upstream: &Node| match &upstream.value {
        Value::Text(name) => {
            let has = |node: &Node| {
                node.get("upstreams")
                    .and_then(|all| all.get(name))
                    .is_some()
            };
            !has(&file) && !has(&preset)
        }
        _ => false,
    };
    let routes: Vec<Node> = list(routes)
        .into_iter()
        .filter(|route| !route.get("upstream").is_some_and(removed))
        .collect();
    if let Some(each) = each_listener {
        for listener in items(&mut file, "listeners") {
            under_listener(listener, each.clone());
        }
    }
    lay_routes(&mut file, routes);
    let own_upstreams = names(&file, "upstreams");
    let own_limits = names(&file, "rate_limits");
    under(&mut file, preset);
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
        let own = items(file, "routes")
            .iter_mut()
            .find(|own| is_same(own, &route));
        let Some(own) = own else {
            added.push(route);
            continue;
        };
        if ACTIONS.iter().any(|action| own.get(action).is_some()) {
            for action in ACTIONS {
                let _replaced = take(&mut route, action);
            }
        }
        under(own, route);
    }
    let Value::Map(entries) = &mut file.value else {
        return;
    };
    if let Some((_, node)) = entries.iter_mut().find(|(key, _)| key.name == "routes") {
        match &mut node.value {
            Value::List(own) => own.extend(added),
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
fn is_same(own: &Node, route: &Node) -> bool {
    let same = |key: &str| match (own.get(key), route.get(key)) {
        (Some(own), Some(route)) => own.has_same_value(route),
        _ => false,
    };
    match own.get("name") {
        Some(_) => same("name"),
        None => same("match"),
    }
}

/// Removes the upstreams of the preset that the file has as `false`.
fn drop_refused_upstreams(file: &mut Node, preset: &mut Node) {
    let Some(Value::Map(below)) = entry(preset, "upstreams").map(|node| &mut node.value) else {
        return;
    };
    let Some(Value::Map(own)) = entry(file, "upstreams").map(|node| &mut node.value) else {
        return;
    };
    own.retain(|(key, node)| {
        let is_refused = node.value == Value::Bool(false);
        let at = below.iter().position(|(name, _)| name.name == key.name);
        if let (true, Some(at)) = (is_refused, at) {
            below.remove(at);
            return false;
        }
        true
    });
}

/// Removes what only the preset names in a section, and what nothing in the file uses.
fn drop_unused(file: &mut Node, section: &str, own: &[String]) {
    let mut used = Vec::new();
    for (key, node) in file.entries() {
        if key.name != section {
            texts(node, &mut used);
        }
    }
    if let Some(Value::Map(entries)) = entry(file, section).map(|node| &mut node.value) {
        entries.retain(|(key, _)| own.contains(&key.name) || used.contains(&key.name));
    }
}

/// Collects every text below a node that may name something.
fn texts(node: &Node, found: &mut Vec<String>) {
    match &node.value {
        Value::Text(text) => found.push(text.clone()),
        Value::List(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Map(entries) => {
            let entries = entries.iter().filter(|(key, _)| key.name != "name");
            entries.for_each(|(_, node)| texts(node, found));
        }
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {}
    }
}

fn names(file: &Node, section: &str) -> Vec<String> {
    let entries = file.get(section).map_or(&[][..], Node::entries);
    entries.iter().map(|(key, _)| key.name.clone()).collect()
}

fn entry<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    let Value::Map(entries) = &mut node.value else {
        return None;
    };
    let mut entries = entries.iter_mut();
    entries
        .find(|(own, _)| own.name == key)
        .map(|(_, node)| node)
}

/// Removes an entry.
fn take(node: &mut Node, key: &str) -> Option<Node> {
    let Value::Map(entries) = &mut node.value else {
        return None;
    };
    let at = entries.iter().position(|(own, _)| own.name == key)?;
    Some(entries.remove(at).1)
}

/// Returns the items of a list, none if it is missing.
fn items<'n>(node: &'n mut Node, key: &str) -> &'n mut [Node] {
    match entry(node, key).map(|node| &mut node.value) {
        Some(Value::List(items)) => items,
        _ => &mut [],
    }
}

fn list(node: Option<Node>) -> Vec<Node> {
    match node.map(|node| node.value) {
        Some(Value::List(items)) => items,
        _ => Vec::new(),
    }
}
