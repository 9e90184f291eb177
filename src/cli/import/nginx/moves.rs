//! Rewrites that lead to another location: `rewrite` with `last` and a fixed path, whose query may
//! have groups of the expression.

use regex::{Regex, escape};
use serde_json::{Value, json};

use super::{
    actions,
    locations::{Location, Moved, Tries},
    parse::Directive,
    report::Fates,
    scope::Scope,
    words::{Piece, pieces, plain},
};

/// Directives that keep requests out, or that a location has for its files.
const KEPT: [&str; 16] = [
    "access_by_lua_block",
    "alias",
    "allow",
    "auth_basic",
    "auth_jwt",
    "auth_request",
    "client_max_body_size",
    "deny",
    "if",
    "internal",
    "limit_conn",
    "limit_except",
    "limit_req",
    "proxy_pass",
    "return",
    "rewrite",
];

/// Note of the report on them.
pub(super) const NOTE: &str = "not for paths of exact and of `^~` locations; of a group, characters \
                               that mean something in a query are percent-encoded";

/// Directives of a location for which the path matters that the client asked for.
const OWN_PATH: [&str; 5] = ["return", "rewrite", "if", "alias", "try_files"];

/// Gives locations whose `try_files` ends at a named location with a backend the directives of that
/// one: with nginx they are what a request to the backend is subject to.
pub(super) fn follow_tries<'a>(
    found: &mut [Location<'a>],
    named: &[(String, Scope<'a>, &'a Directive)],
    fates: &mut Fates,
) {
    for location in found {
        let own = location.scope.own("try_files");
        let [tries] = own[..] else { continue };
        let name = tries.args.last().and_then(|last| last.strip_prefix('@'));
        let mut named = named.iter();
        let target = named.find(|(known, ..)| Some(known.as_str()) == name);
        let Some((_, scope, _)) = target else {
            continue;
        };
        let is_kept = KEPT.iter().any(|name| !location.scope.own(name).is_empty());
        if is_kept || scope.own("proxy_pass").is_empty() {
            continue;
        }
        location.tries = Some(if let Some(files) = first(tries, &location.scope, fates) {
            Tries::First(files)
        } else {
            let note = "files are not looked up first: every request goes to the backend";
            fates.lost(tries, note);
            Tries::Lost
        });
        location.scope = scope.clone();
    }
}

/// Returns the files that `tries` looks up first, in the scope of its location; `None` if they have
/// no counterpart.
fn first(tries: &Directive, scope: &Scope<'_>, fates: &mut Fates) -> Option<Value> {
    let (_, places) = tries.args.split_last()?;
    let has = |place: &str| places.iter().any(|one| one == place);
    if !has("$uri") || !places.iter().all(|one| ["$uri", "$uri/"].contains(&&**one)) {
        return None;
    }
    let directive = scope.one("root")?;
    let mut files = json!({
        "root": plain(directive.arg(0))?,
        "index": [],
        "dot_files": true,
    });
    if has("$uri/") {
        let names = scope.one("index");
        let names: Vec<&String> = names.iter().flat_map(|names| &names.args).collect();
        if names.iter().any(|name| name.contains(['/', '$'])) {
            return None;
        }
        match names[..] {
            [] => files["index"] = json!(["index.html"]),
            _ => files["index"] = json!(names),
        }
        fates.changed(
            tries,
            "a folder without its slash, or without an index, goes to the backend",
        );
    }
    if scope.one("if_modified_since").map(|dates| dates.arg(0)) != Some("before") {
        files["if_modified_since"] = "exact".into();
    }
    fates.changed(
        tries,
        "files have the headers of the named location; its addresses and passwords hold for them too",
    );
    fates.changed(directive, actions::OF_FILES);
    Some(files)
}

/// Returns the location that a `rewrite` of a server leads to; `later` are those after it.
pub(super) fn of_server<'a>(
    directive: &Directive,
    later: &[&Directive],
    found: &[Location<'a>],
) -> Result<Location<'a>, String> {
    let moved = moved(directive)?;
    let goes_on = directive.arg(2).is_empty();
    let is_again =
        |one: &&Directive| Regex::new(one.arg(0)).is_ok_and(|own| own.is_match(&moved.path));
    if goes_on && later.iter().any(is_again) {
        return Err("a later `rewrite` takes the new path".to_owned());
    }
    lead(moved, found)
}

/// Returns the locations that a `rewrite` of another one leads to.
pub(super) fn of_locations<'a>(found: &[Location<'a>], fates: &mut Fates) -> Vec<Location<'a>> {
    let mut all = Vec::new();
    for location in found {
        let own = location.scope.own("rewrite");
        let [directive] = own[..] else { continue };
        if !["", "last"].contains(&directive.arg(2)) || !location.text.starts_with('/') {
            continue;
        }
        let is_within = directive
            .arg(0)
            .starts_with(&format!("^{}", escape(&location.text)));
        let is_alone = |other: &Location<'_>| {
            other.text == location.text
                || !other
                    .text
                    .trim_start_matches("^~ ")
                    .trim_start_matches("= ")
                    .starts_with(&location.text)
        };
        if !is_within || !found.iter().all(is_alone) || !location.scope.own("if").is_empty() {
            continue;
        }
        if let Ok(location) = moved(directive).and_then(|moved| lead(moved, found)) {
            fates.changed(directive, NOTE);
            all.push(location);
        }
    }
    all
}

/// Reads a rewrite to a fixed path.
fn moved(directive: &Directive) -> Result<Moved, String> {
    if !["", "last", "break"].contains(&directive.arg(2)) {
        return Err("this rewrite has no counterpart here".to_owned());
    }
    let with = directive.arg(1);
    let (path, query) = with.split_once('?').unwrap_or((with, ""));
    let is_fixed = path.starts_with('/') && !path.contains(['$', '{']);
    if !is_fixed {
        return Err("only a rewrite to a fixed path, and to a query, has a counterpart".to_owned());
    }
    let query = expanded(query).ok_or("a variable of it has no counterpart")?;
    if Regex::new(directive.arg(0)).is_err() {
        return Err("its expression has no counterpart".to_owned());
    }
    let mark = if with.contains('?') { "?" } else { "" };
    Ok(Moved {
        regex: whole(directive.arg(0)),
        path: path.to_owned(),
        query: format!("{mark}{query}"),
        text: String::new(),
    })
}

/// Returns a replacement with its groups as the gateway writes them.
pub(super) fn expanded(text: &str) -> Option<String> {
    let mut out = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(&text.replace('$', "$$")),
            Piece::Variable(name) if name.parse::<u8>().is_ok() => {
                out.extend(["${", &name, "}"]);
            }
            Piece::Variable(_) => return None,
        }
    }
    (!out.contains(['#', '\\', ' '])).then_some(out)
}

/// Returns an expression that matches the whole path: nginx replaces all of it.
pub(super) fn whole(regex: &str) -> String {
    let begins = regex.starts_with('^');
    let ends = regex.ends_with('$') && !regex.ends_with("\\$");
    if regex.contains('|') {
        let (named, after) = (
            if begins { "" } else { "^.*?" },
            if ends { "" } else { ".*$" },
        );
        return format!("{named}(?:{regex}){after}");
    }
    match (begins, ends) {
        (true, true) => regex.to_owned(),
        (true, false) => format!("{regex}.*$"),
        (false, true) => format!("^.*?{regex}"),
        (false, false) => format!("^.*?{regex}.*$"),
    }
}

/// Returns the location of the new path, as one that the expression leads to.
fn lead<'a>(moved: Moved, found: &[Location<'a>]) -> Result<Location<'a>, String> {
    const WHY: &str = "the location of the new path has no counterpart here";
    let takes = |location: &Location<'_>| {
        let regex = location
            .text
            .strip_prefix("~* ")
            .map(|regex| format!("(?i){regex}"))
            .or_else(|| location.text.strip_prefix("~ ").map(str::to_owned));
        regex.is_some_and(|regex| Regex::new(&regex).map_or(true, |own| own.is_match(&moved.path)))
    };
    if found.iter().any(takes) {
        return Err("a regular expression takes the new path".to_owned());
    }
    let exact = format!("= {}", moved.path);
    let prefix = |location: &&Location<'_>| {
        let prefix = location.text.trim_start_matches("^~ ");
        prefix.starts_with('/') && moved.path.starts_with(prefix)
    };
    let longest = found
        .iter()
        .filter(prefix)
        .max_by_key(|location| location.text.trim_start_matches("^~ ").len());
    let target = found
        .iter()
        .find(|location| location.text == exact)
        .or(longest)
        .ok_or(WHY)?;
    let scope = &target.scope;
    if OWN_PATH.iter().any(|name| !scope.own(name).is_empty()) {
        return Err(WHY.to_owned());
    }
    let text = target
        .text
        .trim_start_matches("^~ ")
        .trim_start_matches("= ")
        .to_owned();
    Ok(Location {
        directive: target.directive,
        scope: scope.clone(),
        text: format!("~ {}", moved.regex),
        groups: Vec::new(),
        moved: Some(Moved { text, ..moved }),
        tries: None,
    })
}
