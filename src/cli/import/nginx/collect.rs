//! Locations of a server: those within each other, and named ones.

use super::{locations::Location, parse::Directive, report::Fates, scope::Scope};

/// Named location.
pub(super) struct Named<'a> {
    /// Name without its `@`.
    pub(super) name: String,
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    /// Name of its route.
    pub(super) route: String,
}

/// Returns the locations of a block, those within others included. `named` gets those with `@`.
pub(super) fn collect<'a>(
    scope: &Scope<'a>,
    found: &mut Vec<Location<'a>>,
    named: &mut Vec<Named<'a>>,
    fates: &mut Fates,
) {
    let own = scope.own("location");
    // Expressions of the server are not considered below a `^~`, for the locations within it either.
    let is_regex = |one: &&Directive| one.arg(0).starts_with('~');
    let skips = scope.owner().is_some_and(has_priority) && !own.iter().any(is_regex);
    for directive in own {
        let inner = scope.inner(directive);
        let (mark, path) = match &directive.args[..] {
            [mark, path] => (mark.as_str(), path.as_str()),
            [one] => ["^~", "~*", "~", "="]
                .iter()
                .find_map(|mark| Some((*mark, one.strip_prefix(mark)?)))
                .unwrap_or(("", one)),
            _ => ("", ""),
        };
        fates.carried(directive, "");
        if let Some(name) = path.strip_prefix('@') {
            named.push(Named {
                name: name.to_owned(),
                directive,
                scope: inner,
                route: String::new(),
            });
            continue;
        }
        let text = if mark.is_empty() && skips {
            format!("^~ {path}")
        } else if mark.is_empty() {
            path.to_owned()
        } else {
            format!("{mark} {path}")
        };
        collect(&inner, found, named, fates);
        found.push(Location {
            directive,
            scope: inner,
            text,
        });
    }
}

/// Returns true for a location with `^~`.
fn has_priority(location: &Directive) -> bool {
    location.name == "location" && location.arg(0).starts_with("^~")
}
