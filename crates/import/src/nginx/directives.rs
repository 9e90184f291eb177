//! Directives that need no counterpart, or that have none for a known reason; and what differs
//! without any directive.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use super::{
    parse::Directive,
    report::Fate,
    tables,
    words::{Piece, pieces},
};

/// Directives that have a counterpart, those whose meaning changes in a known way, those that need
/// none, and others that have something in common: handlers of protocols that this gateway does not
/// speak, protections of other modules, what runs as rules, what protects requests or data, what is
/// to be looked at by hand, and files beside the configuration instead of below nginx' prefix.
const DIRECTIVES: &str = include_str!("directives.txt");

/// Names below each heading: each directive of a file is looked up several times.
static LISTED: LazyLock<HashMap<&str, HashSet<&str>>> = LazyLock::new(|| {
    let headings = DIRECTIVES
        .lines()
        .filter_map(|line| line.strip_prefix("# "));
    let names = headings.map(|heading| (heading, listed(heading).collect()));
    names.collect()
});

/// Returns the lines below a heading of the list.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    let mut lines = DIRECTIVES.lines();
    lines.find(|line| line.strip_prefix("# ") == Some(heading));
    lines.take_while(|line| !line.starts_with('#'))
}

/// Returns the directives below a heading, each with its counterpart.
fn counterparts(heading: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    section(heading).filter_map(|line| line.split_once(": "))
}

/// Returns the differences for which no directive stands. A word of each is the name of the
/// difference.
pub(super) fn general() -> impl Iterator<Item = &'static str> {
    section("general")
}

/// Returns the directives that a heading lists by their names alone.
pub(super) fn listed(heading: &str) -> impl Iterator<Item = &'static str> {
    section(heading).flat_map(str::split_whitespace)
}

/// Returns true if a heading lists the directive.
pub(super) fn is_listed(heading: &str, name: &str) -> bool {
    LISTED
        .get(heading)
        .is_some_and(|names| names.contains(name))
}

/// Marks the directives with a variable that `envsubst` fills in, as in the templates of container
/// images: nginx has none in capitals, and the configuration defines none of this name.
pub(super) fn mark_templates(all: &[Directive], whole: &[Directive]) {
    for directive in all {
        let is_capital = |name: &str| {
            let mut bytes = name.bytes();
            bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
                && name.contains(|c: char| c.is_ascii_uppercase())
        };
        let names = directive.args.iter().flat_map(|arg| pieces(arg));
        let mut names = names.filter_map(|piece| match piece {
            Piece::Variable(name) if is_capital(&name) => Some(name),
            _ => None,
        });
        if let Some(name) = names.find(|name| !is_defined(whole, name)) {
            directive.missing(&format!(
                "`${{{name}}}` is filled in by `envsubst`: import the file that it makes"
            ));
        }
        mark_templates(directive.children(), whole);
    }
}

/// Returns true if a directive defines a variable.
fn is_defined(all: &[Directive], name: &str) -> bool {
    all.iter().any(|one| {
        let is_it = matches!(&*one.name, "set" | "auth_request_set") || one.block.is_some();
        let group = format!("?<{name}>");
        let mut args = one.args.iter();
        args.any(|arg| is_it && arg.strip_prefix('$') == Some(name) || arg.contains(&group))
            || is_defined(one.children(), name)
    })
}

/// Marks the directives of a block that nothing has read.
pub(super) fn mark_rest(all: &[Directive], whole: &[Directive]) {
    for directive in all {
        if !directive.has_fate() {
            rest(directive, whole);
        }
        mark_rest(directive.children(), whole);
    }
}

/// Returns true if a directive other than a table's own one has a variable.
pub(super) fn has_variable(all: &[Directive], name: &str) -> bool {
    let is_it = |piece| piece == Piece::Variable(name.to_owned());
    all.iter().any(|one| {
        let is_own = tables::variable_of(one) == Some(name);
        let mut args = one.args[..one.args.len() - usize::from(is_own)].iter();
        args.any(|arg| pieces(arg).into_iter().any(is_it)) || has_variable(one.children(), name)
    })
}

fn rest(directive: &Directive, whole: &[Directive]) {
    let name = directive.name.as_str();
    // The caller knows which files were there.
    if name == "include" {
        return;
    }
    if is_listed("needless", name) {
        directive.carried("has no counterpart and needs none");
        if name == "events" {
            for inner in directive.children() {
                inner.carried("has no counterpart and needs none");
            }
        }
        return;
    }
    let written = format!("{name} {}", directive.arg(0));
    if section("usual").any(|usual| usual == written) {
        directive.carried("always so");
        return;
    }
    if let Some((_, note)) = counterparts("changed").find(|(known, _)| *known == name) {
        // The two variables of every map for WebSockets are not needed.
        let is_upgrade = name == "map" && directive.arg(0) == "$http_upgrade";
        let variable = tables::variable_of(directive);
        let is_unused = variable.is_some_and(|name| !has_variable(whole, name));
        let fate = match name {
            // No location has files, or else `media_types` would have read it.
            "types" => Fate::Carried,
            _ if is_upgrade || is_unused => Fate::Carried,
            "map" | "geo" | "split_clients" | "stub_status" => Fate::NotCarried,
            _ => Fate::Changed,
        };
        let note = match fate {
            Fate::Carried if name == "types" => "not needed: no location has files",
            Fate::Carried if is_unused => "not needed: nothing uses its variable",
            Fate::Carried => "not needed: `websocket: true` passes upgrades",
            Fate::NotCarried if name != "stub_status" => {
                "the directives that use it were not carried over"
            }
            Fate::NotCarried | Fate::Changed => note,
        };
        directive.mark(fate, note);
        if matches!(name, "map" | "geo" | "split_clients" | "types") {
            for entry in directive.children() {
                entry.mark(fate, note);
            }
        }
        return;
    }
    let is_open = directive.block.is_none() || name == "limit_except";
    if counterparts("handled").any(|(known, _)| known == name) && is_open {
        directive.carried("without effect: no carried-over directive uses it");
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use super::*;

    /// Writes the page's tables instead of comparing them.
    const WRITE: &str = "WRITE_NGINX_PAGE";
    const BEGIN: &str = "<!-- directives -->\n";
    const END: &str = "<!-- /directives -->\n";

    fn tables() -> String {
        let mut text = String::from("| directive | becomes |\n|---|---|\n");
        for (name, counterpart) in counterparts("handled") {
            let _ = writeln!(text, "| `{name}` | {counterpart} |");
        }
        text.push_str(
            "\nWith a changed meaning, or not at all:\n\n| directive | here |\n|---|---|\n",
        );
        for (name, note) in counterparts("changed") {
            let _ = writeln!(text, "| `{name}` | {note} |");
        }
        let needless: Vec<String> = listed("needless").map(|name| format!("`{name}`")).collect();
        let needless = needless.join(", ");
        let _ = writeln!(
            text,
            "\nThese directives have no counterpart and need none: {needless}."
        );
        text
    }

    #[test]
    fn the_page_has_the_tables_of_the_importer() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/from-nginx.md");
        let page = fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once(BEGIN).expect("the page marks its tables");
        let (own, after) = rest.split_once(END).expect("the page marks their end");
        if std::env::var_os(WRITE).is_some() {
            fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", tables())).unwrap();
            return;
        }
        assert_eq!(own, tables(), "run the test with {WRITE}=1");
    }

    #[test]
    fn a_directive_is_in_one_table() {
        let with = counterparts("handled").chain(counterparts("changed"));
        let mut all: Vec<&str> = with
            .map(|(name, _)| name)
            .chain(listed("needless"))
            .collect();
        assert!(all.len() > 150, "{all:?}");
        all.sort_unstable();
        let twice: Vec<&&str> = all
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| &pair[0])
            .collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
