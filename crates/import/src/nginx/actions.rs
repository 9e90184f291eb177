//! Actions of locations: `proxy_pass`, files, and what other modules would do.

use serde_json::{Map, Value, json};

use super::{
    locations::{CLOSED, INTERNAL, Location, Place, Routes},
    parse::Directive,
    rewrites,
    scope::Scope,
    sent_as, tables,
    upstreams::{self, Destination, timeouts},
    variables::{At, MAX_CHAIN, add, expression, value},
    words::{encoded, plain, spelled},
};

/// Handlers of other protocols, which this gateway does not speak.
const FOREIGN: [&str; 7] = [
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "memcached_pass",
    "grpc_pass",
    "content_by_lua_block",
    "js_content",
];

/// Destination of `proxy_pass`, and what else it says.
struct Pass {
    to: Destination,
    /// Lookup table that chooses among several upstreams.
    by_table: Option<String>,
    /// New path and query, with placeholders, in place of the request's own.
    with: Option<String>,
}

/// Returns a directive of this name that a block has itself, or that the block of an `if` has from
/// its location.
pub(super) fn handler<'a>(scope: &Scope<'a>, name: &str) -> Option<&'a Directive> {
    let own = scope.own(name).first().copied();
    let is_block = scope.owner().is_some_and(|owner| owner.name != "location");
    let location = scope.location().filter(|_| is_block);
    own.or_else(|| location?.children().iter().find(|one| one.name == name))
}

impl<'a> Routes<'a, '_> {
    /// Translates `internal`, for a location that does what `keys` say.
    pub(super) fn internal(scope: &Scope<'a>, keys: &mut Map<String, Value>) {
        if let Some(directive) = scope.one("internal") {
            keys.insert(INTERNAL.to_owned(), true.into());
            if let Some(files) = keys.get_mut("files") {
                files["internal"] = json!([upstreams::ALL]);
                directive.changed(
                    "`X-Accel-Redirect` of all upstreams leads here; the file has the headers of the \
                     location whose app sent it",
                );
            } else if keys.contains_key("upstream") {
                let note = "`X-Accel-Redirect` leads to files only";
                directive.changed(note);
            } else {
                directive.carried("");
            }
        }
    }

    /// Returns the keys of what a location does: files, an upstream, a response.
    pub(super) fn action(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
    ) -> Map<String, Value> {
        let scope = &location.scope;
        if let Some(directive) = FOREIGN.iter().find_map(|name| handler(scope, name)) {
            directive.closed("this gateway speaks HTTP to its backends");
            return shut();
        }
        if let Some(pass) = handler(scope, "proxy_pass") {
            return self.pass(pass, location);
        }
        self.files(place, location)
    }

    fn pass(&mut self, pass: &'a Directive, location: &Location<'a>) -> Map<String, Value> {
        let scope = &location.scope;
        let Some(read) = self.destination(pass, scope) else {
            pass.closed("a destination with these variables has no counterpart");
            return shut();
        };
        let Pass { to, by_table, with } = read;
        let Some(name) = self.upstreams.name(&to, pass, scope) else {
            pass.closed("nothing says what name the certificate of the backend is for: write `proxy_ssl_name`");
            return shut();
        };
        pass.carried("");
        let mut keys = Map::from_iter([("upstream".to_owned(), Value::from(name))]);
        if let Some(table) = &by_table {
            keys.insert("upstream_by".to_owned(), table.clone().into());
        }
        Self::host_header(&to, by_table.is_some(), scope, &mut keys);
        let prefix = location.path();
        let rewrites = scope.own("rewrite");
        let mut rewrites = rewrites.iter();
        let is_rewritten = rewrites.any(|one| !["permanent", "redirect"].contains(&one.arg(2)));
        if let Some(with) = with {
            keys.insert(REWRITE.to_owned(), with.into());
        } else if let (Some(path), Some(prefix)) = (&to.path, prefix)
            && path != prefix
        {
            if is_rewritten {
                // Of a path that a rule before has changed, nothing is replaced.
                let regex = format!("(?s)^{}(.*)$", regex::escape(prefix));
                let with = format!("{path}{{group.1}}");
                let rule = json!({ "regex": regex, "with": with });
                keys.insert("rules".to_owned(), json!([rule]));
            } else {
                let regex = format!("^{}", spelled(prefix));
                let with = encoded(path).replace('$', "$$");
                keys.insert(
                    "rewrite".to_owned(),
                    json!({ "regex": regex, "with": with }),
                );
            }
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
        if let Some(timeouts) = timeouts(scope) {
            keys.insert("timeouts".to_owned(), timeouts);
        }
        if let Some(sent) = sent_as::of(scope) {
            keys.insert("upstream_request".to_owned(), sent);
        }
        let has_variables = plain(pass.arg(0)).is_none();
        let rules = rewrites::of((&to, has_variables), prefix, scope);
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
        let fixed = |to| Pass {
            to,
            by_table: None,
            with: None,
        };
        if let Some(url) = plain(url) {
            return Destination::parse(&url).map(fixed);
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
        let rewrites = [scope.server(), scope.location()].into_iter().flatten();
        let mut rewrites = rewrites.flat_map(Directive::children);
        let is_in_part = rest.len() > "{uri}".len() && rest.contains("{uri}");
        if is_in_part && rewrites.any(|one| ["rewrite", "if"].contains(&&*one.name)) {
            return None;
        }
        let with = uri_of(&rest, regex)?;
        if !text.contains('{') {
            let to = Destination::parse(&text)?;
            return Some(Pass { with, ..fixed(to) });
        }
        let (scheme, table) = match text.split_once("{map.") {
            Some((scheme, rest)) => (scheme.to_owned(), rest.strip_suffix('}')?.to_owned()),
            None => return None,
        };
        let results = tables::results(&table, scope, MAX_CHAIN)?;
        let mut names = Map::new();
        let mut first = None;
        for result in &results {
            let to = Destination::parse(&format!("{scheme}{result}"))?;
            if to.path.is_some() {
                return None;
            }
            let name = self.upstreams.name(&to, pass, scope)?;
            names.insert(result.clone(), name.into());
            first.get_or_insert(to);
        }
        let is_as_named = names.iter().all(|(result, name)| name == result);
        let by_table = if is_as_named {
            format!("{{map.{table}}}")
        } else {
            let value = json!({ "from": format!("{{map.{table}}}"), "values": names });
            let comment = pass.place();
            let part = super::output::Part { comment, value };
            add(&format!("upstream.{}", pass.line), part, scope)
        };
        Some(Pass {
            by_table: Some(by_table),
            with,
            ..fixed(first?)
        })
    }

    /// Translates the `Host` that a backend gets.
    fn host_header(
        to: &Destination,
        is_chosen: bool,
        scope: &Scope<'a>,
        keys: &mut Map<String, Value>,
    ) {
        let headers = scope.nearest("proxy_set_header").into_iter();
        let written = { headers }.find(|one| one.arg(0).eq_ignore_ascii_case("host"));
        let host = match written.map(|one| one.arg(1)) {
            Some("$http_host") => None,
            Some("$host") => Some("name".to_owned()),
            None | Some("$proxy_host") => {
                if let Some(one) = written.filter(|_| is_chosen) {
                    one.changed("`$proxy_host` is that of the first upstream");
                }
                Some(match to.authority.strip_prefix("unix:") {
                    Some(_) => "localhost".to_owned(),
                    None => to.authority.clone(),
                })
            }
            Some(text) => {
                let Some(text) = tables::header(text, scope).filter(|text| !text.is_empty()) else {
                    if let Some(written) = written {
                        let note = "the backend gets `Host` as the client sent it";
                        written.lost(note);
                    }
                    return;
                };
                Some(text)
            }
        };
        if let Some(written) = written {
            written.carried("");
        }
        if let Some(host) = host {
            keys.insert("host_header".to_owned(), host.into());
        }
    }

    /// Returns the keys of a location whose conditions are about the request's own file; `None` if it
    /// has none.
    pub(super) fn by_file(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
    ) -> Option<Map<String, Value>> {
        let scope = &location.scope;
        let all = scope.own("if").into_iter();
        let all = all.filter_map(|one| Some((super::conditions::of_own_file(one)?, one)));
        let (mut there, mut missing, mut folders) = (None, None, false);
        for ((is_negated, has_folders), directive) in all {
            directive.carried("");
            for inner in directive.children() {
                if ["break", "set"].contains(&inner.name.as_str()) {
                    inner.carried("");
                }
            }
            folders |= has_folders;
            let which = if is_negated { &mut missing } else { &mut there };
            which.get_or_insert(directive);
        }
        if there.is_none() && missing.is_none() {
            return None;
        }
        let inner = |directive| Location::new(directive, scope.inner(directive), &location.text);
        let own = there.map(inner);
        let block = own.as_ref().unwrap_or(location);
        let is_passed = handler(&block.scope, "proxy_pass").is_some();
        let rest = match missing {
            Some(directive) => {
                let block = inner(directive);
                let rules = self.rules(place, &block.scope);
                let mut keys = if rules.is_end {
                    Map::from_iter([("respond".to_owned(), json!(404))])
                } else {
                    self.keys(place, &block)
                };
                if rules.is_closed {
                    keys.insert(CLOSED.to_owned(), true.into());
                }
                if !rules.list.is_empty() {
                    keys.insert("rules".to_owned(), rules.list.into());
                }
                Some((directive, keys))
            }
            // What stands beside the condition is for what is no file.
            None => there.map(|directive| (directive, self.keys(place, location))),
        };
        if is_passed {
            let (directive, _) = rest?;
            directive.closed("a backend for existing files has no counterpart");
            return Some(shut());
        }
        let mut keys = self.keys(place, block);
        if let (Some(files), Some((directive, rest))) = (keys.get_mut("files"), rest) {
            let name = self.free_name(&format!("if-{}", directive.line));
            let mut paths = vec!["{path.decoded}"];
            if folders {
                paths.push("{path.decoded}/");
            }
            files["try"] = json!(paths);
            files["otherwise"] = json!({ "route": name });
            self.push_named(&name, &rest, &directive.place());
        }
        Some(keys)
    }

    fn files(&mut self, place: &Place<'_, 'a>, location: &Location<'a>) -> Map<String, Value> {
        let scope = &location.scope;
        let alias = handler(scope, "alias");
        let root = alias.or_else(|| scope.one("root"));
        let path = root.and_then(|root| tables::header(root.arg(0), scope));
        let path = path.filter(|path| !path.contains('{'));
        let tries = handler(scope, "try_files");
        let (Some(root), Some(path)) = (root, path) else {
            return Self::without_root(place, location, tries);
        };
        root.changed(OF_FILES);
        let mut files = json!({
            "root": path, "dot_files": true, "symlinks": "follow", "reroute_index": true,
        });
        let dates = scope.one("if_modified_since");
        if let Some(dates) = dates {
            match dates.arg(0) {
                "off" => dates.lost("`If-Modified-Since` counts"),
                _ => dates.carried(""),
            }
        }
        if dates.map(|dates| dates.arg(0)) != Some("before") {
            files["if_modified_since"] = "exact".into();
        }
        if let Some(index) = scope.one("index") {
            let names = index.args.iter();
            let names: Vec<&String> = names
                .filter(|name| !name.contains(['/', '$']) && !name.is_empty())
                .collect();
            if names.len() == index.args.len() {
                index.carried("");
            } else {
                index.changed("without paths and variables");
            }
            files["index"] = json!(names);
        }
        if let Some(list) = scope.one("autoindex").filter(|list| list.is_on()) {
            list.lost("there are no listings of folders: 403");
        }
        let gzip = scope.one("gzip_static");
        if let Some(gzip) = gzip.filter(|gzip| gzip.arg(0) != "off") {
            gzip.carried("");
            files["precompressed"] = json!(["gzip"]);
        }
        self.media_types(scope, &mut files);
        if let Some(tries) = tries {
            Self::tries(tries, place, scope, &mut files);
        }
        let app = Self::page_of_app(place, scope).filter(|_| tries.or(alias).is_none());
        if let Some(route) = &app {
            files["try"] = json!(["{path.decoded}", "{path.decoded}/"]);
            files["otherwise"] = json!({ "route": route });
        }
        let mut keys = Map::from_iter([("files".to_owned(), files)]);
        if app.is_some() {
            // nginx asks the app only for what it would have sent itself.
            let methods = json!({ "allow": ["GET", "HEAD", "POST"], "status": 405 });
            keys.insert("methods".to_owned(), methods);
        }
        if alias.is_some() {
            let is_file = location.text.starts_with("= ");
            // Beside a folder without a slash, nginx serves files whose names begin with it.
            let is_known =
                |prefix: &&str| is_file || root.arg(0).ends_with('/') || !prefix.ends_with('/');
            let Some(prefix) = location.path().filter(is_known) else {
                root.closed("this `alias` has no counterpart");
                return shut();
            };
            let regex = spelled(prefix);
            let (regex, with) = if prefix.ends_with('/') {
                (format!("^{regex}"), "/".to_owned())
            } else if root.arg(0).ends_with('/') {
                root.changed(OF_SLASH);
                let to = format!("{}/{{query_mark}}{{query}}", encoded(prefix));
                let to_folder = json!({ "regex": format!("^{regex}$"), "status": 301, "to": to });
                keys.insert("rules".to_owned(), json!([to_folder]));
                (format!("^{regex}/"), "/".to_owned())
            } else {
                // What follows the prefix follows the name of the file or folder.
                let (folder, name) = root.arg(0).rsplit_once('/').unwrap_or(("/", ""));
                keys["files"]["root"] = if folder.is_empty() { "/" } else { folder }.into();
                let end = if is_file { "$" } else { "" };
                let with = format!("/{}", encoded(name).replace('$', "$$"));
                (format!("^{regex}{end}"), with)
            };
            keys.insert(
                "rewrite".to_owned(),
                json!({ "regex": regex, "with": with }),
            );
        }
        keys
    }

    /// Returns the route of the app that `error_page 404 = @app` asks for what is no file: it gets
    /// the body of the request.
    fn page_of_app<'s>(place: &Place<'s, 'a>, scope: &Scope<'a>) -> Option<&'s str> {
        let pages = scope.nearest("error_page");
        let page = pages
            .iter()
            .find(|page| page.args.iter().any(|arg| arg == "404"))?;
        let name = page.args.last()?.strip_prefix('@')?;
        let named = place.named.iter().find(|known| known.name == name)?;
        let is_passed = !named.scope.own("proxy_pass").is_empty();
        (is_passed && page.args.iter().any(|arg| arg == "=")).then_some(&named.route)
    }

    /// Returns the keys of a location with the files of nginx itself, of which there are none here.
    fn without_root(
        place: &Place<'_, 'a>,
        location: &Location<'a>,
        tries: Option<&'a Directive>,
    ) -> Map<String, Value> {
        let is_server = location.directive.id == place.server.directive.id;
        if let Some(tries) = tries {
            tries.lost("its location has no fixed `root`");
        }
        if !is_server && location.scope.one("internal").is_none() {
            let note = "it has no `root`: 404 instead of the files that nginx installs";
            location.directive.changed(note);
        }
        let mut keys = Map::from_iter([("respond".to_owned(), json!(404))]);
        let rules = location.scope.nearest_of(&["allow", "deny"]);
        if !rules
            .iter()
            .any(|rule| rule.name == "deny" && rule.arg(0) == "all")
        {
            // Whom nginx refuses, it refuses whatever the method.
            let methods = json!({ "allow": ["GET", "HEAD", "POST"], "status": 405 });
            keys.insert("methods".to_owned(), methods);
        }
        keys
    }

    /// Translates `try_files`.
    fn tries(tries: &Directive, place: &Place<'_, 'a>, scope: &Scope<'a>, files: &mut Value) {
        let Some((last, paths)) = tries.args.split_last() else {
            return;
        };
        let of = |text: &String| tables::header(text, scope);
        let paths: Option<Vec<String>> = paths.iter().map(of).collect();
        let paths = paths.filter(|paths| paths.iter().all(|path| path.starts_with(['/', '{'])));
        let otherwise = if let Some(code) = last.strip_prefix('=') {
            let code = code.parse::<u16>().ok();
            code.map(|code| json!({ "status": code }))
        } else if let Some(name) = last.strip_prefix('@') {
            let mut named = place.named.iter();
            let known = named.find(|known| known.name == name);
            known.map(|known| json!({ "route": known.route }))
        } else {
            let path = of(last).filter(|path| path.starts_with(['/', '{']));
            path.map(|path| json!({ "reroute": path }))
        };
        let (Some(paths), Some(otherwise)) = (paths, otherwise) else {
            tries.lost("a variable of it has no counterpart: files alone");
            return;
        };
        tries.carried("");
        files["try"] = json!(paths);
        files["otherwise"] = otherwise;
    }

    /// Translates media types that are not those of all locations.
    fn media_types(&mut self, scope: &Scope<'_>, files: &mut Value) {
        let own = scope.nearest("types");
        for types in &own {
            types.carried("");
            for entry in types.children() {
                entry.carried("");
            }
        }
        let is_own = |name: &str| {
            let found = scope.one(name);
            found.is_some_and(|found| self.http.own(name).iter().all(|one| one.id != found.id))
        };
        if !["types", "default_type", "charset"]
            .iter()
            .any(|name| is_own(name))
        {
            return;
        }
        let common = super::media::of(self.http);
        let types = super::media::of(scope);
        let default = types.default.clone();
        let mut written = Map::new();
        if own.iter().any(|types| types.children().is_empty()) {
            written.insert("*".to_owned(), default.into());
        } else {
            for (ending, kind) in &types.by_ending {
                if common.by_ending.get(ending) != Some(kind) {
                    written.insert(ending.clone(), kind.clone().into());
                }
            }
            if default != common.default {
                written.insert(String::new(), default.into());
            }
        }
        if !written.is_empty() {
            files["types"] = written.into();
        }
    }
}

/// Returns the new path of a destination with variables: empty for none, `None` if it has no
/// counterpart.
#[expect(clippy::option_option, reason = "an error, none, or a path")]
fn uri_of(rest: &str, regex: Option<&str>) -> Option<Option<String>> {
    match rest {
        "" | "{uri}" | "{path.decoded}{query_mark}{query}" => return Some(None),
        _ if !rest.starts_with(['/', '{']) => return None,
        _ => {}
    }
    let whole = match rest.split_once("{uri}") {
        // No rewrite has changed the path, which the caller checks.
        Some((before, "")) if !before.contains("{uri}") => {
            &format!("{before}{{path.decoded}}{{query_mark}}{{query}}")
        }
        Some(_) => return None,
        None => rest,
    };
    let all = "{query_mark}{query}";
    let with = match (whole.strip_suffix(all), whole.split_once('?')) {
        (Some(path), _) | (None, Some((path, "{query}"))) => path.to_owned(),
        (None, Some((_, query))) if query.ends_with("&{query}") => {
            whole.trim_end_matches("&{query}").to_owned()
        }
        (None, _) => format!("{whole}?"),
    };
    let is_known = !with.contains("{group.") || regex.is_some();
    is_known.then_some(Some(with))
}

/// Key of a new path that is a rule, which no route has.
pub(super) const REWRITE: &str = "with";

fn shut() -> Map<String, Value> {
    Map::from_iter([
        ("respond".to_owned(), json!(503)),
        (CLOSED.to_owned(), true.into()),
    ])
}

/// Note of the report on an `alias` with a slash for a location without one.
const OF_SLASH: &str = "a path that goes on without a slash after that of the location is no file of \
    the folder";

/// Note of the report on files.
pub(super) const OF_FILES: &str = "methods other than GET and HEAD get 405 for a file; ranges and \
    conditions follow RFC 9110: only GET has ranges, and one range only; 416 has headers of \
    `add_header` once, not twice";
