//! Locations of a server: those within each other, and named ones.

use regex::escape;

use super::{locations::Location, parse::Directive, scope::Scope};

/// Named location.
pub(super) struct NamedLocation<'a> {
    /// Name without its `@`.
    pub(super) name: String,
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    /// Name of its route.
    pub(super) route: String,
}

/// Returns the locations of a block, those within others included: `within` are the texts of those
/// around it. `named` gets those with `@`.
pub(super) fn collect<'a>(
    scope: &Scope<'a>,
    within: &[String],
    locations: &mut Vec<Location<'a>>,
    named: &mut Vec<NamedLocation<'a>>,
) {
    for directive in scope.own("location") {
        let inner = scope.inner(directive);
        let (mark, path) = mark_and_path(directive);
        directive.carried("");
        if let Some(name) = path.strip_prefix('@') {
            named.push(NamedLocation {
                name: name.to_owned(),
                directive,
                scope: inner,
                route: String::new(),
            });
            continue;
        }
        let mut location = Location::new(directive, inner, format!("{mark} {path}").trim_start());
        location.within = within.to_vec();
        let mut alike = locations.iter().filter(|one| one.text.ends_with(path));
        let is_same = |one: &Location<'_>| match (one.path(), location.path()) {
            (Some(own), Some(path)) => {
                own == path && one.text.starts_with('=') == location.text.starts_with('=')
            }
            _ => one.text == location.text,
        };
        if alike.any(|one| one.within == within && is_same(one)) {
            directive.lost("another location beside it has this path");
            continue;
        }
        let is_in_regex = within.last().is_some_and(|outer| outer.starts_with('~'));
        if !mark.starts_with('~') && (is_in_regex || !is_normal(path)) {
            let end = if mark == "=" { "$" } else { "" };
            location.text = format!("~ ^{}{end}", escape(path));
            location.is_closed = true;
            let why = "a path with `%`, `?`, `//` or dot segments, or within an expression, has no \
                counterpart";
            directive.closed(why);
        } else {
            let around = [within, &[location.text.clone()]].concat();
            collect(&location.scope, &around, locations, named);
        }
        locations.push(location);
    }
}

/// Returns the mark of a location, such as `~`, and its path or expression.
pub(super) fn mark_and_path(location: &Directive) -> (&str, &str) {
    match &location.args[..] {
        [mark, path] => (mark, path),
        [one] => ["^~", "~*", "~", "="]
            .iter()
            .find_map(|mark| Some((*mark, one.strip_prefix(mark)?)))
            .unwrap_or(("", one)),
        _ => ("", ""),
    }
}

/// Returns true if requests can have this path once it is normalised and decoded.
fn is_normal(path: &str) -> bool {
    let mut segments = path.split('/');
    path.starts_with('/')
        && !path.contains(['%', '?'])
        && !path.contains("//")
        && !segments.any(|segment| segment == "." || segment == "..")
}

/// Returns the path of a location as its text has it; `None` for an expression.
pub(super) fn path_of(text: &str) -> Option<&str> {
    let path = text.trim_start_matches(['^', '~', '=']).trim_start();
    (!text.starts_with('~')).then_some(path)
}

/// Returns true if nginx never chooses a location with this text within others: of those beside the
/// others, one takes its path first.
pub(super) fn is_hidden(within: &[String], text: &str, all: &[Location<'_>]) -> bool {
    let path = path_of(text).or_else(|| within.iter().rev().find_map(|outer| path_of(outer)));
    let is_exact = text.starts_with('=');
    within.iter().enumerate().any(|(depth, outer)| {
        let mut beside = all.iter().filter(|one| one.within == within[..depth]);
        let (Some(path), Some(outer)) = (path, path_of(outer)) else {
            return false;
        };
        beside.any(|one| match one.path() {
            Some(own) if is_exact && own.strip_suffix('/') == Some(path) => one.adds_slash(),
            Some(own) if one.text.starts_with('=') => is_exact && own == path,
            Some(own) => own.len() > outer.len() && path.starts_with(own),
            None => false,
        })
    })
}
