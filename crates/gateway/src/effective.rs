//! Selects the filters of a route and the source of each: the route's own, else that of the
//! defaults, else the ones that are always on.

use edgeway_config::{
    diagnostic::Place,
    model::File,
    tree::{Key, Node, Value},
};
use edgeway_core::registry::Entry;

use super::filter_kinds;

/// Returns the filters of a route with the settings `own`, in the registry's order. An empty `own`
/// means requests that match no route. `place` is used for filters that are not written in the
/// file.
pub(super) fn filters<'a>(
    file: &'a File,
    place: Place,
    written: &'a [(Key, Node)],
) -> impl Iterator<Item = (&'static Entry, Node)> + use<'a> {
    filter_kinds()
        .iter()
        .filter_map(move |entry| Some((entry, node(file, place, entry, written)?)))
}

/// Returns the node that a filter is compiled from, or `None` if it is off.
fn node(file: &File, place: Place, entry: &Entry, written: &[(Key, Node)]) -> Option<Node> {
    let find = |nodes: &[(Key, Node)]| {
        nodes
            .iter()
            .find(|(key, _)| key.name == entry.name)
            .map(|(_, node)| node.clone())
    };
    let top = || {
        file.access_log
            .as_ref()
            .filter(|(key, _)| key.name == entry.name)
            .map(|(_, node)| node.clone())
    };
    let empty = |place| Node::new(place, Value::Map(Vec::new()));
    let is_on = |node: &Node| flag(node) == Some(true) || node.value == Value::Null;
    let shared = || find(&file.defaults).or_else(top);
    // `true` on a route means: use the defaults.
    let node = match find(written) {
        Some(own) if is_on(&own) => shared()
            .filter(|node| !is_off(node) && !is_on(node))
            .unwrap_or_else(|| empty(own.place)),
        Some(own) => own,
        None => shared().or_else(|| entry.on_by_default.then(|| empty(place)))?,
    };
    if is_off(&node) {
        return None;
    }
    if is_on(&node) {
        return Some(empty(node.place));
    }
    Some(node)
}

fn is_off(node: &Node) -> bool {
    flag(node) == Some(false) || matches!(&node.value, Value::Text(text) if text == "off")
}

/// Returns the flag that a value is. The text of a variable in quotes is one as well.
fn flag(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Bool(is_on) => Some(*is_on),
        Value::Text(text) if node.is_variable => text.parse().ok(),
        _ => None,
    }
}
