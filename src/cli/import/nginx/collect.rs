//! Locations of a server: those within each other, and named ones.

use super::{
    locations::Location,
    parse::Directive,
    report::Fates,
    scope::Scope,
    words::{Piece, named_groups, pieces},
};

/// Returns the locations of a block, those within others included. `named` gets those with `@`.
pub(super) fn collect<'a>(
    scope: &Scope<'a>,
    found: &mut Vec<Location<'a>>,
    named: &mut Vec<(String, Scope<'a>, &'a Directive)>,
    fates: &mut Fates,
) {
    for directive in scope.own("location") {
        let inner = scope.inner(directive.children());
        let (mark, path) = match &directive.args[..] {
            [mark, path] => (mark.as_str(), path.as_str()),
            [one] => ["^~", "~*", "~", "="]
                .iter()
                .find_map(|mark| Some((*mark, one.strip_prefix(mark)?)))
                .unwrap_or(("", one)),
            _ => ("", ""),
        };
        let is_regex = mark.starts_with('~');
        // A named location does not know which one led to it.
        let inner = if is_regex || path.starts_with('@') {
            inner.numbered_by(None)
        } else {
            inner
        };
        if let Some(name) = path.strip_prefix('@') {
            fates.carried(directive, "");
            named.push((name.to_owned(), inner, directive));
            continue;
        }
        let (path, groups) = if is_regex {
            let (named, groups) = named_groups(path);
            let path = if uses_numbers(directive) {
                named
            } else {
                path.to_owned()
            };
            let mark = |name: &str| format!("<{name}>");
            (
                path.clone(),
                groups
                    .into_iter()
                    .filter(|name| path.contains(&mark(name)))
                    .collect(),
            )
        } else {
            (path.to_owned(), Vec::new())
        };
        let text = if mark.is_empty() {
            path
        } else {
            format!("{mark} {path}")
        };
        fates.carried(directive, "");
        collect(&inner, found, named, fates);
        found.push(Location {
            directive,
            scope: inner,
            text,
            groups,
            moved: None,
            tries: None,
        });
    }
}

/// Returns true if a directive of the location uses a group by its number.
fn uses_numbers(location: &Directive) -> bool {
    let args = location.children().iter().flat_map(|one| {
        let inner = one.children().iter().flat_map(|inner| &inner.args);
        one.args.iter().chain(inner)
    });
    let mut pieces = args.flat_map(|arg| pieces(arg));
    pieces.any(|piece| matches!(piece, Piece::Variable(name) if name.parse::<u8>().is_ok()))
}
