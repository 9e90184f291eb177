//! Rules of servers and locations: `if`, `set`, `rewrite`, `return` and `break`, in their order.

use edgeway_routes::values::Pattern;
use serde_json::{Map, Value, json};

use super::{
    collect::mark_and_path,
    conditions::{self, Condition},
    directives::{has_variable, is_listed},
    headers,
    locations::{Location, Place, Routes, closed},
    media,
    output::add_to,
    pages,
    parse::Directive,
    scope::Scope,
    tables,
    variables::{At, known, known_parts, value},
    words::{Piece, pieces, plain},
};

/// Rules of a block.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) list: Vec<Value>,
    /// True if one that kept requests out has no counterpart.
    pub(super) is_closed: bool,
    /// True if no request gets further.
    pub(super) is_end: bool,
}

impl Rules {
    fn push(&mut self, condition: Option<&Value>, rule: Value) {
        let mut keys = condition.cloned().unwrap_or_else(|| json!({}));
        if let (Some(keys), Value::Object(rule)) = (keys.as_object_mut(), rule) {
            keys.extend(rule);
        }
        self.list.push(keys);
    }

    /// Adds the rules of a block behind these, if requests get there.
    pub(super) fn then(mut self, behind: Self) -> Self {
        if !self.is_end {
            self.list.extend(behind.list);
            self.is_end = behind.is_end;
        }
        self.is_closed |= behind.is_closed;
        self
    }

    /// Settles headers that depend on the response, if each of these rules redirects.
    pub(super) fn settle_headers(&self, keys: &mut Map<String, Value>, scope: &Scope<'_>) {
        let all = self.list.iter().all(|rule| rule.get("to").is_some());
        if all && !self.list.is_empty() {
            headers::settle_redirects(keys, scope);
        }
    }

    /// Returns the rules of a location whose `proxy_pass` has a new path, by a rule behind them: one
    /// that ends the rules has that path too. `None` if one has no counterpart.
    pub(super) fn ending_with(self, destination: &Value) -> Option<Vec<Value>> {
        // Of a path that a rule has changed, nginx does not replace the path of the location.
        let is_for_changed = destination["then"] == "stop";
        let mut all = Vec::new();
        let mut left = self.list.into_iter();
        while let Some(mut rule) = left.next() {
            if rule["then"] == "later" {
                // The path of the destination chooses no location.
                left.as_slice().is_empty().then_some(())?;
                rule["then"] = "reroute".into();
            }
            let ends = rule["then"] == "stop" && rule.get("route").is_none();
            match rule["with"].as_str() {
                Some(new) if ends && is_for_changed => {
                    rule["with"] = sent_as(new, destination["with"].as_str()?)?.into();
                }
                None if ends && !destination["if"].is_null() => return None,
                None if ends => {
                    let mut with_path = rule.clone();
                    with_path["regex"] = destination["regex"].clone();
                    with_path["with"] = destination["with"].clone();
                    all.push(with_path);
                }
                _ => {}
            }
            all.push(rule);
        }
        Some(all)
    }
}

/// Returns what a backend gets for the new path of a rewrite, by the path of a destination, which
/// may have it as `{path.decoded}`; `None` if both have a query.
fn sent_as(new: &str, destination: &str) -> Option<String> {
    let (path, query) = match new.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (new, None),
    };
    let sent = destination.replace("{path.decoded}", path);
    match query {
        Some(query) if !sent.contains('?') => Some(format!("{sent}?{query}")),
        Some(_) if !destination.ends_with('?') => None,
        _ => Some(sent),
    }
}

impl<'a> Routes<'a, '_> {
    /// Translates the rules among these directives of a server or location.
    pub(super) fn rules(
        &mut self,
        directives: &'a [Directive],
        (place, scope): (&Place<'_, 'a>, &Scope<'a>),
    ) -> Rules {
        let mut rules = Rules::default();
        for directive in directives {
            self.rule(directive, None, (place, scope), &mut rules);
            if rules.is_end {
                break;
            }
        }
        rules
    }

    /// Translates one directive, under a condition.
    fn rule(
        &mut self,
        directive: &'a Directive,
        condition: Option<(&Condition, &Value)>,
        (place, scope): (&Place<'_, 'a>, &Scope<'a>),
        rules: &mut Rules,
    ) {
        let is_of_server = place.location.is_none();
        let groups = condition.and_then(|(condition, _)| condition.groups());
        let at = At::rule(scope, directive).with_groups(groups.as_deref());
        let keys = condition.map(|(_, keys)| keys);
        match directive.name.as_str() {
            "set" if directive.arg(0) == "$args" => match value(directive.arg(1), at) {
                Some(query) if !query.contains('{') => {
                    let mark = if query.is_empty() { "" } else { "?" };
                    let with = format!("{{path.decoded}}{mark}{query}?");
                    directive.carried("");
                    rules.push(keys, json!({ "regex": "^", "with": with }));
                }
                _ => directive.lost("the query stays that of the client"),
            },
            "set" if is_read_elsewhere(directive, place) => directive.weaker(OF_SET),
            "set" if rules.list.iter().any(|rule| rule["then"] == "stop") => {
                directive.weaker(OF_END);
            }
            "set" => directive.carried(""),
            "break" => {
                directive.carried("");
                rules.push(keys, json!({ "then": "stop" }));
            }
            "return" if let Some(route) = led_to(directive, keys.is_none(), (place, scope)) => {
                directive.carried("");
                rules.push(keys, json!({ "route": route, "then": "stop" }));
                rules.is_end |= keys.is_none();
            }
            "return" => match returned(directive, at, scope) {
                Ok(rule) => {
                    Self::mark_return(directive, &rule);
                    rules.push(keys, rule);
                    rules.is_end |= keys.is_none();
                }
                Err(why) => {
                    directive.closed(&why);
                    rules.is_closed = true;
                }
            },
            "rewrite" => match rewritten(directive, at, is_of_server) {
                Ok(rule) => {
                    let note = note_of_rewrite(directive);
                    match note {
                        Some(note) => directive.changed(note),
                        None => directive.carried(""),
                    }
                    rules.push(keys, rule);
                }
                Err(why) => directive.lost(why),
            },
            "if" if conditions::of_own_file(directive).is_none() || is_of_server => {
                self.condition(directive, (place, scope), rules);
            }
            _ => {}
        }
    }

    fn condition(
        &mut self,
        directive: &'a Directive,
        (place, scope): (&Place<'_, 'a>, &Scope<'a>),
        rules: &mut Rules,
    ) {
        let read = Condition::read(directive, At::rule(scope, directive));
        let keys = read.as_ref().and_then(Condition::keys);
        // A lookup table knows of a file.
        let keys = match (&read, keys) {
            (Some(read), None) => Some(of_file(read, directive, scope)),
            (_, keys) => keys,
        };
        let (Some(read), Some(keys)) = (read, keys) else {
            const WHY: &str = "this condition has no counterpart";
            if conditions::refuses(directive) {
                directive.closed(WHY);
                rules.is_closed = true;
            } else {
                directive.lost(WHY);
            }
            return;
        };
        if tables::has_target(&read.value, scope) {
            if conditions::refuses(directive) {
                directive.weaker(OF_TARGET);
            } else {
                directive.changed("`$request_uri` has the path in its normal form");
            }
        }
        if tables::is_forwarded(&read.value, scope) {
            directive.changed(tables::UNTRUSTED);
        } else {
            directive.carried("");
        }
        let inner = scope.inner(directive);
        let is_content = |one: &Directive| !is_listed("rules", &one.name);
        let first = rules.list.len();
        for one in directive.children() {
            self.rule(one, Some((&read, &keys)), (place, &inner), rules);
        }
        let responds = rules.list[first..].iter().any(leaves);
        let has_content = directive.children().iter().any(is_content);
        // The block does not inherit `try_files`.
        if (has_content || !responds && !scope.own("try_files").is_empty())
            && let Some(location) = place.location
        {
            let name = self.named_block(place, location, directive, &inner);
            // What it responds has the headers of the block.
            for rule in &mut rules.list[first..] {
                if rule.get("status").is_some() {
                    rule["route"] = name.clone().into();
                }
            }
            if !responds {
                let mut rule = keys.clone();
                rule["route"] = name.into();
                rules.list.insert(first, rule);
            }
        }
    }

    fn mark_return(directive: &Directive, rule: &Value) {
        let to = rule["to"].as_str().unwrap_or_default();
        if rule.get("body").is_some() {
            let of_type = "`Content-Type` does not depend on the extension of the path; ";
            let of_type = Some(of_type).filter(|_| rule["content_type"] != "*");
            let of_type = of_type.unwrap_or_default();
            directive.changed(format!("{of_type}{OF_CONDITIONS}"));
        } else if to.contains("{uri}") {
            let is_value = to.find('?') < to.find("{uri}") && to.contains('?');
            directive.changed(if is_value {
                "`$request_uri` has the path in its normal form, and is one value of the query: its \
                 `&` and `=` are encoded"
            } else {
                "`$request_uri` has the path in its normal form"
            });
        } else if to.contains("{path.decoded}") {
            directive.changed("`$uri` is percent-encoded in `Location`");
        } else {
            directive.carried("");
        }
    }

    /// Makes the route of a block that changes more than the course of a request, and returns its
    /// name.
    pub(super) fn named_block(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
        directive: &'a Directive,
        scope: &Scope<'a>,
    ) -> String {
        let name = format!("{}-{}", directive.name, directive.line);
        let name = self.free_name(&name);
        let block = Location::new(directive, scope.clone(), &location.text);
        let inner = Place {
            location: Some(&block),
            ..*place
        };
        let mut keys = self.keys(&inner, &block);
        // The rules of the location, which have those of the block, lead here: the new path is lost.
        let passes = keys.contains_key("upstream") && keys.contains_key("rules");
        let own_pass = scope.own("proxy_pass");
        if passes && (directive.name == "limit_except" || !own_pass.is_empty()) {
            for pass in scope.nearest("proxy_pass") {
                let note = format!("its path within `{}` has no counterpart", directive.name);
                pass.closed(&note);
            }
            keys = closed();
        }
        keys.remove("rules");
        self.push_named(&name, &keys, &directive.place());
        name
    }
}

/// Returns true if no request stays in the location behind a rule.
fn leaves(rule: &Value) -> bool {
    let is_for_all = rule["regex"].as_str().is_none_or(|regex| {
        let regex = Pattern::new(regex, false);
        regex.is_ok_and(|regex| {
            ["/", "/-"]
                .iter()
                .all(|path| regex.is_match(path) == Ok(true))
        })
    });
    is_for_all && (rule.get("status").is_some() || rule["then"] == "reroute")
}

/// Returns the keys of a condition on a file, as one on a lookup table.
fn of_file(condition: &Condition, directive: &Directive, scope: &Scope<'_>) -> Value {
    let name = format!("file.{}", directive.line);
    let value = json!({ "from": condition.value, "exists": "1" });
    let table = super::variables::add(&name, directive.place(), value, scope);
    let mut keys = json!({ "if": table });
    if condition.is_negated {
        keys["not"] = true.into();
    }
    keys
}

/// Note on a text.
const OF_CONDITIONS: &str =
    "the only condition with an effect is `If-None-Match: *` of `GET` and `HEAD`";

/// Note on a condition that keeps out requests by their target.
const OF_TARGET: &str = "`$request_uri` has the path in its normal form: `//`, `..` and \
    percent-encoded letters are resolved before, so that no request is refused for them";

/// Note on a variable behind a rule that ends the rules.
const OF_END: &str = "the variable has this value too where a rule before has ended the rules";

/// Note on a variable.
const OF_SET: &str =
    "where the request goes on to another location, the variable has no value of this one";

/// Returns true if a location that leads requests on sets a variable, and another one has it without
/// setting it.
fn is_read_elsewhere(set: &Directive, place: &Place<'_, '_>) -> bool {
    let leads_on = |one: &Directive| match &*one.name {
        "rewrite" => !["break", "permanent", "redirect"].contains(&one.arg(2)),
        name => ["try_files", "error_page"].contains(&name),
    };
    let sets = |one: &Directive| one.name == "set" && one.arg(0) == set.arg(0);
    let name = set.arg(0).trim_start_matches('$');
    let reads = |all: &[Directive]| !all.iter().any(sets) && has_variable(all, name);
    let named = place.named.iter().map(|named| named.directive);
    let mut all = place.locations.iter().map(|one| one.directive).chain(named);
    place.location.is_some_and(|own| {
        own.scope.innermost().iter().any(leads_on)
            && all.any(|one| one.id != own.directive.id && reads(one.children()))
    })
}

/// Returns the route that takes the requests of a `return` with a status alone (`error_page 418 =
/// @app`), unless it has rules: those do not run where a rule leads to it. A condition refuses
/// requests with the statuses that HTTP knows, and a refusal holds for other spellings too.
fn led_to<'s>(
    directive: &Directive,
    is_for_all: bool,
    (place, scope): (&Place<'s, '_>, &Scope<'_>),
) -> Option<&'s str> {
    let status = directive
        .args
        .first()
        .filter(|_| directive.args.len() == 1)?;
    let is_free = matches!(
        status.parse(),
        Ok(418..=420 | 430 | 432..=450 | 452..=499u16)
    );
    let to = pages::taking(status, scope, place).filter(|_| is_for_all || is_free)?;
    let has_rules = |one: &Directive| match &*one.name {
        "proxy_pass" => plain(one.arg(0)).is_none(),
        "limit_except" => true,
        name => name != "set" && is_listed("rules", name),
    };
    (!to.scope.innermost().iter().any(has_rules)).then_some(&to.route)
}

/// Returns the rule for a `return`, or the reason why it has none.
fn returned(directive: &Directive, at: At<'_, '_>, scope: &Scope<'_>) -> Result<Value, String> {
    let (status, rest) = match directive.arg(0).parse::<u16>() {
        // It closes the connection, too.
        Ok(499) if directive.args.len() == 1 => (444, None),
        Ok(status) => (status, directive.args.get(1)),
        Err(_) => (302, directive.args.first()),
    };
    if is_redirect(status) {
        let to = rest.ok_or("a redirect without a target has no counterpart")?;
        // A blank before it is part of the header's line, where it means nothing.
        return Ok(json!({ "status": status, "to": target(to.trim_start(), at)? }));
    }
    if status != 444 && !(200..600).contains(&status) {
        return Err(format!("{status} is no status of a response"));
    }
    let mut rule = json!({ "status": status });
    // Without a text, an error has the gateway's page.
    let rest = rest.map(String::as_str).or((status < 300).then_some(""));
    if let Some(text) = rest.filter(|_| !matches!(status, 204 | 205 | 304 | 444)) {
        let body = known(text, at).unwrap_or_else(|why| {
            // A text keeps nobody out.
            directive.lost(format!("{why}: the text is sent without it"));
            known_parts(text, at)
        });
        rule["body"] = body.into();
        rule["content_type"] = content_type(text, scope).into();
    }
    Ok(rule)
}

/// Returns the media type of a text that a scope returns: `*` for that of the path, which is no other
/// one where a value of the client is in the text.
fn content_type(text: &str, scope: &Scope<'_>) -> String {
    let types = media::types(scope);
    if let Some(("=", path)) = scope.location().map(mark_and_path) {
        let ending = path.rsplit_once('.').map(|(_, ending)| ending);
        let ending = ending.unwrap_or_default().to_ascii_lowercase();
        let kind = types.by_ending.get(&ending);
        return kind.unwrap_or(&types.default).clone();
    }
    let mut names = ["types", "default_type", "charset", "charset_types"].iter();
    let is_common = names.all(|name| {
        let mut common = scope.outermost().iter();
        let nearest = scope.one(name);
        nearest.is_none_or(|nearest| common.any(|one| one.id == nearest.id))
    });
    if is_common && !text.contains(['$', '{']) {
        return "*".to_owned();
    }
    types.default
}

pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Returns the target of a redirect, or the reason why it has no counterpart.
fn target(text: &str, at: At<'_, '_>) -> Result<String, String> {
    let list = pieces(text);
    let is_known = match list.first() {
        Some(Piece::Text(text)) => {
            text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://")
        }
        Some(Piece::Variable(_)) => true,
        None => false,
    };
    if !is_known {
        return Err(format!("`{text}` is neither a path nor a URL"));
    }
    let to = known(text, at)?;
    // A host that a client chooses by a group, and not by `Host`.
    let leads_anywhere = to.starts_with("http") && {
        let rest = to.split_once("://").map_or("", |(_, rest)| rest);
        let is_group = rest.starts_with("{group.") || rest.starts_with("{arg.");
        let after = rest.split_once('}').map_or("", |(_, after)| after);
        is_group && !after.starts_with('.')
    };
    if leads_anywhere {
        return Err("any client could choose its host".to_owned());
    }
    Ok(to)
}

/// Returns the rule for a `rewrite`, or the reason why it has none.
fn rewritten(directive: &Directive, at: At<'_, '_>, is_of_server: bool) -> Result<Value, String> {
    let (regex, with, flag) = (directive.arg(0), directive.arg(1), directive.arg(2));
    if Pattern::new(regex, false).is_err() {
        return Err("its expression has no counterpart".to_owned());
    }
    let at = at.with_groups(Some(regex));
    let is_url =
        with.starts_with("http://") || with.starts_with("https://") || with.starts_with("$scheme");
    let status = match flag {
        "permanent" => Some(301),
        "redirect" => Some(302),
        _ if is_url => Some(302),
        _ => None,
    };
    let (text, drops_query) = match with.strip_suffix('?') {
        Some(text) => (text, true),
        None => (with, false),
    };
    if let Some(status) = status {
        let more = match (drops_query, text.contains('?')) {
            (true, _) => "",
            (false, true) => "{query_and}{query}",
            (false, false) => "{query_mark}{query}",
        };
        let to = format!("{}{more}", target(text, at)?);
        return Ok(json!({ "regex": regex, "status": status, "to": to }));
    }
    let new = known(text, at)?;
    if !new.starts_with(['/', '{']) {
        return Err("its new path does not begin with a slash".to_owned());
    }
    let mark = if drops_query { "?" } else { "" };
    let mut rule = json!({ "regex": regex, "with": format!("{new}{mark}") });
    let then = match (flag, is_of_server) {
        ("last" | "break", true) | ("break", false) => Some("stop"),
        ("last", false) => Some("reroute"),
        (_, true) => None,
        (_, false) => Some("later"),
    };
    add_to(&mut rule, "then", then);
    Ok(rule)
}

/// Returns what is different of a rewrite.
fn note_of_rewrite(directive: &Directive) -> Option<&'static str> {
    let with = directive.arg(1);
    let query = with.trim_end_matches('?').split_once('?');
    let has_group = query.is_some_and(|(_, query)| query.contains('$'));
    if has_group {
        return Some("groups are percent-encoded where a character has a meaning in a query");
    }
    let is_redirect = ["permanent", "redirect"].contains(&directive.arg(2));
    let is_group = with.starts_with('$') && with[1..].starts_with(|c: char| c.is_ascii_digit());
    if is_group && !directive.arg(0).trim_start_matches('^').starts_with('(') && !is_redirect {
        return Some("a slash is put before a path that has none, which nginx refuses or mistakes");
    }
    (is_redirect && with.contains('$'))
        .then_some("a `?` of the path that the client encoded stays so in `Location`")
}
