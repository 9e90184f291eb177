//! Actions of locations: `proxy_pass`, files, `return`.

use regex::escape;
use serde_json::{Map, Value, json};

use super::{
    conditions,
    locations::{Location, Routes, closed},
    moves,
    output::Part,
    pages,
    parse::Directive,
    rewrites,
    scope::Scope,
    sent_as,
    servers::Server,
    tables,
    upstreams::{Destination, timeouts},
    words::{Known, Piece, pieces, plain},
};

/// Handlers of other protocols, which this gateway does not speak.
const FOREIGN: [&str; 6] = [
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "memcached_pass",
    "grpc_pass",
    "content_by_lua_block",
];

impl<'a> Routes<'a, '_> {
    /// Returns the keys of what a location does: files, an upstream, a response.
    pub(super) fn action(
        &mut self,
        server: &Server<'a>,
        location: &Location<'a>,
        known: &Known,
        (found, named): (&[Location<'a>], &[(String, Scope<'a>, &'a Directive)]),
    ) -> Map<String, Value> {
        let scope = &location.scope;
        if let Some(directive) = scope.own("internal").first().copied() {
            if let Some(keys) = self.files_for_apps(server, location, found) {
                self.fates
                    .carried(directive, "for `X-Accel-Redirect` of all upstreams");
                return keys;
            }
            self.fates.changed(directive, "clients get 404");
            return Map::from_iter([
                ("respond".to_owned(), json!(404)),
                ("body_limit".to_owned(), json!(false)),
            ]);
        }
        if let Some(directive) = scope.own("return").first()
            && let Some(action) = self.returned(directive, scope, known)
        {
            return action;
        }
        if let Some(directive) = FOREIGN
            .iter()
            .find_map(|name| scope.own(name).first().copied())
        {
            self.fates
                .closed(directive, "this gateway speaks HTTP to its backends");
            return closed();
        }
        if let Some(pass) = scope.own("proxy_pass").first().copied() {
            return self.pass(pass, scope, location, known);
        }
        let tries = scope.own("try_files").first().copied();
        if let Some(tries) = tries
            && let Some(last) = tries.args.last()
        {
            let by_name = last.strip_prefix('@').and_then(|name| {
                let (_, scope, _) = named.iter().find(|(known, ..)| known == name)?;
                Some(scope)
            });
            let by_path = found
                .iter()
                .find(|other| other.text == format!("= {last}"))
                .map(|other| &other.scope);
            if let Some(target) = by_name.or(by_path)
                && let Some(pass) = target.own("proxy_pass").first().copied()
            {
                let target = target.clone();
                self.fates.lost(
                    tries,
                    "files are not looked up first: every request goes to the backend",
                );
                return self.pass(pass, &target, location, known);
            }
        }
        self.files(server, location, tries, found)
    }

    fn pass(
        &mut self,
        pass: &'a Directive,
        scope: &Scope<'a>,
        location: &Location<'a>,
        known: &Known,
    ) -> Map<String, Value> {
        let mut by_table = None;
        let mut to = plain(pass.arg(0)).and_then(|url| Destination::parse(&url));
        if to.is_none()
            && let Some((variable, destination)) = self.chosen(pass, scope)
        {
            by_table = Some(format!("{{map.{variable}}}"));
            to = Some(destination);
        }
        let Some(to) = to else {
            self.fates
                .closed(pass, "a destination with variables has no counterpart");
            return closed();
        };
        self.fates.carried(pass, "");
        let name = self.upstreams.name(&to, pass, scope, &mut self.fates);
        let mut keys = Map::from_iter([("upstream".to_owned(), Value::from(name))]);
        if let Some(table) = by_table {
            keys.insert("upstream_by".to_owned(), table.into());
        }
        self.host_header(&to, scope, known, &mut keys);
        let prefix = match &location.moved {
            Some(moved) => moved.text.as_str(),
            None => location
                .text
                .trim_start_matches("^~ ")
                .trim_start_matches("= "),
        };
        if let Some(moved) = &location.moved {
            let path = match &to.path {
                Some(path) => format!("{path}{}", &moved.path[prefix.len()..]),
                None => moved.path.clone(),
            };
            let with = format!("{}{}", path.replace('$', "$$"), moved.query);
            let rewrite = json!({ "regex": moved.regex, "with": with });
            keys.insert("rewrite".to_owned(), rewrite);
        } else if let Some(path) = &to.path
            && !location.text.starts_with('~')
            && path != prefix
        {
            let regex = format!("^{}", escape(prefix));
            keys.insert(
                "rewrite".to_owned(),
                json!({ "regex": regex, "with": path.replace('$', "$$") }),
            );
        }
        if let Some(action) = self.own_rewrites(scope, known, &mut keys) {
            return action;
        }
        let upgrade = scope
            .nearest("proxy_set_header")
            .into_iter()
            .find(|one| one.arg(0).eq_ignore_ascii_case("upgrade"));
        let websocket = match upgrade {
            Some(upgrade) => {
                self.fates.carried(upgrade, "");
                true.into()
            }
            None => "ignore".into(),
        };
        keys.insert("websocket".to_owned(), websocket);
        if let Some(timeouts) = timeouts(scope, &mut self.fates) {
            keys.insert("timeouts".to_owned(), timeouts);
        }
        if let Some(sent) = sent_as::of(scope, &mut self.fates) {
            keys.insert("upstream_request".to_owned(), sent);
        }
        let is_regex = location.text.starts_with('~') && location.moved.is_none();
        let prefix = (!is_regex).then_some(prefix);
        let rules = rewrites::of(&to, prefix, scope, known, &mut self.fates);
        keys.insert("response_rewrite".to_owned(), rules);
        for one in scope.nearest("proxy_set_header") {
            if one.arg(0).eq_ignore_ascii_case("connection") {
                self.fates.carried(
                    one,
                    "connections are kept, and upgrades pass where they are allowed",
                );
            }
        }
        keys
    }

    /// Translates the `rewrite` of a location with `proxy_pass`; returns the action of one that
    /// responds.
    fn own_rewrites(
        &mut self,
        scope: &Scope<'a>,
        known: &Known,
        keys: &mut Map<String, Value>,
    ) -> Option<Map<String, Value>> {
        for directive in scope.own("rewrite") {
            let with = directive.arg(1);
            let with = moves::expanded(with).filter(|_| with.starts_with('/'));
            let is_known = regex::Regex::new(directive.arg(0)).is_ok();
            if let Some(with) = with
                && directive.arg(2) == "break"
                && is_known
                && !keys.contains_key("rewrite")
            {
                if with.contains('?') {
                    let note = "of a group, characters that mean something in a query are \
                                percent-encoded";
                    self.fates.changed(directive, note);
                } else {
                    self.fates.carried(directive, "");
                }
                let regex = moves::whole(directive.arg(0));
                keys.insert(
                    "rewrite".to_owned(),
                    json!({ "regex": regex, "with": with }),
                );
            } else if let Some(action) = conditions::action(directive, known) {
                self.fates.carried(directive, "");
                return Some(action);
            } else if !self.fates.has(directive) {
                // One that leads to another location was reported.
                self.fates
                    .lost(directive, "this rewrite has no counterpart here");
            }
        }
        None
    }

    /// Returns the variable of a destination whose names of upstreams are in a lookup table, and the
    /// destination by default.
    fn chosen(&mut self, pass: &'a Directive, scope: &Scope<'a>) -> Option<(String, Destination)> {
        let url = pass.arg(0).trim_end_matches("$request_uri");
        let (scheme, variable) = match &pieces(url)[..] {
            [Piece::Text(scheme), Piece::Variable(variable)] => (scheme.clone(), variable.clone()),
            _ => return None,
        };
        let results = tables::results(&variable, scope, tables::MAX_CHAIN)?;
        let hosts = scope.nearest("proxy_set_header");
        let has_host = hosts
            .iter()
            .any(|one| one.arg(0).eq_ignore_ascii_case("host"));
        if !has_host {
            return None;
        }
        let parse = |name: &String| Destination::parse(&format!("{scheme}{name}"));
        for result in &results {
            let to = parse(result)?;
            // The table names the upstreams themselves.
            if !self.upstreams.is_block(&to.authority) || to.path.is_some() {
                return None;
            }
            let name = self.upstreams.name(&to, pass, scope, &mut self.fates);
            if name != *result {
                return None;
            }
        }
        Some((variable, parse(results.first()?)?))
    }

    /// Translates the `Host` that a backend gets.
    fn host_header(
        &mut self,
        to: &Destination,
        scope: &Scope<'a>,
        known: &Known,
        keys: &mut Map<String, Value>,
    ) {
        let written = scope
            .nearest("proxy_set_header")
            .into_iter()
            .find(|one| one.arg(0).eq_ignore_ascii_case("host"));
        let host = match written.map(|one| one.arg(1)) {
            Some("$http_host") => None,
            Some("$host") => Some("name".to_owned()),
            Some("$server_name") => known.server_name.clone(),
            None | Some("$proxy_host") => Some(match to.authority.strip_prefix("unix:") {
                Some(_) => "localhost".to_owned(),
                None => to.authority.clone(),
            }),
            Some(text) => {
                let Some(text) = plain(text) else {
                    if let Some(written) = written {
                        let note = "the backend gets `Host` as the client sent it";
                        self.fates.lost(written, note);
                    }
                    return;
                };
                Some(text)
            }
        };
        if let Some(written) = written {
            self.fates.carried(written, "");
        }
        if let Some(host) = host {
            keys.insert("host_header".to_owned(), host.into());
        }
    }

    /// Returns the keys of an internal location whose files apps may send with `X-Accel-Redirect`;
    /// `None` if it has none of its own.
    fn files_for_apps(
        &mut self,
        server: &Server<'a>,
        location: &Location<'a>,
        found: &[Location<'a>],
    ) -> Option<Map<String, Value>> {
        let scope = &location.scope;
        let has_own = !scope.own("alias").is_empty() || !scope.own("root").is_empty();
        let prefix = location.text.trim_start_matches("^~ ");
        if !has_own || !prefix.starts_with('/') {
            return None;
        }
        let mut keys = self.files(server, location, None, found);
        keys.get_mut("files")?["internal"] = json!([ALL_UPSTREAMS]);
        // Clients get 404 whatever they send.
        keys.insert("body_limit".to_owned(), json!(false));
        Some(keys)
    }

    fn files(
        &mut self,
        server: &Server<'a>,
        location: &Location<'a>,
        tries: Option<&'a Directive>,
        found: &[Location<'a>],
    ) -> Map<String, Value> {
        let scope = &location.scope;
        let alias = scope.own("alias").first().copied();
        let root = alias.or_else(|| scope.one("root"));
        let Some(root) = root.filter(|root| plain(root.arg(0)).is_some()) else {
            let place = if location.directive.id == server.directive.id {
                None
            } else {
                Some(location.directive)
            };
            if let Some(place) = place {
                self.fates.changed(
                    place,
                    "it has no `root`: 404 instead of the files of nginx itself",
                );
            }
            return Map::from_iter([("respond".to_owned(), json!(404))]);
        };
        self.fates.changed(root, OF_FILES);
        let mut files = json!({ "root": root.arg(0) });
        if let Some(dates) = scope.one("if_modified_since") {
            match dates.arg(0) {
                "off" => self.fates.lost(dates, "`If-Modified-Since` counts"),
                _ => self.fates.carried(dates, ""),
            }
        }
        let dates = scope.one("if_modified_since").map(|dates| dates.arg(0));
        if dates != Some("before") {
            files["if_modified_since"] = "exact".into();
        }
        if let Some(index) = scope.one("index") {
            let names = index.args.iter();
            let names: Vec<&String> = names
                .filter(|name| !name.contains(['/', '$']) && !name.is_empty())
                .collect();
            if names.len() == index.args.len() {
                self.fates.carried(index, "");
            } else {
                self.fates.changed(index, "without paths and variables");
            }
            files["index"] = json!(names);
        }
        if let Some(list) = scope.one("autoindex").filter(|list| list.is_on()) {
            self.fates
                .lost(list, "there are no listings of folders: 403");
        }
        if let Some(gzip) = scope.one("gzip_static").filter(|gzip| gzip.is_on()) {
            self.fates.carried(gzip, "");
            files["precompressed"] = json!(["gzip"]);
        }
        if let Some(tries) = tries {
            if !tries.args.iter().any(|arg| arg.ends_with('/')) {
                files["index"] = json!([]);
            }
            match tries.args.last().map(String::as_str) {
                Some("=404") => self.fates.carried(tries, ""),
                Some(path) if path.starts_with('/') && plain(path).is_some() => {
                    self.fates.carried(tries, "");
                    files["fallback"] = path.split('?').next().unwrap_or(path).into();
                }
                _ => self
                    .fates
                    .lost(tries, "its last place has no counterpart: 404"),
            }
        }
        for page in scope.nearest("error_page") {
            if page.args.len() == 2 && page.arg(0) == "404" && page.arg(1).starts_with('/') {
                self.mark_page(page, scope, found);
                files["not_found"] = page.arg(1).into();
            }
        }
        let own = self.headers_of_files(root, found);
        if !own.is_empty() {
            files["headers"] = own.into();
        }
        let mut keys = Map::from_iter([("files".to_owned(), files)]);
        if alias.is_some() {
            let prefix = location.text.trim_start_matches("^~ ");
            if !prefix.starts_with('/') || prefix.ends_with('/') != root.arg(0).ends_with('/') {
                self.fates.closed(root, "this `alias` has no counterpart");
                return closed();
            }
            let regex = match prefix.strip_suffix('/') {
                Some(_) => format!("^{}", escape(prefix)),
                None => format!("^{}(?:/|$)", escape(prefix)),
            };
            keys.insert("rewrite".to_owned(), json!({ "regex": regex, "with": "/" }));
        }
        keys
    }

    /// Reports the page of missing files, which nginx sends with the headers of its own location.
    fn mark_page(&mut self, page: &Directive, scope: &Scope<'_>, found: &[Location<'a>]) {
        let ids = |scope: &Scope<'_>| -> Vec<usize> {
            let all = scope.nearest("add_header").into_iter();
            all.chain(scope.one("expires")).map(|one| one.id).collect()
        };
        let is_same = match pages::serving(page.arg(1), found) {
            Some(own) => ids(&own.scope) == ids(scope),
            // Without a location of its own, the page has the server's.
            None => HEADERS.iter().all(|name| scope.own(name).is_empty()),
        };
        if is_same {
            self.fates.carried(page, "");
        } else {
            self.fates.changed(page, pages::NO_HEADERS);
        }
    }

    /// Returns the headers of files that have locations of their own, in which nginx serves them as
    /// index or last place of `try_files` too.
    fn headers_of_files(&mut self, root: &Directive, found: &[Location<'a>]) -> Map<String, Value> {
        let mut all = Map::new();
        for location in found {
            let Some(path) = location.text.strip_prefix("= ") else {
                continue;
            };
            let scope = &location.scope;
            let own = scope.one("root").map(|own| own.arg(0));
            let acts = ["return", "proxy_pass", "alias", "internal", "rewrite"];
            let is_file = acts.iter().all(|name| scope.own(name).is_empty());
            if path.ends_with('/') || own != Some(root.arg(0)) || !is_file {
                continue;
            }
            let mut headers = Map::new();
            for added in scope.own("add_header") {
                match plain(added.arg(1)) {
                    Some(value)
                        if !HEADERS_OF_FILES.contains(&&*added.arg(0).to_ascii_lowercase()) =>
                    {
                        let name = added.arg(0);
                        headers.insert(name.to_owned(), value.into());
                        self.fates.changed(
                            added,
                            format!("no `{name}` beside 416 (a range beyond the file)"),
                        );
                    }
                    _ => {
                        let name = added.arg(0);
                        let note = format!(
                            "not for `{path}` where `index` or `try_files` lead to it: `{name}`"
                        );
                        self.fates.changed(added, note);
                    }
                }
            }
            if !headers.is_empty() {
                all.insert(path.to_owned(), headers.into());
            }
        }
        all
    }
}

/// Stands for the names of all upstreams, which are known once every location was translated.
const ALL_UPSTREAMS: &str = "*";

/// Writes the names of all upstreams into the routes whose files apps may send.
pub(super) fn name_upstreams(routes: &mut [Part], upstreams: &[(String, Part)]) {
    let names: Vec<&str> = upstreams.iter().map(|(name, _)| name.as_str()).collect();
    for route in routes {
        let Some(keys) = route.value.as_object_mut() else {
            continue;
        };
        let files = keys.get_mut("files");
        let Some(internal) = files.and_then(|files| files.get_mut("internal")) else {
            continue;
        };
        *internal = json!(names);
        if names.is_empty() {
            // Nobody can send them.
            keys.remove("files");
            keys.remove("rewrite");
            keys.insert("respond".to_owned(), json!(404));
        }
    }
}

/// Directives whose headers a page has from its own location.
const HEADERS: [&str; 2] = ["add_header", "expires"];

/// Note of the report on files.
pub(super) const OF_FILES: &str = "methods other than GET and HEAD get 405 for a file; ranges and \
                                   conditions as in RFC 9110: of GET alone, and one range, whose 416 has headers of \
                                   `add_header` once, not twice";

/// Headers that follow from a file itself.
const HEADERS_OF_FILES: [&str; 4] = ["content-type", "etag", "last-modified", "content-encoding"];
