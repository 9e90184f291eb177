//! Locations: which ones a server has, and the route that stands for each.

use serde_json::{Map, Value, json};

use super::{
    collect::collect,
    conditions::{self, Condition, Subject},
    filters::{self, Filters, Limits},
    guards, headers, moves,
    output::Part,
    pages,
    parse::Directive,
    report::Fates,
    scope::Scope,
    servers::{Audience, Server, Servers},
    upstreams::Upstreams,
    words::{Known, named_groups},
};

/// A location with a path.
pub(super) struct Location<'a> {
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    /// Text of `location` in the configuration.
    pub(super) text: String,
    /// Names of the groups of its regular expression.
    pub(super) groups: Vec<String>,
    /// Rewrite that leads here from another path.
    pub(super) moved: Option<Moved>,
    /// Files of `try_files`, if it ends at the backend of a named location.
    pub(super) tries: Option<Tries>,
}

/// Location, keys and comment of a redirect.
type Redirect = (String, Map<String, Value>, String);

/// Files that are looked up before a backend is asked.
pub(super) enum Tries {
    First(Value),
    /// They have no counterpart.
    Lost,
}

/// Rewrite to a fixed path of another location.
pub(super) struct Moved {
    pub(super) regex: String,
    /// New path, without its query.
    pub(super) path: String,
    /// Query with its `?`, and the `?` at the end that leaves out the request's own.
    pub(super) query: String,
    /// Text of the location that takes the new path.
    pub(super) text: String,
}

/// Translation of the servers' locations.
pub(super) struct Routes<'a, 's> {
    pub(super) http: &'s Scope<'a>,
    pub(super) servers: &'s Servers<'a>,
    pub(super) upstreams: Upstreams<'a>,
    pub(super) limits: Limits,
    pub(super) fates: Fates,
    pub(super) parts: Vec<Part>,
    /// Conditions of the server that are no predicates of routes, as entries of `conditions`.
    pub(super) conditions: Vec<Value>,
}

impl<'a> Routes<'a, '_> {
    /// Makes the routes of a server.
    pub(super) fn server(&mut self, server: &Server<'a>) {
        let (mut found, mut named) = (Vec::new(), Vec::new());
        collect(&server.scope, &mut found, &mut named, &mut self.fates);
        self.repeated(&mut found);
        moves::follow_tries(&mut found, &named, &mut self.fates);
        let mut audiences: Vec<(Audience, Option<Map<String, Value>>)> = Vec::new();
        for audience in self.servers.audiences(server) {
            audiences.push((audience, None));
        }
        let mut guards = Vec::new();
        let mut is_closed = filters::has_unknown_guard(&server.scope, &mut self.fates);
        let mut later = Vec::new();
        for directive in server.scope.own("if") {
            let condition = Condition::read(directive, &server.known);
            match condition.filter(|_| later.is_empty()) {
                Some(condition) => {
                    self.whole(server, &condition, &mut audiences, &mut guards, directive);
                }
                None => is_closed |= self.later(directive, &server.scope, &mut later),
            }
        }
        self.conditions = later;
        let cases = self.cases(&guards, server.directive);
        let (redirects, moved) = self.rewrites(server, &found);
        let whole = server.scope.own("return").first().copied();
        let whole = whole.and_then(|directive| {
            Some((
                directive,
                self.returned(directive, &server.scope, &server.known)?,
            ))
        });
        for (audience, action) in audiences {
            let (action, place) = match (&action, &whole) {
                (Some(action), _) => (Some(action.clone()), server.directive),
                (None, Some((directive, action))) => (Some(action.clone()), *directive),
                (None, None) => (None, server.directive),
            };
            if let Some(action) = action {
                let mut action = if is_closed { closed() } else { action };
                let mut own = Filters::default();
                headers::of(&server.scope, (false, false), &mut own, &mut self.fates);
                action.extend(own.keys);
                insert_conditions(&mut action, &self.conditions);
                let comment = format!("{} {}", place.place(), place.name);
                self.push(&audience, "/", &action, &comment, &cases);
                continue;
            }
            for (text, action, comment) in &redirects {
                let mut action = if is_closed { closed() } else { action.clone() };
                insert_conditions(&mut action, &self.conditions);
                self.push(&audience, text, &action, comment, &cases);
            }
            for location in moved.iter().chain(&found) {
                self.location(
                    server,
                    location,
                    &audience,
                    &guards,
                    (&found, &named),
                    is_closed,
                );
            }
            if !found.iter().any(|location| location.text == "/") {
                let rest = Location {
                    directive: server.directive,
                    scope: server.scope.clone(),
                    text: "/".to_owned(),
                    groups: Vec::new(),
                    moved: None,
                    tries: None,
                };
                self.location(
                    server,
                    &rest,
                    &audience,
                    &guards,
                    (&found, &named),
                    is_closed,
                );
            }
        }
    }

    /// Removes locations that an earlier one of the server has already.
    fn repeated(&mut self, found: &mut Vec<Location<'a>>) {
        let mut seen = Vec::<String>::new();
        found.retain(|location| {
            let key = location
                .text
                .strip_prefix("^~ ")
                .unwrap_or(&location.text)
                .to_owned();
            let is_new = !seen.contains(&key);
            if !is_new {
                self.fates.lost(
                    location.directive,
                    "another location of the server has this path",
                );
            }
            seen.push(key);
            is_new
        });
    }

    pub(super) fn returned(
        &mut self,
        directive: &Directive,
        scope: &Scope<'_>,
        known: &Known,
    ) -> Option<Map<String, Value>> {
        let action = conditions::action(directive, known);
        let action = action.or_else(|| conditions::filled_in(directive, scope));
        match &action {
            Some(_) if directive.args.len() > 1 && directive.arg(0) < "300" => {
                let note = "`Content-Type` is that of the text, whatever the path ends in; of \
                            conditions, only `If-None-Match: *` of `GET` and `HEAD` has an effect";
                self.fates.changed(directive, note);
            }
            Some(_) => self.fates.carried(directive, ""),
            None => self
                .fates
                .closed(directive, "a variable of it has no counterpart"),
        }
        // What the server would have returned must not become what its locations serve.
        action.or_else(|| Some(closed()))
    }

    /// Applies a condition of a whole server.
    fn whole(
        &mut self,
        server: &Server<'a>,
        condition: &Condition,
        audiences: &mut Vec<(Audience, Option<Map<String, Value>>)>,
        guards: &mut Vec<Condition>,
        directive: &'a Directive,
    ) {
        self.fates.carried(directive, "");
        for inner in directive.children() {
            self.fates.carried(inner, "");
        }
        let mut split = Vec::new();
        for (audience, action) in std::mem::take(audiences) {
            if action.is_some() {
                split.push((audience, action));
                continue;
            }
            let (held, rest) = match &condition.subject {
                Subject::Host(host) => {
                    let own = Audience {
                        hosts: vec![host.clone()],
                        ..audience.clone()
                    };
                    let mut others = audience.clone();
                    others.hosts.retain(|other| other != host);
                    let has = audience.hosts.contains(host) || audience.hosts.is_empty();
                    let is_rest = audience.hosts.is_empty() || !others.hosts.is_empty();
                    (has.then_some(own), is_rest.then_some(others))
                }
                Subject::WithoutTls => {
                    let plain = self.servers.without_tls(server, &audience);
                    let mut tls = audience.clone();
                    tls.listeners.retain(|name| !plain.contains(name));
                    let all_plain = tls.listeners.is_empty() && !plain.is_empty();
                    let own = Audience {
                        listeners: if audience.listeners.is_empty() {
                            Vec::new()
                        } else {
                            plain.clone()
                        },
                        ..audience.clone()
                    };
                    (
                        (!plain.is_empty()).then_some(own),
                        (!all_plain).then_some(tls),
                    )
                }
                Subject::Predicates(_) => {
                    split.push((audience, None));
                    continue;
                }
            };
            let (acted, normal) = if condition.is_negated {
                (rest, held)
            } else {
                (held, rest)
            };
            split.extend(acted.map(|audience| (audience, Some(condition.action.clone()))));
            split.extend(normal.map(|audience| (audience, None)));
        }
        *audiences = split;
        if matches!(condition.subject, Subject::Predicates(_)) {
            guards.push(condition.clone());
        }
    }

    /// Returns the redirects of a server's own `rewrite` (location, action, comment), and the
    /// locations that rewrites lead to.
    fn rewrites(
        &mut self,
        server: &Server<'a>,
        found: &[Location<'a>],
    ) -> (Vec<Redirect>, Vec<Location<'a>>) {
        let mut list = Vec::new();
        let mut moved = moves::of_locations(found, &mut self.fates);
        let own = server.scope.own("rewrite");
        for (index, directive) in own.iter().copied().enumerate() {
            let (regex, groups) = named_groups(directive.arg(0));
            let known = Known {
                groups,
                is_host_last: false,
                ..server.known.clone()
            };
            let Some(action) = conditions::redirected(directive, &known) else {
                match moves::of_server(directive, &own[index + 1..], found) {
                    Ok(location) => {
                        self.fates.changed(directive, moves::NOTE);
                        moved.push(location);
                    }
                    Err(why) => self.fates.lost(directive, why),
                }
                continue;
            };
            let first: Vec<&str> = found
                .iter()
                .filter(|one| one.text.starts_with("= ") || one.text.starts_with("^~ "))
                .map(|one| one.text.as_str())
                .collect();
            if first.is_empty() {
                self.fates.carried(directive, "");
            } else {
                let note = format!("not for paths of the locations {}", first.join(", "));
                self.fates.changed(directive, note);
            }
            list.push((
                format!("~ {regex}"),
                action,
                format!("{} rewrite", directive.place()),
            ));
        }
        (list, moved)
    }

    fn location(
        &mut self,
        server: &Server<'a>,
        location: &Location<'a>,
        audience: &Audience,
        server_guards: &[Condition],
        (found, named): (&[Location<'a>], &[(String, Scope<'a>, &'a Directive)]),
        is_closed: bool,
    ) {
        let known = Known {
            groups: location.groups.clone(),
            is_host_last: location.scope.numbered().is_some(),
            ..server.known.clone()
        };
        let mut guards = server_guards.to_vec();
        let mut is_closed =
            is_closed | filters::has_unknown_guard(&location.scope, &mut self.fates);
        let is_server = location.directive.id == server.directive.id;
        let ifs = if is_server {
            Vec::new()
        } else {
            location.scope.own("if")
        };
        let mut later = self.conditions.clone();
        for directive in ifs {
            let condition = Condition::read(directive, &known).filter(|_| later.is_empty());
            match condition {
                Some(condition) if matches!(condition.subject, Subject::Predicates(_)) => {
                    self.fates.carried(directive, "");
                    for inner in directive.children() {
                        self.fates.carried(inner, "");
                    }
                    guards.push(condition);
                }
                _ => is_closed |= self.later(directive, &location.scope, &mut later),
            }
        }
        let mut cases = self.cases(&guards, location.directive);
        self.conditional_headers(location, server_guards, &mut cases);
        let comment = format!(
            "{} {} {}",
            location.directive.place(),
            location.directive.name,
            location.directive.args.join(" ")
        );
        let mut keys = self.action(server, location, &known, (found, named));
        if let Some(Tries::First(files)) = &location.tries
            && keys.contains_key("upstream")
        {
            keys.insert("files".to_owned(), files.clone());
        }
        if let Some(moved) = &location.moved
            && keys.contains_key("files")
        {
            let with = format!("{}{}", moved.path, moved.query);
            let rewrite = json!({ "regex": moved.regex, "with": with });
            keys.insert("rewrite".to_owned(), rewrite);
        }
        let responds = keys.contains_key("respond") || keys.contains_key("redirect");
        // Its block inherits no `return`: it also guards what this location returns.
        is_closed |= self.limit_except(location, &mut keys);
        let passes = keys.contains_key("upstream");
        if responds {
            let mut own = Filters::default();
            headers::of(&location.scope, (false, false), &mut own, &mut self.fates);
            keys.extend(own.keys);
        } else {
            let Filters {
                keys: more,
                is_closed: closes,
            } = filters::of(
                &location.scope,
                self.http,
                passes,
                &mut self.limits,
                &mut self.fates,
            );
            keys.extend(more);
            is_closed |= closes | self.forward_auth(location, found, &mut keys);
            filters::satisfy(&location.scope, &mut keys, &mut self.fates);
        }
        // A server's own conditions hold again for the page.
        let mut refusals: Vec<&mut Map<String, Value>> = { cases.iter_mut() }
            .filter_map(|(_, action)| action.as_mut())
            .filter(|action| server_guards.is_empty() && refuses_with_page(action))
            .collect();
        if !responds || refuses_with_page(&keys) || !refusals.is_empty() {
            let sources = pages::Sources {
                server,
                found,
                named,
            };
            let to = (&mut self.upstreams, &mut self.fates);
            pages::of(&location.scope, &sources, passes, &mut keys, to);
        }
        if let Some(pages) = keys.get("error_pages") {
            for action in &mut refusals {
                action.insert("error_pages".to_owned(), pages.clone());
            }
        }
        if is_closed {
            keys = closed();
        }
        insert_conditions(&mut keys, &later);
        self.added_slash((location, found), &keys, audience, &comment, &cases);
        self.push(audience, &location.text, &keys, &comment, &cases);
    }

    /// Gives what conditions respond the headers of their place. A server's own conditions have its
    /// headers, and those of a location that has none itself.
    fn conditional_headers(
        &mut self,
        location: &Location<'a>,
        server_guards: &[Condition],
        cases: &mut [guards::Case],
    ) {
        if !server_guards.is_empty() && !location.scope.own("add_header").is_empty() {
            return;
        }
        for action in cases.iter_mut().filter_map(|(_, action)| action.as_mut()) {
            let mut own = Filters::default();
            headers::of(&location.scope, (false, false), &mut own, &mut self.fates);
            action.extend(own.keys);
        }
    }

    /// Adds the route that redirects to the path of a location with the slash at its end.
    fn added_slash(
        &mut self,
        (location, found): (&Location<'a>, &[Location<'a>]),
        keys: &Map<String, Value>,
        audience: &Audience,
        comment: &str,
        cases: &[guards::Case],
    ) {
        if let Some(path) = location.text.strip_suffix('/')
            && keys.contains_key("upstream")
            && location.tries.is_none()
            && path.starts_with('/')
            && !found.iter().any(|other| other.text == format!("= {path}"))
        {
            let to = json!({ "to": format!("{path}/?{{query}}"), "status": 301 });
            let mut action = Map::from_iter([("redirect".to_owned(), to)]);
            let mut own = Filters::default();
            headers::of(&location.scope, (false, false), &mut own, &mut self.fates);
            action.extend(own.keys);
            insert_conditions(&mut action, &self.conditions);
            // It guards the location's other spellings, and must not ask for more than that does.
            if let Some(limit) = keys.get("body_limit") {
                action.insert("body_limit".to_owned(), limit.clone());
            }
            let added = format!("{comment}: nginx adds the slash");
            self.push(audience, &format!("= {path}"), &action, &added, cases);
        }
    }

    /// Adds a condition that is no predicate of a route; returns true if it has no counterpart and
    /// kept requests out, so that what it guarded must be closed.
    fn later(&mut self, directive: &Directive, scope: &Scope<'_>, later: &mut Vec<Value>) -> bool {
        const WHY: &str = "this condition has no counterpart";
        if let Some(entry) = conditions::entry(directive, scope) {
            self.fates.carried(directive, "");
            for inner in directive.children() {
                self.fates.carried(inner, "");
            }
            later.push(entry);
            return false;
        }
        let refuses = conditions::refuses(directive);
        if refuses {
            self.fates.closed(directive, WHY);
        } else {
            self.fates.lost(directive, WHY);
        }
        refuses
    }

    /// Returns the routes of a place with conditions, and reports those that have none.
    fn cases(&mut self, guards: &[Condition], directive: &Directive) -> Vec<guards::Case> {
        guards::cases(guards).unwrap_or_else(|why| {
            self.fates.closed(directive, why);
            guards::shut()
        })
    }

    /// Adds the routes of a place, one for each case.
    fn push(
        &mut self,
        audience: &Audience,
        text: &str,
        keys: &Map<String, Value>,
        comment: &str,
        cases: &[guards::Case],
    ) {
        let route =
            |predicates: &Map<String, Value>, keys: &Map<String, Value>, comment: String| {
                let mut matches = Map::new();
                if !audience.hosts.is_empty() {
                    matches.insert("host".to_owned(), one_or_many(&audience.hosts));
                }
                if !audience.listeners.is_empty() {
                    matches.insert("listener".to_owned(), one_or_many(&audience.listeners));
                }
                matches.insert("location".to_owned(), text.into());
                matches.extend(predicates.clone());
                let mut value = Map::from_iter([("match".to_owned(), Value::Object(matches))]);
                value.extend(keys.clone());
                Part {
                    comment,
                    value: value.into(),
                }
            };
        for (predicates, action) in cases {
            let part = match action {
                Some(action) => route(predicates, action, format!("{comment}: if")),
                None => route(predicates, keys, comment.to_owned()),
            };
            // What an earlier line has taken is never reached.
            let mut known = self.parts.iter();
            if known.all(|known| known.value["match"] != part.value["match"]) {
                self.parts.push(part);
            }
        }
    }
}

/// Adds the conditions that the filter of this name decides.
fn insert_conditions(keys: &mut Map<String, Value>, conditions: &[Value]) {
    if !conditions.is_empty() {
        let mut all = conditions.to_vec();
        // What the location itself responds comes after.
        let own = keys.get("conditions").and_then(Value::as_array);
        all.extend(own.into_iter().flatten().cloned());
        keys.insert("conditions".to_owned(), all.into());
    }
}

/// Returns true if the route responds with the built-in page of an error, in whose place its own
/// page is.
fn refuses_with_page(keys: &Map<String, Value>) -> bool {
    let Some(respond) = keys.get("respond") else {
        return false;
    };
    let has_body = respond.get("body").is_some_and(|body| body != "");
    let status = respond.get("status").unwrap_or(respond).as_u64();
    !has_body && status.is_some_and(|status| status >= 400 && status != 444)
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
