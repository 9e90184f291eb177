//! Actions of locations: `proxy_pass`, and what other modules would do.

use std::slice;

use edgeway_base::host::host_of;
use serde_json::{Map, Value, json};

use super::{
    conditions,
    directives::listed,
    locations::{CLOSED, INTERNAL, Location, Place, Routes},
    output::put,
    parse::Directive,
    rewrites,
    scope::Scope,
    sent_as, tables,
    upstreams::{self, Destination, timeouts},
    variables::{At, MAX_CHAIN, add, expression, value},
    words::{encoded, plain, spelled},
};

/// Destination of `proxy_pass`, and what else it says.
struct Pass {
    to: Destination,
    /// Lookup table that chooses among several upstreams.
    by_table: Option<String>,
    /// `Host` of the upstream.
    host: String,
    /// New path and query, with placeholders, in place of the request's own.
    with: Option<String>,
    /// Value without which the request keeps its own.
    only_if: Option<String>,
}

/// Returns a directive of this name that a block has itself, or that the block of an `if` has from
/// its location.
pub(super) fn handler<'a>(scope: &Scope<'a>, name: &str) -> Option<&'a Directive> {
    let direct = scope.own(name).first().copied();
    let is_block = scope.owner().is_some_and(|owner| owner.name != "location");
    let location = scope.location().filter(|_| is_block);
    direct.or_else(|| location?.children().iter().find(|one| one.name == name))
}

impl<'a> Routes<'a, '_> {
    /// Translates `internal`, for a location that does what `keys` say. `has_rules`: it has rules too.
    pub(super) fn internal(
        place: &Place<'_, 'a>,
        scope: &Scope<'a>,
        has_rules: bool,
        keys: &mut Map<String, Value>,
    ) {
        let Some(directive) = scope.one("internal") else {
            return;
        };
        keys.insert(INTERNAL.to_owned(), true.into());
        let passes = keys.contains_key("upstream");
        match keys.get_mut("files") {
            // Nothing but a file is looked for: what nginx asks first would not be asked.
            Some(_) if has_rules || has_other_guards(place, scope) => directive.weaker(
                "`X-Accel-Redirect` gets 404 here, since the rules and guards here are not those of \
                 each location with `proxy_pass`",
            ),
            Some(files) => {
                files["internal"] = json!([upstreams::SENDERS]);
                directive.changed(
                    "`X-Accel-Redirect` of all upstreams leads here; the file has headers, `expires` \
                     and error pages of the location whose app sent it, not those from here",
                );
            }
            None if passes => directive.changed("`X-Accel-Redirect` leads to files only"),
            None => directive.carried(""),
        }
    }

    /// Returns the keys of what a location does: files, an upstream, a response.
    pub(super) fn action(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
    ) -> Map<String, Value> {
        let scope = &location.scope;
        if let Some(directive) = listed("foreign").find_map(|name| handler(scope, name)) {
            directive.closed("this gateway speaks HTTP to its backends");
            return shut();
        }
        // Status without the module: of nginx without the server that it passes to, or of no file.
        let without = |status: u16| Map::from_iter([("respond".to_owned(), json!(status))]);
        if let Some(directive) = listed("other protocols").find_map(|name| handler(scope, name)) {
            directive.missing("this gateway speaks HTTP to its backends: 502 until you replace it");
            return without(502);
        }
        if let Some(directive) = listed("pages of nginx").find_map(|name| handler(scope, name)) {
            directive.missing("has no counterpart: 404 until you replace it");
            return without(404);
        }
        if let Some(pass) = handler(scope, "proxy_pass") {
            return self.pass(pass, location);
        }
        self.files(place, location)
    }

    fn pass(&mut self, pass: &'a Directive, location: &Location<'a>) -> Map<String, Value> {
        let scope = &location.scope;
        let mut without = scope.nearest("proxy_pass_request_headers").into_iter();
        if let Some(without) = without.find(|one| one.arg(0) == "off") {
            without.closed("the backend would get the client's cookies and credentials");
            return shut();
        }
        let Some(read) = self.destination(pass, scope) else {
            pass.closed("a destination with these variables has no counterpart");
            return shut();
        };
        let (to, by_table, with) = (read.to, read.by_table, read.with);
        let Some(name) = self.upstreams.name(&to, pass, scope) else {
            pass.closed("nothing says what name the certificate of the backend is for: write `proxy_ssl_name`");
            return shut();
        };
        pass.carried("");
        for tries in scope.own("try_files") {
            tries.weaker("the backend gets requests without a file too");
        }
        let mut keys = Map::from_iter([("upstream".to_owned(), Value::from(name))]);
        put(&mut keys, "upstream_by", by_table);
        Self::host_header(read.host, scope, &mut keys);
        let prefix = location.path();
        let mut inner = scope.innermost().iter();
        // A path that chooses the location again is replaced there.
        let is_kept = inner.any(|one| {
            let all = rewrites_of(slice::from_ref(one));
            one.name != "location" && all.iter().any(|one| one.arg(2) == "break")
        });
        if let Some(with) = with.as_ref().filter(|with| with.ends_with("{path}")) {
            keys.insert("rewrite".to_owned(), json!({ "with": with }));
        } else if let Some(with) = with {
            let mut rule = Map::from_iter(read.only_if.map(|one| ("if".to_owned(), one.into())));
            rule.insert("regex".to_owned(), Value::Null);
            rule.insert("with".to_owned(), with.into());
            rule.insert("then".to_owned(), "stop".into());
            keys.insert(REWRITE.to_owned(), rule.into());
        } else if let (Some(path), Some(prefix)) = (&to.path, prefix)
            && (path != prefix || is_kept)
        {
            let (key, value) = replaced(prefix, path, is_kept, pass);
            keys.insert(key.to_owned(), value);
        }
        let headers = scope.nearest("proxy_set_header").into_iter();
        let upgrade = { headers }.find(|one| one.arg(0).eq_ignore_ascii_case("upgrade"));
        let websocket = match upgrade {
            Some(upgrade) => {
                upgrade.carried("");
                true.into()
            }
            None => "ignore".into(),
        };
        keys.insert("websocket".to_owned(), websocket);
        if let Some(version) = scope.one("proxy_http_version")
            && version.arg(0) == "2"
        {
            version
                .lost("HTTP/1.1; write `protocol: h2` in its upstream, if its clients may need it");
        }
        put(&mut keys, "timeouts", timeouts(scope));
        put(
            &mut keys,
            "upstream_request",
            sent_as::upstream_request(scope),
        );
        let has_variables = plain(pass.arg(0)).is_none();
        let rules = rewrites::rules((&to, has_variables), prefix, scope);
        keys.insert("response_rewrite".to_owned(), rules);
        for one in scope.nearest("proxy_set_header") {
            if one.arg(0).eq_ignore_ascii_case("connection") {
                one.carried("connections are kept, and upgrades pass where they are allowed");
            }
        }
        keys
    }

    /// Reads the destination of a `proxy_pass`; `None` if it has no counterpart.
    fn destination(&mut self, pass: &'a Directive, scope: &Scope<'a>) -> Option<Pass> {
        let url = pass.arg(0);
        let fixed = |to: Destination| Pass {
            host: to.host(),
            to,
            by_table: None,
            with: None,
            only_if: None,
        };
        if let Some(url) = plain(url) {
            let to = Destination::parse(&url);
            // nginx sends a target without a slash.
            let has_path =
                |to: &Destination| to.path.as_deref().is_none_or(|path| path.starts_with('/'));
            return to.filter(has_path).map(fixed);
        }
        let location = scope.location().and_then(expression);
        let regex = location.as_ref().map(|(_, regex)| regex.as_str());
        let at = At::request(scope);
        let text = value(url, at.with_groups(regex))?;
        let (text, rest) = match text.strip_prefix("http") {
            Some(_) => {
                let start = text.find("://")? + 3;
                let end = text[start..]
                    .find(['/', '?'])
                    .map_or(text.len(), |at| at + start);
                // `$host$request_uri` and `$host$uri` have no slash between the two.
                let path = ["{uri}", "{path.decoded}"].map(|path| text[start..].find(path));
                let path = path.into_iter().flatten().min();
                let end = path.map_or(end, |path| end.min(path + start));
                (text[..end].to_owned(), text[end..].to_owned())
            }
            None => (text, String::new()),
        };
        let server = scope.server().map(Directive::children);
        let rewrites = server.map(rewrites_of).unwrap_or_default();
        let location_block = scope.location().map(Directive::children);
        let within = location_block.map(rewrites_of).unwrap_or_default();
        // Those of other locations lead here unless they end there.
        let gets_here = |one: &&Directive| {
            one.arg(2) != "break" || within.iter().any(|known| known.id == one.id)
        };
        let coming: Vec<&Directive> = rewrites.into_iter().filter(gets_here).collect();
        if rest == "{uri}" && !coming.is_empty() {
            pass.changed("`%2F` of `$request_uri` reaches the backend as `/`");
        }
        if rest.contains("{uri}") && coming.iter().any(|one| one.arg(1).contains('?')) {
            return None;
        }
        let with = uri_of(&rest, regex, !coming.is_empty(), (pass, scope))?;
        if !text.contains('{') {
            let to = Destination::parse(&text)?;
            return Some(Pass { with, ..fixed(to) });
        }
        let (scheme, table) = match text.split_once("{map.") {
            Some((scheme, rest)) => (scheme.to_owned(), rest.strip_suffix('}')?.to_owned()),
            None => return None,
        };
        // With `http://app?query`, nginx sends `/?query`; with nothing behind the name, the whole target.
        if let Some(to) = Destination::parse(&scheme).filter(|to| !to.authority.is_empty())
            && rest.is_empty()
            && coming.is_empty()
            && tables::is_query(&table, scope)
        {
            return Some(Pass {
                with: Some("/".to_owned()),
                only_if: Some(format!("{{map.{table}}}")),
                ..fixed(to)
            });
        }
        let results = tables::results(&table, scope, MAX_CHAIN)?;
        let (mut names, mut hosts) = (Map::new(), Map::new());
        let mut first = None;
        for result in &results {
            let to = Destination::parse(&format!("{scheme}{result}"))?;
            if to.path.is_some() {
                return None;
            }
            let name = self.upstreams.name(&to, pass, scope)?;
            names.insert(result.clone(), name.into());
            hosts.insert(result.clone(), to.host().into());
            first.get_or_insert(to);
        }
        let chosen = |name: &str, values: Map<String, Value>| {
            let from = format!("{{map.{table}}}");
            if values.iter().all(|(result, value)| value == result) {
                return from;
            }
            let value = json!({ "from": from, "values": values });
            add(&format!("{name}.{}", pass.line), pass.place(), value, scope)
        };
        Some(Pass {
            by_table: Some(chosen("upstream", names)),
            host: chosen("host", hosts),
            with,
            ..fixed(first?)
        })
    }

    /// Translates the `Host` that a backend gets: `usual`, unless a directive says otherwise.
    fn host_header(usual: String, scope: &Scope<'a>, keys: &mut Map<String, Value>) {
        let headers = scope.nearest("proxy_set_header").into_iter();
        let written = { headers }.find(|one| one.arg(0).eq_ignore_ascii_case("host"));
        let is_host = |text: &String| {
            let host = host_of(text.as_bytes());
            text.contains('{') || host.is_ok_and(|host| !host.is_empty())
        };
        let host = match written.map_or("$proxy_host", |one| one.arg(1)) {
            "$proxy_host" => Some(usual),
            text => tables::header(text, scope).filter(is_host),
        };
        if let Some(written) = written {
            match host {
                Some(_) => written.carried(""),
                None => written.lost("the backend gets `Host` as the client sent it"),
            }
        }
        let host = match host.as_deref() {
            None | Some("{host}") => return,
            Some("{host.name}") => "name".to_owned(),
            // As `host_header` these are words.
            Some(word @ ("backend" | "name" | "sent")) => {
                let value = json!({ "from": "", "values": { "": word } });
                add(&format!("host.{word}"), word.to_owned(), value, scope)
            }
            Some(host) => host.to_owned(),
        };
        keys.insert("host_header".to_owned(), host.into());
    }

    /// Returns the keys of a location whose conditions are about the request's own file; `None` if it
    /// has none.
    pub(super) fn by_file(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
        behind: &'a [Directive],
    ) -> Option<Map<String, Value>> {
        let scope = &location.scope;
        let of_file = |one| Some((conditions::of_own_file(one)?, one));
        let all: Vec<_> = scope.own("if").into_iter().filter_map(of_file).collect();
        let (mut there, mut missing, mut folders) = (None, None, false);
        for ((is_negated, kind), directive) in all.iter().copied() {
            let mut others = all.iter().filter(|((other, _), _)| *other == is_negated);
            if others.any(|((_, other), _)| *other != "-d") {
                directive.carried("");
            } else {
                directive.changed("a file counts as well, not only a folder");
            }
            for inner in directive.children() {
                match inner.name.as_str() {
                    "break" | "set" => inner.carried(""),
                    "if" | "return" | "rewrite" if !is_negated => {
                        directive.closed("a rule for existing files has no counterpart");
                        return Some(shut());
                    }
                    _ => {}
                }
            }
            folders |= kind != "-f";
            let which = if is_negated { &mut missing } else { &mut there };
            which.get_or_insert(directive);
        }
        let directive = missing.or(there)?;
        let behind_own = scope
            .innermost()
            .iter()
            .skip_while(|one| one.id != directive.id);
        let mut behind_own = behind_own.skip(1).filter(|_| missing.is_some());
        let is_rule = |one: &Directive| {
            one.name == "rewrite" || one.name == "if" && conditions::of_own_file(one).is_none()
        };
        let is_other = |one: &Directive| one.name == "try_files" && one.arg(0) != "$uri";
        if behind_own
            .clone()
            .any(|one| one.name == "return" || is_other(one))
        {
            directive.closed("what stands behind it has no counterpart");
            return Some(shut());
        }
        if behind_own.any(is_rule) {
            directive.changed("rules behind it come first");
        }
        let inner = |directive| Location::new(directive, scope.inner(directive), &location.text);
        let nested = there.map(inner);
        let block = nested.as_ref().unwrap_or(location);
        let is_passed = handler(&block.scope, "proxy_pass").is_some();
        let mut rules = self.rules(behind, (place, scope));
        let without = missing.map(inner);
        if let Some(block) = &without {
            let for_missing = self.rules(block.scope.innermost(), (place, &block.scope));
            let is_behind = behind.iter().any(|one| one.id == block.directive.id);
            rules = if is_behind {
                rules.then(for_missing)
            } else {
                for_missing.then(rules)
            };
        }
        let mut rest = if rules.is_end {
            Map::from_iter([("respond".to_owned(), json!(404))])
        } else {
            // What stands beside the condition is for what is no file.
            self.keys(place, without.as_ref().unwrap_or(location))
        };
        if rules.is_closed {
            rest.insert(CLOSED.to_owned(), true.into());
        }
        put(&mut rest, "rules", rules.list);
        if is_passed {
            directive.closed("a backend for existing files has no counterpart");
            return Some(shut());
        }
        let mut keys = self.keys(place, block);
        if let Some(files) = keys.get_mut("files") {
            let name = self.free_name(&format!("if-{}", directive.line));
            let mut paths = vec!["{path.decoded}"];
            paths.extend(folders.then_some("{path.decoded}/"));
            files["try"] = json!(paths);
            files["otherwise"] = json!({ "route": name });
            self.push_named(&name, &rest, &directive.place());
        }
        Some(keys)
    }
}

/// Returns true if a location keeps requests out that reach an app of its server.
fn has_other_guards(place: &Place<'_, '_>, scope: &Scope<'_>) -> bool {
    let others = place.locations.iter().map(|one| &one.scope);
    let mut apps = others
        .chain(place.named.iter().map(|one| &one.scope))
        .filter(|one| handler(one, "proxy_pass").is_some());
    let guards = guards(scope);
    apps.any(|app| {
        let theirs = self::guards(app);
        guards.iter().any(|guard| !theirs.contains(guard))
    })
}

/// Returns the directives that keep requests out of a location.
fn guards(scope: &Scope<'_>) -> Vec<usize> {
    const GUARDS: [&[&str]; 6] = [
        &["allow", "deny"],
        &["auth_basic"],
        &["auth_request"],
        &["limit_conn"],
        &["limit_req"],
        &["satisfy"],
    ];
    let all = GUARDS.iter().flat_map(|names| scope.nearest_of(names));
    all.map(|guard| guard.id).collect()
}

/// Returns the `rewrite` directives of a block that redirect nobody, those within it included.
fn rewrites_of(block: &[Directive]) -> Vec<&Directive> {
    let all = block.iter().flat_map(|one| match one.name.as_str() {
        "rewrite" if ["permanent", "redirect"].contains(&one.arg(2)) => Vec::new(),
        "rewrite" => vec![one],
        _ => rewrites_of(one.children()),
    });
    all.collect()
}

/// Note on a query.
const OF_QUERY: &str = "what becomes a part of the query is percent-encoded where a character has a \
    meaning there";

/// Returns the key and the value that put the path of a destination in place of that of a location.
fn replaced(prefix: &str, path: &str, is_kept: bool, pass: &Directive) -> (&'static str, Value) {
    if !is_kept && !path.contains('?') {
        let regex = format!("^{}", spelled(prefix));
        let with = encoded(path).replace('$', "$$");
        return ("rewrite", json!({ "regex": regex, "with": with }));
    }
    // Of a path that a rule before has changed, nothing is replaced, and of any other one the decoded
    // path is sent, even if it stays.
    let regex = format!("(?s)^{}(.*)$", regex::escape(prefix));
    let with = if path.contains('?') {
        // What follows in the target belongs to the query.
        pass.changed(OF_QUERY);
        format!("{}{{group.1}}{{query_mark}}{{query|raw}}?", encoded(path))
    } else {
        format!("{path}{{group.1}}")
    };
    ("rules", json!([{ "regex": regex, "with": with }]))
}

/// Returns the new path of a destination with variables: empty for none, `None` if it has no
/// counterpart.
#[expect(clippy::option_option, reason = "an error, none, or a path")]
fn uri_of(
    rest: &str,
    regex: Option<&str>,
    is_rewritten: bool,
    (pass, scope): (&Directive, &Scope<'_>),
) -> Option<Option<String>> {
    let rest = match rest.strip_prefix('?') {
        Some(query) => &format!("/?{query}"),
        None => rest,
    };
    match rest {
        "" | "{path.decoded}{query_mark}{query}" => return Some(None),
        "{uri}" if !is_rewritten => return Some(None),
        _ if !rest.starts_with(['/', '{']) => return None,
        _ => {}
    }
    let whole = match rest.split_once("{uri}") {
        // The path that no rule has changed keeps its encoded slashes.
        Some((before, "")) if !is_rewritten && !before.contains(['{', '?']) => {
            return Some(Some(format!("{}{{path}}", encoded(before))));
        }
        // Within a query, the target stays as it was sent.
        Some((before, after)) if before.contains('?') && !after.contains("{uri}") => {
            &rest.replace("{uri}", "{uri|raw}")
        }
        // No rewrite has changed the query, which the caller checks.
        Some((before, "")) => &format!("{before}{{path.sent}}{{query_mark}}{{query}}"),
        Some(_) => return None,
        None => rest,
    };
    let all = "{query_mark}{query}";
    let (path, with) = match whole.split_once('?') {
        None => match whole.strip_suffix(all) {
            Some(path) => (path, path.to_owned()),
            None => (whole, format!("{whole}?")),
        },
        Some((path, "{query}")) => (path, path.to_owned()),
        Some((path, query)) => {
            let encoded = ["{cookie.", "{group.", "{header.", "{path.", "{proxy."];
            if encoded.iter().any(|begin| query.contains(begin)) {
                pass.changed(OF_QUERY);
            }
            let query = query.replace("{query}", "{query|raw}");
            (path, format!("{path}?{query}?"))
        }
    };
    let is_known = !with.contains("{group.") || regex.is_some();
    (is_known && !tables::is_of_client(path, scope, MAX_CHAIN)).then_some(Some(with))
}

/// Key of a rule with a new path and without its expression, which no route has.
pub(super) const REWRITE: &str = "with";

pub(super) fn shut() -> Map<String, Value> {
    Map::from_iter([
        ("respond".to_owned(), json!(503)),
        (CLOSED.to_owned(), true.into()),
    ])
}
