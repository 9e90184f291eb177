//! Merging of one file's tree into another: lists grow, mappings join, nothing is overridden.

use crate::{
    diagnostic::{Diagnostic, Diagnostics},
    tree::{Key, Node, Value},
};

/// Adds the content of a file to the entries of the file that includes it.
pub(super) fn into(entries: &mut Vec<(Key, Node)>, included: Node, diagnostics: &mut Diagnostics) {
    let added = match included.value {
        Value::Map(added) => added,
        Value::Null => return,
        _ => {
            diagnostics
                .at(included.place, "edgeway::include::content")
                .error(
                    format!(
                        "an included file must be a mapping, found {}",
                        included.kind()
                    ),
                    "begin it with a key such as `routes:`",
                );
            return;
        }
    };
    for (key, node) in added {
        let Some((first, present)) = entries.iter_mut().find(|(k, _)| k.name == key.name) else {
            entries.push((key, node));
            continue;
        };
        if node.value == Value::Null {
            continue;
        }
        if present.value == Value::Null {
            *present = node;
            continue;
        }
        match (&mut present.value, node.value) {
            (Value::List(items), Value::List(added)) => items.extend(added),
            (Value::Map(entries), Value::Map(added)) => join(entries, added, diagnostics),
            _ => diagnostics.push(twice(&key, first)),
        }
    }
}

fn join(entries: &mut Vec<(Key, Node)>, added: Vec<(Key, Node)>, diagnostics: &mut Diagnostics) {
    for (key, node) in added {
        match entries.iter().find(|(k, _)| k.name == key.name) {
            Some((first, _)) => diagnostics.push(twice(&key, first)),
            None => entries.push((key, node)),
        }
    }
}

/// Lays a tree over another: mappings join, `null` removes, lists of `routes` grow, and any other
/// value replaces.
pub(super) fn over(node: &mut Node, over: Node) {
    let (Value::Map(entries), Value::Map(changes)) = (&mut node.value, over.value) else {
        return;
    };
    for (key, change) in changes {
        let present = entries.iter().position(|(k, _)| k.name == key.name);
        match (present, change.value) {
            (Some(at), Value::Null) => drop(entries.remove(at)),
            (None, Value::Null) => {}
            (Some(at), Value::List(added)) if key.name == "routes" => {
                match &mut entries[at].1.value {
                    Value::List(items) => items.extend(added),
                    other => *other = Value::List(added),
                }
            }
            (Some(at), Value::Map(changes)) if matches!(entries[at].1.value, Value::Map(_)) => {
                let change = Node::new(change.place, Value::Map(changes));
                self::over(&mut entries[at].1, change);
            }
            (at, value) => {
                let value = without_nulls(value);
                let node = Node { value, ..change };
                match at {
                    Some(at) => entries[at].1 = node,
                    None => entries.push((key, node)),
                }
            }
        }
    }
}

/// Leaves out keys that have nothing to remove.
fn without_nulls(value: Value) -> Value {
    let Value::Map(entries) = value else {
        return value;
    };
    let kept = entries
        .into_iter()
        .filter(|(_, node)| node.value != Value::Null);
    let kept = kept.map(|(key, node)| {
        let value = without_nulls(node.value);
        (key, Node { value, ..node })
    });
    Value::Map(kept.collect())
}

fn twice(key: &Key, first: &Key) -> Diagnostic {
    Diagnostic::error(
        "edgeway::include::duplicate_key",
        key.place,
        format!("`{}` is written in two files", key.name),
    )
    .help("keep one of the two: an included file adds, it does not override")
    .related(first.place, "first written here")
}
