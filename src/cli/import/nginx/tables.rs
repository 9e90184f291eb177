//! Lookup tables: the directives `map`, `geo` and `split_clients`, as `maps` of the gateway.

use serde_json::{Map, Value, json};

use super::{
    output::Part,
    parse::Directive,
    report::Fates,
    scope::Scope,
    words::{header_with, plain},
};
use crate::base::net::Cidr;

/// Longest chain of tables that use each other, as a guard against circles.
pub(super) const MAX_CHAIN: usize = 8;

/// Returns the value of a header with placeholders, those of tables included; `None` if a variable
/// has no counterpart.
pub(super) fn header(value: &str, scope: &Scope<'_>) -> Option<String> {
    value_of(value, scope, MAX_CHAIN)
}

/// Marks a directive whose header has this value as carried over.
pub(super) fn mark(directive: &Directive, value: &str, scope: &Scope<'_>, fates: &mut Fates) {
    let mut is_as_written = true;
    for (placeholder, note) in [
        (
            "{host.name}",
            "`$host` is empty for a request without `Host`; nginx takes the server's first name",
        ),
        ("{uri}", "`$request_uri` has the path in its normal form"),
    ] {
        if holds(placeholder, value, scope, MAX_CHAIN) {
            is_as_written = false;
            fates.changed(directive, note);
        }
    }
    if is_as_written {
        fates.carried(directive, "");
    }
}

/// Returns true if a value has a placeholder, itself or by tables.
fn holds(placeholder: &str, value: &str, scope: &Scope<'_>, depth: usize) -> bool {
    let by_table = |table: &Directive| {
        let name = variable_of(table).unwrap_or_default();
        value.contains(&format!("{{map.{name}}}"))
            && depth > 0
            && translate(table, scope, depth)
                .is_ok_and(|table| holds(placeholder, &table.to_string(), scope, depth - 1))
    };
    value.contains(placeholder) || all(scope).any(by_table)
}

fn value_of(value: &str, scope: &Scope<'_>, depth: usize) -> Option<String> {
    value_with(value, scope, depth, None)
}

/// Returns a value as [`value_of`] does, whose variables may be groups of an expression.
fn value_with(
    value: &str,
    scope: &Scope<'_>,
    depth: usize,
    regex: Option<&regex::Regex>,
) -> Option<String> {
    header_with(value, |variable| {
        if regex.is_some_and(|regex| has_group(regex, variable)) {
            return Some(format!("{{group.{variable}}}"));
        }
        let Some(table) = find(variable, scope) else {
            let mut names = scope.nearest("server_name").into_iter();
            let numbered = scope.numbered().map(|names| names.id);
            let is_number = variable.parse::<usize>().is_ok();
            let (name, _) = names.find_map(|names| {
                let is_known = !is_number || numbered == Some(names.id);
                of_host(names, variable).filter(|_| is_known)
            })?;
            return Some(format!("{{map.{name}}}"));
        };
        translate(table, scope, depth.checked_sub(1)?).ok()?;
        Some(format!("{{map.{variable}}}"))
    })
}

/// Returns the table of a variable.
fn find<'a>(variable: &str, scope: &Scope<'a>) -> Option<&'a Directive> {
    let tables = all(scope);
    let mut own = tables.filter(|table| variable_of(table) == Some(variable));
    own.next_back()
}

/// Returns true if a variable is a group of the expression, by number or by name.
fn has_group(regex: &regex::Regex, variable: &str) -> bool {
    match variable.parse::<usize>() {
        Ok(number) => (1..regex.captures_len()).contains(&number),
        Err(_) => regex.capture_names().flatten().any(|name| name == variable),
    }
}

/// Returns name and value of the table for a group of a server's name.
fn of_host(names: &Directive, variable: &str) -> Option<(String, Value)> {
    let mut names_in_order = names.args.iter();
    let regex = names_in_order.find_map(|name| {
        let regex = name.strip_prefix('~')?;
        let known = regex::Regex::new(regex).ok()?;
        has_group(&known, variable).then_some(regex)
    })?;
    let result = format!("{{group.{variable}}}");
    let values = Map::from_iter([(format!("~*{regex}"), result.into())]);
    // No variable of nginx has a dot in its name.
    let name = format!("host{}.{variable}", names.id);
    Some((name, json!({ "from": "{host.name}", "values": values })))
}

/// Returns the tables for groups of server names that `uses` holds.
fn of_hosts(http: &Scope<'_>, uses: &str) -> Vec<(String, Part)> {
    let mut found: Vec<(String, Part)> = Vec::new();
    for server in http.own("server") {
        for names in server
            .children()
            .iter()
            .filter(|one| one.name == "server_name")
        {
            let own = format!("{{map.host{}.", names.id);
            let groups = uses
                .split(&own)
                .skip(1)
                .filter_map(|rest| rest.split_once('}'));
            for (variable, _) in groups {
                let Some((name, value)) = of_host(names, variable) else {
                    continue;
                };
                if found.iter().all(|(known, _)| *known != name) {
                    let comment = names.place();
                    found.push((name, Part { comment, value }));
                }
            }
        }
    }
    found
}

/// Returns the tables of the file, all of which stand in `http`.
fn all<'a>(scope: &Scope<'a>) -> impl DoubleEndedIterator<Item = &'a Directive> {
    let tables = scope.outermost().iter();
    tables.filter(|one| {
        matches!(one.name.as_str(), "map" | "geo" | "split_clients") && one.block.is_some()
    })
}

fn variable_of(table: &Directive) -> Option<&str> {
    table.args.last()?.strip_prefix('$')
}

/// Returns the table as the configuration writes it, or the reason why it has no counterpart.
fn translate(table: &Directive, scope: &Scope<'_>, depth: usize) -> Result<Value, &'static str> {
    const VARIABLE: &str = "a variable of it has no counterpart";
    let of = |value: &str| value_of(value, scope, depth).ok_or(VARIABLE);
    if table.name == "geo" {
        let from = match &table.args[..] {
            [_] => None,
            [from, _] => Some(of(from)?),
            _ => return Err(VARIABLE),
        };
        return networks(table, from);
    }
    let from = of(table.arg(0))?;
    if table.name == "split_clients" {
        return shares(table, &from);
    }
    let mut entries = Entries::default();
    let hostnames = table.children().iter().any(|one| one.name == "hostnames");
    for entry in table.children() {
        let key = entry.name.as_str();
        match (key, &entry.args[..]) {
            ("hostnames" | "volatile", []) => {}
            ("default", [value]) => entries.default = of(value)?,
            (_, [value]) => {
                let regex = key
                    .strip_prefix('~')
                    .map(|regex| regex.trim_start_matches('*'));
                let regex = regex.and_then(|regex| regex::Regex::new(regex).ok());
                let value = value_with(value, scope, depth, regex.as_ref());
                entries.add(key, value.ok_or(VARIABLE)?, hostnames)?;
            }
            _ => return Err("one of its lines has no counterpart"),
        }
    }
    entries.value(&from).ok_or("it has no entries")
}

/// Returns a table of shares. nginx takes the results as they are written.
fn shares(table: &Directive, from: &str) -> Result<Value, &'static str> {
    let (mut shares, mut default) = (Map::new(), String::new());
    for entry in table.children() {
        let [result] = &entry.args[..] else {
            return Err("one of its lines has no counterpart");
        };
        if result.contains('{') {
            return Err("one of its results has no counterpart");
        }
        if entry.name == "*" {
            default.clone_from(result);
        } else if shares
            .insert(result.clone(), entry.name.clone().into())
            .is_some()
        {
            return Err("two of its shares have the same result");
        }
    }
    if shares.is_empty() {
        return Err("it has no shares");
    }
    let mut value = json!({ "from": from, "shares": shares });
    if !default.is_empty() {
        value["default"] = default.into();
    }
    Ok(value)
}

/// Returns all results of a table, with those of the tables that they are; `None` if one of them
/// has other placeholders, or is empty.
pub(super) fn results(variable: &str, scope: &Scope<'_>, depth: usize) -> Option<Vec<String>> {
    let table = translate(find(variable, scope)?, scope, MAX_CHAIN).ok()?;
    let mut all = vec![table.get("default")?.as_str()?.to_owned()];
    for (key, entries) in table.as_object()? {
        for (own, result) in entries.as_object().into_iter().flatten() {
            all.push(match key.as_str() {
                "shares" => own.clone(),
                _ => result.as_str()?.to_owned(),
            });
        }
    }
    let mut found = Vec::new();
    for result in all {
        let inner = result
            .strip_prefix("{map.")
            .and_then(|rest| rest.strip_suffix('}'));
        match inner {
            Some(inner) => found.extend(results(inner, scope, depth.checked_sub(1)?)?),
            None if result.is_empty() || result.contains('{') => return None,
            None => found.push(result),
        }
    }
    Some(found)
}

fn networks(table: &Directive, from: Option<String>) -> Result<Value, &'static str> {
    let mut value = Map::new();
    let (mut networks, mut default) = (Map::new(), String::new());
    if let Some(from) = from {
        value.insert("from".to_owned(), from.into());
    }
    for entry in table.children() {
        let [result] = &entry.args[..] else {
            return Err("one of its lines has no counterpart");
        };
        // Results of `geo` hold no variables: `$` is a letter like any other.
        let result = result.replace("${", "$${");
        match entry.name.as_str() {
            "default" => default = result,
            "proxy" | "delete" => return Err("`proxy` and `delete` have no counterpart"),
            network => {
                if network.parse::<Cidr>().is_err() {
                    return Err("one of its networks has bits beyond its prefix, or is a range");
                }
                networks.insert(network.to_owned(), result.into());
            }
        }
    }
    if networks.is_empty() {
        return Err("it has no networks");
    }
    value.insert("networks".to_owned(), networks.into());
    if !default.is_empty() {
        value.insert("default".to_owned(), default.into());
    }
    Ok(value.into())
}

/// Entries of a `map` in the order in which nginx looks at them.
#[derive(Default)]
struct Entries {
    exact: Vec<(String, String)>,
    /// Patterns of names with a wildcard, by the length of what is fixed.
    beginnings: Vec<(usize, String, String)>,
    ends: Vec<(usize, String, String)>,
    patterns: Vec<(String, String)>,
    default: String,
}

impl Entries {
    fn add(&mut self, key: &str, value: String, hostnames: bool) -> Result<(), &'static str> {
        if let Some(regex) = key.strip_prefix('~') {
            let regex = regex.strip_prefix('*').unwrap_or(regex);
            if regex::Regex::new(regex).is_err() {
                return Err("one of its regular expressions has no counterpart");
            }
            self.patterns.push((key.to_owned(), value));
            return Ok(());
        }
        if hostnames {
            if let Some(end) = key.strip_prefix("*.") {
                let pattern = format!("~*^.+\\.{}$", regex::escape(end));
                self.ends.push((end.len(), pattern, value));
                return Ok(());
            }
            if let Some(end) = key.strip_prefix('.') {
                let pattern = format!("~*^(?:.+\\.)?{}$", regex::escape(end));
                self.ends.push((end.len(), pattern, value));
                return Ok(());
            }
            if let Some(beginning) = key.strip_suffix(".*") {
                let pattern = format!("~*^{}\\.", regex::escape(beginning));
                self.beginnings.push((beginning.len(), pattern, value));
                return Ok(());
            }
        }
        let text = key.strip_prefix('\\').unwrap_or(key);
        let text = match text.strip_prefix('~') {
            Some(_) => format!("\\{text}"),
            None => text.to_owned(),
        };
        self.exact.push((text, value));
        Ok(())
    }

    /// Returns `None` if there is nothing but a default.
    fn value(mut self, from: &str) -> Option<Value> {
        self.ends.sort_by_key(|(length, ..)| usize::MAX - length);
        self.beginnings
            .sort_by_key(|(length, ..)| usize::MAX - length);
        let wildcards = self.ends.into_iter().chain(self.beginnings);
        let wildcards = wildcards.map(|(_, pattern, value)| (pattern, value));
        let all = self.exact.into_iter().chain(wildcards).chain(self.patterns);
        let values: Map<String, Value> = all.map(|(key, value)| (key, value.into())).collect();
        if values.is_empty() {
            return None;
        }
        let mut table = json!({ "from": from, "values": values });
        if !self.default.is_empty() {
            table["default"] = self.default.into();
        }
        Some(table)
    }
}

/// Returns the tables whose results `uses` holds, itself or by other tables, and marks all tables.
pub(super) fn parts(http: &Scope<'_>, mut uses: String, fates: &mut Fates) -> Vec<(String, Part)> {
    let mut found: Vec<(String, Part)> = Vec::new();
    let mut left: Vec<&Directive> = all(http).collect();
    loop {
        let next = left.iter().position(|table| {
            variable_of(table).is_some_and(|name| uses.contains(&format!("{{map.{name}}}")))
        });
        let Some(next) = next else { break };
        let table = left.remove(next);
        let name = variable_of(table).unwrap_or_default().to_owned();
        // The last table of a variable counts.
        if find(&name, http).is_none_or(|counts| counts.id != table.id) {
            continue;
        }
        let Ok(value) = translate(table, http, MAX_CHAIN) else {
            continue;
        };
        fates.carried(table, "");
        for entry in table.children() {
            fates.carried(entry, "");
        }
        uses.push_str(&value.to_string());
        let comment = table.place();
        found.push((name, Part { comment, value }));
    }
    found.extend(of_hosts(http, &uses));
    for table in left {
        // Those for WebSockets are needed by nothing here.
        if plain(table.arg(0)).is_none() && table.arg(0) == "$http_upgrade" {
            continue;
        }
        if let Err(why) = translate(table, http, MAX_CHAIN) {
            for one in std::iter::once(table).chain(table.children()) {
                fates.lost(one, why);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::import::nginx::{http_of, parse};

    /// Returns the `maps` for a header with the variable `$v`, and the report.
    fn imported(tables: &str) -> (Vec<(String, Value)>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, format!("http {{ {tables} }}")).unwrap();
        let source = parse::read(&path).unwrap();
        let mut fates = Fates::default();
        let http = http_of(&source, &mut fates);
        let uses = header("<$v>", &http).unwrap_or_default();
        let parts = parts(&http, uses, &mut fates);
        let parts = parts.into_iter().map(|(name, part)| (name, part.value));
        (parts.collect(), fates.report(&source.directives).text())
    }

    #[test]
    fn tables_that_are_used_become_maps() {
        for (tables, expected) in [
            (
                "map $http_a $v { x 1; ~*y $host; default d; } map $http_b $unused { x 1; }",
                json!({ "v": {
                    "from": "{header.a}", "values": { "x": "1", "~*y": "{host.name}" },
                    "default": "d",
                } }),
            ),
            (
                "map $w $v { \\\\default 1; \\~a 2; } map $cookie_c $w { a b; volatile; }",
                json!({
                    "v": { "from": "{map.w}", "values": { "default": "1", "\\~a": "2" } },
                    "w": { "from": "{cookie.c}", "values": { "a": "b" } },
                }),
            ),
            (
                "map $http_a $v { ~^(?<x>.)(.)$ $x-$2; }",
                json!({ "v": {
                    "from": "{header.a}", "values": { "~^(?<x>.)(.)$": "{group.x}-{group.2}" },
                } }),
            ),
            (
                "geo $http_x $v { default 0; 10.0.0.0/8 $1; }",
                json!({ "v": {
                    "from": "{header.x}", "networks": { "10.0.0.0/8": "$1" }, "default": "0",
                } }),
            ),
        ] {
            let (maps, report) = imported(tables);
            let maps: Map<String, Value> = maps.into_iter().collect();
            assert_eq!(Value::Object(maps), expected, "{tables}");
            assert!(report.contains("map") || report.contains("geo"), "{report}");
        }
    }

    #[test]
    fn headers_that_depend_on_the_host_have_another_meaning() {
        for (table, value, expected) in [
            ("", "a$host", true),
            ("", "$http_host", false),
            ("map $host $v { a b; }", "$v", true),
            ("map $w $v { a b; } map $http_a $w { a $host; }", "$v", true),
            ("map $http_a $v { a b; }", "$v", false),
        ] {
            let text = format!(
                "http {{ {table} server {{ listen 8080; add_header X {value};
                 location / {{ return 200 ok; }} }} }}"
            );
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("nginx.conf");
            fs::write(&path, text).unwrap();
            let (_, report) = crate::cli::import::nginx::import(&path).unwrap();
            let note = "add_header: `$host` is empty";
            assert_eq!(report.text().contains(note), expected, "{table} {value}");
        }
    }

    #[test]
    fn groups_of_a_servers_name_become_maps() {
        let text = "http { server { listen 8080; server_name ~^(?<sub>[a-z]+)\\.example\\.com$;
                    location / { proxy_pass http://127.0.0.1:1; proxy_set_header X-Sub <$sub>; } } }";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, text).unwrap();
        let (yaml, report) = crate::cli::import::nginx::import(&path).unwrap();
        let report = report.text();
        assert!(yaml.contains("{group.sub}"), "{yaml}");
        assert!(yaml.contains(".sub}>"), "{yaml}");
        let lost = report.split_once("Not carried over").unwrap().1;
        assert!(!lost.contains("proxy_set_header"), "{report}");
    }

    #[test]
    fn a_number_is_the_group_of_the_last_expression_that_matched() {
        // What the location has besides, what stands before the servers, and whether `$1` is known.
        for (location, before, is_known) in [
            ("location /a/ {", "", true),
            ("location = /a {", "", true),
            ("location ~ ^/(b) {", "", false),
            (
                "location /a/ { if ($http_a ~ (c)) { return 403; }",
                "",
                false,
            ),
            ("location /a/ { rewrite ^/a/(d) /$1 break;", "", false),
            ("location /a/ {", "map $http_a $b { ~(e) f; }", false),
            ("location @named {", "", false),
        ] {
            let text = format!(
                "http {{ {before} server {{ listen 8080; server_name ~^(.+)\\.example\\.com$;
                 {location} proxy_pass http://127.0.0.1:1; proxy_set_header X-Sub <$1>; }} }} }}"
            );
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("nginx.conf");
            fs::write(&path, text).unwrap();
            let (yaml, _) = crate::cli::import::nginx::import(&path).unwrap();
            assert_eq!(
                yaml.contains("{group.1}"),
                is_known,
                "{location}{before}: {yaml}"
            );
        }
    }

    #[test]
    fn tables_without_a_counterpart_are_in_the_report() {
        for (tables, why) in [
            ("map $http_a $v { ~(.) $2; }", "a variable of it"),
            ("map $nothing $v { a b; }", "a variable of it"),
            ("map $v $v { a b; }", "a variable of it"),
            ("map $http_a $v { ~(?=a)b c; }", "regular expressions"),
            ("map $http_a $v { default c; }", "it has no entries"),
            ("geo $v { ranges; 10.0.0.0-10.0.0.9 a; }", "lines"),
            ("geo $v { 10.0.0.1/8 a; }", "bits beyond"),
            ("geo $v { proxy 10.0.0.0/8; 10.0.0.0/8 a; }", "`proxy`"),
        ] {
            let (maps, report) = imported(tables);
            assert!(maps.is_empty(), "{tables} {maps:?}");
            let lost = report.split_once("Not carried over").unwrap().1;
            assert!(lost.contains(why), "{tables}: {report}");
        }
    }
}
