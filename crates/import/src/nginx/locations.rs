//! Locations: which ones a server has, and the route that stands for each.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{
    actions::REWRITE,
    collect::{NamedLocation, collect, is_hidden, path_of},
    conditions,
    filters::{self, Filters, Limits},
    headers,
    output::{Part, put},
    pages,
    parse::Directive,
    rules::Rules,
    scope::Scope,
    servers::{Audience, Server, Servers},
    upstreams::Upstreams,
    variables::expression,
    words::{bytes, encoded, size},
};

/// A location with a path, or a block that is like one.
pub(super) struct Location<'a> {
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    /// Texts of the locations around it, the outermost first.
    pub(super) within: Vec<String>,
    /// Text of `location` in the configuration.
    pub(super) text: String,
    /// True if it has no counterpart.
    pub(super) is_closed: bool,
}

impl<'a> Location<'a> {
    /// Creates a location that is within no other one.
    pub(super) fn new(directive: &'a Directive, scope: Scope<'a>, text: &str) -> Self {
        Self {
            directive,
            scope,
            within: Vec::new(),
            text: text.to_owned(),
            is_closed: false,
        }
    }

    /// Returns its path; `None` for an expression.
    pub(super) fn path(&self) -> Option<&str> {
        path_of(&self.text).filter(|path| path.starts_with('/'))
    }

    /// Returns true if nginx redirects requests for its path without the final slash.
    pub(super) fn adds_slash(&self) -> bool {
        let path = self.path().unwrap_or_default();
        path.len() > 1 && path.ends_with('/') && !self.scope.own("proxy_pass").is_empty()
    }
}

/// Place of a directive among the locations of a server.
#[derive(Clone, Copy)]
pub(super) struct Place<'s, 'a> {
    pub(super) server: &'s Server<'a>,
    pub(super) locations: &'s [Location<'a>],
    pub(super) named: &'s [NamedLocation<'a>],
    /// `None` within the server itself.
    pub(super) location: Option<&'s Location<'a>>,
}

/// Translation of the servers' locations.
pub(super) struct Routes<'a, 's> {
    pub(super) http: &'s Scope<'a>,
    pub(super) servers: &'s Servers<'a>,
    pub(super) upstreams: Upstreams<'a>,
    pub(super) limits: Limits,
    pub(super) parts: Vec<Part>,
    /// Texts of `match` of these parts.
    pub(super) matches: HashSet<String>,
    pub(super) sites: Vec<(String, Part)>,
    /// Names of routes that only their names lead to.
    pub(super) names: Vec<String>,
}

impl<'a> Routes<'a, '_> {
    /// Makes the routes of a server.
    pub(super) fn server(&mut self, server: &Server<'a>) {
        let (mut locations, mut named) = (Vec::new(), Vec::new());
        collect(&server.scope, &[], &mut locations, &mut named);
        for location in &mut named {
            location.route = self.free_name(&format!("@{}", location.name));
        }
        let is_closed = filters::has_unknown_guard(&server.scope) || server.is_unreachable;
        let place = Place {
            server,
            locations: &locations,
            named: &named,
            location: None,
        };
        let mut rules = self.rules(server.scope.innermost(), (&place, &server.scope));
        let is_closed = is_closed | rules.is_closed;
        if is_closed {
            rules.list.clear();
        }
        if !rules.is_end {
            self.respond_as_server(&place, &mut rules);
        }
        if let Some((nameless, true)) = self.servers.without_host(server) {
            let beside = Place {
                server: nameless,
                ..place
            };
            let without_host = self.rules(nameless.scope.innermost(), (&beside, &nameless.scope));
            for mut rule in without_host.list {
                rule["if"] = "{host}".into();
                rule["is"] = "".into();
                rules.list.insert(0, rule);
            }
        }
        let audiences = self.servers.audiences(server);
        if rules.is_end || is_closed {
            let keys = Self::whole(&place, &rules, is_closed);
            for audience in &audiences {
                let comment = format!("{} server", server.directive.place());
                self.push(audience, (&[], "/"), &keys, &comment);
            }
            return;
        }
        let site = self.site(server, &rules);
        let rest = Location::new(server.directive, server.scope.clone(), "/");
        let mut roots = locations.iter();
        let is_rest = !roots.any(|one| one.text == "/" || one.text == "^~ /");
        let all = locations.iter().chain(is_rest.then_some(&rest));
        for location in all {
            let inner = Place {
                location: Some(location),
                ..place
            };
            let mut keys = self.location(&inner, location);
            put(&mut keys, "site", site.clone());
            let comment = location.directive.place();
            let is_hidden = is_hidden(&location.within, &location.text, &locations);
            if is_hidden {
                let note = "another location of the server takes its requests, with nginx too";
                location.directive.lost(note);
            }
            let at = (&*location.within, &*location.text);
            for audience in &audiences {
                self.added_slash((location, &locations), &keys, audience, &comment);
                if !is_hidden {
                    self.push(audience, at, &keys, &comment);
                }
            }
        }
        for location in &named {
            let block = Location::new(location.directive, location.scope.clone(), "");
            let block_place = Place {
                location: Some(&block),
                ..place
            };
            let mut keys = self.location(&block_place, &block);
            // nginx compares the length in the location that leads here, and of a body in chunks
            // what arrives, here.
            let leading = locations.iter().map(|one| &one.scope);
            let leading = leading.chain(is_rest.then_some(&server.scope));
            let mut limits = leading.chain([&location.scope]).map(longest_body);
            let most = limits.try_fold(0, |most, one| one.map(|one| most.max(one)));
            keys.insert(
                "body_limit".to_owned(),
                most.map_or(json!(false), |most| size(most).into()),
            );
            if let Some(Value::Array(rules)) = keys.get_mut("rules") {
                rules.retain(|rule| rule.get("body_over").is_none());
            }
            self.push_named(&location.route, &keys, &location.directive.place());
        }
    }

    /// Gives what the rules of a server respond its headers and pages, where a location has others.
    fn respond_as_server(&mut self, place: &Place<'_, 'a>, rules: &mut Rules) {
        let ids = |scope| headers::ids(scope, &["add_header", "error_page", "expires"]);
        let server = ids(&place.server.scope);
        let has_others = place.locations.iter().any(|one| ids(&one.scope) != server);
        let list = rules.list.iter_mut().filter(|_| has_others);
        let mut responses = list.filter(|rule| rule.get("status").is_some()).peekable();
        if responses.peek().is_some() {
            let directive = place.server.directive;
            let name = self.free_name(&format!("server-{}", directive.line));
            let mut keys = Self::whole(place, &Rules::default(), false);
            keys.remove("rules");
            self.push_named(&name, &keys, &directive.place());
            responses.for_each(|rule| rule["route"] = name.clone().into());
        }
    }

    /// Returns the keys of a server that returns something for every request.
    fn whole(place: &Place<'_, 'a>, rules: &Rules, is_closed: bool) -> Map<String, Value> {
        let scope = &place.server.scope;
        if is_closed {
            let (mut keys, mut filters) = (closed(), Filters::default());
            filters::access_log(scope, &mut filters);
            headers::convert(scope, (false, false), &mut filters);
            keys.extend(filters.keys);
            return keys;
        }
        let mut keys = Self::ended(place, scope, rules);
        keys.insert("rules".to_owned(), rules.list.clone().into());
        keys
    }

    /// Returns the keys of a server or location whose rules respond to every request, without these.
    fn ended(place: &Place<'_, 'a>, scope: &Scope<'a>, rules: &Rules) -> Map<String, Value> {
        let mut keys = Map::from_iter([
            ("respond".to_owned(), json!(404)),
            // A rule of a location checks the size of a body, and other spellings where they are.
            ("body_limit".to_owned(), json!(false)),
        ]);
        let mut filters = Filters::default();
        filters::access_log(scope, &mut filters);
        headers::convert(scope, (false, false), &mut filters);
        keys.extend(filters.keys);
        rules.settle_headers(&mut keys, scope);
        pages::convert(scope, place, false, &mut keys);
        keys
    }

    /// Adds the rules that all locations of a server have in common; returns their name.
    fn site(&mut self, server: &Server<'a>, rules: &Rules) -> Option<String> {
        if rules.list.is_empty() {
            return None;
        }
        let host = server.hosts.first().map(String::as_str);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let name: String = host
            .unwrap_or("server")
            .chars()
            .filter(|c| plain(*c))
            .collect();
        let mut name = name.trim_matches('.').to_owned();
        while name.is_empty() || self.sites.iter().any(|(known, _)| *known == name) {
            name.push_str("-b");
        }
        let value = json!({ "rules": rules.list });
        self.sites
            .push((name.clone(), Part::at(server.directive, value)));
        Some(name)
    }

    /// Returns the keys of a location, with its rules.
    fn location(&mut self, place: &Place<'_, 'a>, location: &Location<'a>) -> Map<String, Value> {
        if location.is_closed {
            return closed();
        }
        let scope = &location.scope;
        let is_server = location.directive.id == place.server.directive.id;
        let mut is_closed = !is_server && filters::has_unknown_guard(scope);
        let (mut rules, mut by_file) = (Rules::default(), None);
        if !is_server {
            // Only requests without a file get beyond the block for those with one.
            let (both, behind) = conditions::split_by_file(scope.innermost());
            rules = self.rules(both, (place, scope));
            is_closed |= rules.is_closed;
            by_file = self.by_file(place, location, behind);
        }
        let mut keys = match by_file {
            Some(keys) => keys,
            None if rules.is_end => Self::ended(place, scope, &rules),
            None => self.keys(place, location),
        };
        Self::internal(place, scope, !rules.list.is_empty(), &mut keys);
        is_closed |= keys.remove(CLOSED).is_some();
        if is_closed {
            return closed();
        }
        let has_rules = !rules.list.is_empty();
        let except = self.limit_except(place, location, has_rules, &mut keys);
        if keys.remove(CLOSED).is_some() {
            return closed();
        }
        let mut list = Vec::new();
        let status = keys.get("methods").map(|methods| methods["status"].clone());
        let (is_of_files, is_excepted) = (status == Some(json!(405)), status == Some(json!(403)));
        // nginx checks the length that a request names before everything else in a location.
        if has_rules
            || except.is_some()
            || keys.contains_key("files") && keys.contains_key("rules")
            || is_guarded(&keys)
            || is_excepted
        {
            list.extend(over_limit(scope));
        }
        list.extend(except);
        let behind = keys.get("rules").filter(|_| keys.contains_key("upstream"));
        match behind.map(|behind| &behind[0]) {
            Some(destination) => match rules.ending_with(destination) {
                Some(all) => {
                    list.extend(all);
                    for header in scope.nearest("proxy_set_header") {
                        if header.arg(1).contains("$uri") {
                            header.changed(
                                "`$uri` in headers for the backend is the path that it gets",
                            );
                        }
                    }
                }
                None => return closed_by(scope),
            },
            None => list.extend(rules.list),
        }
        if let Some(Value::Array(rules)) = keys.remove("rules") {
            list.extend(rules);
        }
        let refuses = |rule: &Value| {
            let is_size = rule.get("body_over").is_some();
            let is_redirect = rule.get("regex").is_some() || rule.get("to").is_some();
            !is_size && !is_redirect
        };
        // Other methods than nginx has for files are no protection, nor is the status of nginx without a
        // server, nor the size of a body where an expression is compared: other spellings stay elsewhere.
        let is_internal = keys.contains_key(INTERNAL);
        let mut sized = list.iter().filter(|_| location.text.starts_with('~'));
        let has_size = sized.any(|rule| rule.get("body_over").is_some());
        let is_without = keys.get("respond").is_some_and(|status| *status == 502);
        // Nor is `internal` of a single page, such as that of an error.
        let files = keys.get("files").filter(|_| location.text.starts_with('='));
        let is_page = files.is_some_and(|files| files["otherwise"].is_null());
        let is_free = if is_internal {
            is_page
        } else {
            has_size || is_without
        };
        let is_open = is_of_files || status.is_none() && is_free;
        if is_open && !is_guarded(&keys) && !list.iter().any(refuses) {
            keys.insert("spelling".to_owned(), "exact".into());
        }
        put(&mut keys, "rules", list);
        keys
    }

    /// Returns the keys of a location without its rules: what it does, and its filters. The key
    /// [`CLOSED`] is there if it must be closed.
    pub(super) fn keys(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
    ) -> Map<String, Value> {
        let scope = &location.scope;
        let mut keys = self.action(place, location);
        if let Some(mut rule) = keys.remove(REWRITE) {
            let regex = scope.location().and_then(expression);
            let regex = match regex {
                Some((mark, regex)) if mark == "~*" => format!("(?i){regex}"),
                Some((_, regex)) => regex,
                None => "^".to_owned(),
            };
            rule["regex"] = regex.into();
            keys.insert("rules".to_owned(), json!([rule]));
        }
        let passes = keys.contains_key("upstream");
        let filters = filters::convert(scope, self.http, passes, &mut self.limits);
        let mut is_closed = filters.is_closed;
        for (key, value) in filters.keys {
            keys.entry(key).or_insert(value);
        }
        is_closed |= self.forward_auth(location, place, &mut keys);
        filters::satisfy(scope, &mut keys);
        pages::convert(scope, place, passes, &mut keys);
        if is_closed {
            keys.insert(CLOSED.to_owned(), true.into());
        }
        keys
    }

    /// Adds the route that redirects to the path of a location with the slash at its end.
    fn added_slash(
        &mut self,
        (location, locations): (&Location<'a>, &[Location<'a>]),
        keys: &Map<String, Value>,
        audience: &Audience,
        comment: &str,
    ) {
        let path = location.path().and_then(|path| path.strip_suffix('/'));
        let Some(path) = path.filter(|_| location.adds_slash() && keys.contains_key("upstream"))
        else {
            return;
        };
        let text = format!("= {path}");
        let outer = location.within.last().and_then(|outer| path_of(outer));
        let is_other = |other: &Location<'_>| {
            // Cheap, and false for most of a thousand.
            other.text.ends_with(path)
                && other.within == location.within
                && other.path() == Some(path)
        };
        if outer.is_some_and(|outer| !path.starts_with(outer))
            || locations.iter().any(is_other)
            || is_hidden(&location.within, &text, locations)
        {
            return;
        }
        let to = json!({ "to": format!("{}/?{{query}}", encoded(path)), "status": 301 });
        let mut action = Map::from_iter([("redirect".to_owned(), to)]);
        // nginx redirects in the exact location of the path, if there is one.
        let slashed = format!("= {path}/");
        let mut beside = locations.iter().filter(|one| one.within == location.within);
        let exact = beside.find(|one| one.text == slashed).unwrap_or(location);
        let mut filters = Filters::default();
        filters::access_log(&exact.scope, &mut filters);
        headers::convert(&exact.scope, (false, false), &mut filters);
        action.extend(filters.keys);
        // It guards the location's other spellings, and must not ask for more than that does.
        for key in ["site", "body_limit"] {
            if let Some(value) = keys.get(key) {
                action.insert(key.to_owned(), value.clone());
            }
        }
        if exact.scope.one("internal").is_some() {
            action.insert(INTERNAL.to_owned(), true.into());
        }
        let added = format!("{comment} adds the slash");
        self.push(audience, (&[], &text), &action, &added);
    }

    /// Adds a route.
    fn push(
        &mut self,
        audience: &Audience,
        (within, text): (&[String], &str),
        keys: &Map<String, Value>,
        comment: &str,
    ) {
        let mut matches = Map::new();
        put(&mut matches, "host", one_or_many(&audience.hosts));
        put(&mut matches, "listener", one_or_many(&audience.listeners));
        // An exact path needs no other location.
        if !within.is_empty() && !text.starts_with('=') {
            matches.insert("within".to_owned(), one_or_many(within));
        }
        matches.insert("location".to_owned(), text.into());
        let mut keys = keys.clone();
        if keys.remove(INTERNAL).is_some() {
            matches.insert("internal".to_owned(), true.into());
        }
        let mut value = Map::from_iter([("match".to_owned(), Value::Object(matches))]);
        value.extend(keys);
        let part = Part::new(comment, value);
        // What an earlier line has taken is never reached.
        if self.matches.insert(part.value["match"].to_string()) {
            self.parts.push(part);
        }
    }

    /// Adds a route that only its name leads to.
    pub(super) fn push_named(&mut self, name: &str, keys: &Map<String, Value>, comment: &str) {
        let mut keys = keys.clone();
        keys.remove(INTERNAL);
        if keys.remove(CLOSED).is_some() {
            keys = closed();
        }
        let mut value = Map::from_iter([
            ("match".to_owned(), json!({ "named": true })),
            ("name".to_owned(), name.into()),
        ]);
        value.extend(keys);
        self.parts.push(Part::new(comment, value));
    }

    /// Returns a name that no route has yet.
    pub(super) fn free_name(&mut self, name: &str) -> String {
        let mut name = name.to_owned();
        while self.names.contains(&name) {
            name.push_str("-b");
        }
        self.names.push(name.clone());
        name
    }
}

/// Key of a location that must be closed, which no route has.
pub(super) const CLOSED: &str = "closed";
/// Key of a location that clients cannot ask for, which no route has.
pub(super) const INTERNAL: &str = "internal";

/// Returns true if a location keeps some requests out.
fn is_guarded(keys: &Map<String, Value>) -> bool {
    const GUARDS: [&str; 5] = [
        "access",
        "basic_auth",
        "forward_auth",
        "rate_limit",
        "in_flight",
    ];
    GUARDS.iter().any(|guard| keys.contains_key(*guard))
}

/// Returns the rule that refuses a request whose body is too long by its own words.
fn over_limit(scope: &Scope<'_>) -> Option<Value> {
    let most = longest_body(scope)?;
    Some(json!({ "body_over": size(most), "status": 413 }))
}

/// Returns the limit of a body in bytes, if there is one.
fn longest_body(scope: &Scope<'_>) -> Option<u64> {
    let Some(limit) = scope.one("client_max_body_size") else {
        return Some(1 << 20);
    };
    bytes(limit.arg(0)).filter(|most| *most > 0)
}

/// Closes a location whose backend would get another path than with nginx.
fn closed_by(scope: &Scope<'_>) -> Map<String, Value> {
    for pass in scope.nearest("proxy_pass") {
        pass.closed("its path after its `rewrite` directives has no counterpart");
    }
    closed()
}

/// Returns the keys of a route that refuses everything.
pub(super) fn closed() -> Map<String, Value> {
    Map::from_iter([("respond".to_owned(), json!(503))])
}

fn one_or_many(list: &[String]) -> Value {
    match list {
        [one] => one.clone().into(),
        many => json!(many),
    }
}
