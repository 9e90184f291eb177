//! Directives that need no counterpart, or that have none for a known reason; and what differs
//! without any directive.

use super::{
    parse::Directive,
    report::{Fate, Fates},
};

/// Differences for which no directive stands. A word of each is the name of the difference.
pub(super) const GENERAL: [&str; 14] = [
    "security headers: the same as with nginx; `security_headers: helmet` in `defaults` adds the \
     usual ones, which then need no `add_header` line",
    "dot segments: backends get a path with its dot segments resolved, and segments above the root \
     are dropped; encoded ones (`%2e%2e`) get 400",
    "duplicate slashes: backends get a path with one slash for several; `merge_slashes: false` \
     keeps them",
    "percent-encoding: backends get a path in its normal form, `%61` as `a` and `%2f` as `%2F`; a \
     `?` without a query is passed on, even if `proxy_pass` has the path of the location",
    "strict requests: a request that two programs could read differently gets 400, for example \
     with two hosts, a bare LF, `#` or raw bytes beyond ASCII in the target, `%5c` or `%00`; this \
     400 has only those headers of `add_header` that the default servers of all listeners share \
     and that have no variables; `OPTIONS *` is passed on",
    "ids: backends get `X-Request-Id` and `traceparent`; `request_id: false` in `defaults` removes \
     them",
    "no response has `Server`, neither the gateway's own nor a backend's",
    "forwarding headers: backends get `X-Real-IP`, `X-Forwarded-For`, `X-Forwarded-Proto`, \
     `X-Forwarded-Host` and `X-Forwarded-Port`; a client's headers of these and similar names are \
     removed, unless the client is in `trusted_proxies`",
    "`Cache-Control: no-store` is on the gateway's own errors, which have its own pages",
    "keep-alive: after a response of the gateway itself, or a stored one, the connection is closed \
     if the request's body has not arrived completely and has more than 1 MiB, no length, or \
     `Expect: 100-continue`",
    "405 of files has `Allow`",
    "`Expect: 100-continue` is passed to backends",
    "spelling: rules that protect a path protect its other spellings too (`/ADMIN`, `/admin%2F`); \
     these get the headers of that location if both lead to the same upstream; `spelling: exact` \
     of a route switches that off",
    "an HTTP/1.0 request without `Host` has no host, and redirects to a URL need one; `Location` \
     of a redirect to a path is that path",
];

/// Directives that have a counterpart, those whose meaning changes in a known way, and those that
/// need none.
const DIRECTIVES: &str = include_str!("directives.txt");

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

/// Returns the settings that the gateway needs none for.
fn needless() -> impl Iterator<Item = &'static str> {
    section("needless").flat_map(str::split_whitespace)
}

/// Marks directives that nothing has read.
pub(super) fn mark_rest(all: &[Directive], fates: &mut Fates) {
    for directive in all {
        if !fates.has(directive) {
            rest(directive, fates);
        }
        mark_rest(directive.children(), fates);
    }
}

fn rest(directive: &Directive, fates: &mut Fates) {
    let name = directive.name.as_str();
    if needless().any(|known| known == name) {
        fates.carried(directive, "has no counterpart and needs none");
        if name == "events" {
            for inner in directive.children() {
                fates.carried(inner, "has no counterpart and needs none");
            }
        }
        return;
    }
    if let Some((_, note)) = counterparts("changed").find(|(known, _)| *known == name) {
        // The two variables of every map for WebSockets are not needed.
        let is_upgrade = name == "map" && directive.arg(0) == "$http_upgrade";
        let fate = if is_upgrade {
            Fate::Carried
        } else {
            Fate::Changed
        };
        let fate = if matches!(name, "map" | "geo" | "split_clients") && !is_upgrade {
            Fate::NotCarried
        } else {
            fate
        };
        let note = match fate {
            Fate::Carried => "not needed: `websocket: true` passes upgrades",
            Fate::NotCarried => "the directives that use it were not carried over",
            Fate::Changed => note,
        };
        fates.mark(directive, fate, note);
        if matches!(name, "map" | "geo" | "split_clients" | "types") {
            for entry in directive.children() {
                fates.mark(entry, fate, note);
            }
        }
        return;
    }
    if counterparts("handled").any(|(known, _)| known == name) && directive.block.is_none() {
        fates.carried(
            directive,
            "without effect: no carried-over directive uses it",
        );
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
        let needless: Vec<String> = needless().map(|name| format!("`{name}`")).collect();
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
        let mut all: Vec<&str> = with.map(|(name, _)| name).chain(needless()).collect();
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
