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
            diagnostics.push(
                Diagnostic::error(
                    "edgeway::include::content",
                    included.place,
                    format!(
                        "an included file must be a mapping, found {}",
                        included.kind()
                    ),
                )
                .help("begin it with a key such as `routes:`"),
            );
            return;
        }
    };
    for (key, node) in added {
        let Some((first, present)) = entries.iter_mut().find(|(k, _)| k.name == key.name) else {
            entries.push((key, node));
            continue;
        };
        match (&mut present.value, node.value) {
            (_, Value::Null) => {}
            (value @ Value::Null, added) => {
                *value = added;
                present.place = node.place;
            }
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

fn twice(key: &Key, first: &Key) -> Diagnostic {
    Diagnostic::error(
        "edgeway::include::duplicate_key",
        key.place,
        format!("`{}` is written in two files", key.name),
    )
    .help("keep one of the two: an included file adds, it does not override")
    .related(first.place, "first written here")
}
