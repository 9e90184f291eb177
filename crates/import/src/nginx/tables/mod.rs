//! Lookup tables: the directives `map`, `geo` and `split_clients`, as `maps` of the gateway.

use std::{collections::BTreeSet, iter, net::Ipv4Addr};

use edgeway_base::net::Cidr;
use edgeway_routes::values::Pattern;
use serde_json::{Map, Value, json};

use super::{
    entries::Entries,
    output::{Part, add_to, put},
    parse::Directive,
    scope::Scope,
    variables::{At, add, has_group, value},
    words::plain,
};

/// Returns the value of a header of a request with placeholders; `None` if a variable has no
/// counterpart.
pub(super) fn header(text: &str, scope: &Scope<'_>) -> Option<String> {
    value(text, At::request(scope))
}

/// Returns the value of a header of a response with placeholders.
pub(super) fn header_of_response(text: &str, scope: &Scope<'_>) -> Option<String> {
    value(text, At::response(scope))
}

/// Marks a directive whose header has this value as carried over.
pub(super) fn mark(directive: &Directive, value: &str, scope: &Scope<'_>) {
    let mut is_as_written = true;
    let all = with_tables(value, scope) + &directive.args.concat();
    for (placeholder, note) in [
        (
            "{host.name}",
            "`$host` is empty for a request without `Host`; nginx takes the server's first name",
        ),
        ("{uri}", "`$request_uri` has the path in its normal form"),
        ("{response.content-type}", REDIRECTS),
        (OF_PROXIES, UNTRUSTED),
        (
            "{backend}",
            "`$upstream_addr` is the address of the last backend only",
        ),
        (
            "{status}",
            "`$status` of a range is 206 or 416; nginx has 200",
        ),
        (
            "$binary_remote_addr",
            "`$binary_remote_addr` is the address as text",
        ),
    ] {
        if all.contains(placeholder) {
            is_as_written = false;
            directive.changed(note);
        }
    }
    if is_as_written {
        directive.carried("");
    }
}

/// Note on a value that comes from the type of a response.
pub(super) const REDIRECTS: &str = "`$sent_http_content_type` is empty for redirects of the \
    gateway; with nginx it is `text/html`";

/// Note on a value that comes from what proxies write.
pub(super) const UNTRUSTED: &str = "headers of proxies, such as `X-Forwarded-Proto`, count as absent \
                                    unless the client is in `trusted_proxies`; one that such a \
                                    proxy does not send has the gateway's value";

/// Returns true if a value comes from a header that only trusted proxies may send.
pub(super) fn is_forwarded(value: &str, scope: &Scope<'_>) -> bool {
    with_tables(value, scope).contains(OF_PROXIES)
}

/// Beginning of the placeholders of headers that only trusted proxies may send.
const OF_PROXIES: &str = "{proxy.";

/// Returns true if the values of a header depend on the media type of a response.
pub(super) fn is_by_media_type(value: &str, scope: &Scope<'_>) -> bool {
    with_tables(value, scope).contains("{response.content-type}")
}

/// Returns true if a value comes from the target of a request.
pub(super) fn has_target(value: &str, scope: &Scope<'_>) -> bool {
    with_tables(value, scope).contains("{uri}")
}

/// Returns a value with the tables that it leads to, each of them once.
fn with_tables(value: &str, scope: &Scope<'_>) -> String {
    const BEGIN: &str = "{map.";
    let mut text = value.to_owned();
    let mut known = BTreeSet::new();
    let mut at = 0;
    while let Some(begin) = text[at..].find(BEGIN) {
        at += begin + BEGIN.len();
        let Some((name, _)) = text[at..].split_once('}') else {
            break;
        };
        let name = name.to_owned();
        let new_table = (!known.contains(&name)).then(|| table(&name, scope));
        text.extend(new_table.flatten().map(|table| table.to_string()));
        known.insert(name);
    }
    text
}

/// Returns the table of a placeholder.
pub(super) fn table(name: &str, scope: &Scope<'_>) -> Option<Value> {
    let known = scope
        .derived
        .borrow()
        .get(name)
        .map(|part| part.value.clone());
    known.or_else(|| translate(find(name, scope)?, At::response(scope)).ok())
}

/// Returns true if a table has a counterpart at a place.
pub(super) fn is_translated(table: &Directive, at: At<'_, '_>) -> bool {
    translate(table, at).is_ok()
}

/// Returns the table of a variable.
pub(super) fn find<'a>(variable: &str, scope: &Scope<'a>) -> Option<&'a Directive> {
    let tables = all(scope);
    let mut matching = tables.filter(|table| variable_of(table) == Some(variable));
    matching.next_back()
}

/// Returns the table of a group of the server's name: `$1` only if no other expression can have
/// matched since.
pub(super) fn group_of_host(variable: &str, scope: &Scope<'_>) -> Option<String> {
    let names = scope.one("server_name")?;
    let is_number = variable.parse::<usize>().is_ok();
    if is_number && !is_last(names, scope) {
        return None;
    }
    let (name, value) = of_host(names, variable)?;
    Some(add(&name, names.place(), value, scope))
}

/// Returns true if the expression of a server's only name was the last one that matched.
fn is_last(names: &Directive, scope: &Scope<'_>) -> bool {
    let matches = |one: &Directive| match &*one.name {
        "rewrite" => true,
        "if" => one.args.iter().any(|arg| arg.contains('~')),
        "map" => one
            .children()
            .iter()
            .any(|entry| entry.name.starts_with('~')),
        _ => false,
    };
    let location = scope.location();
    let is_known = location.is_none_or(|location| {
        let is_named = location.arg(0).starts_with('@');
        !is_named && super::variables::expression(location).is_none()
    });
    let blocks = [scope.server(), location].into_iter().flatten();
    let mut all = blocks
        .flat_map(Directive::children)
        .chain(scope.outermost());
    names.args.len() == 1 && is_known && !all.any(matches)
}

/// Returns the table of `$invalid_referer`.
pub(super) fn invalid_referer(scope: &Scope<'_>) -> Option<String> {
    let valid = scope.nearest("valid_referers");
    let first = valid.first()?;
    let args = || valid.iter().flat_map(|one| &one.args);
    let has = |word: &str| args().any(|arg| arg == word);
    let mut values = Map::new();
    values.insert(String::new(), if has("none") { "" } else { "1" }.into());
    let end = r"(?:[:/?#]|$)";
    let names = scope.one("server_name");
    let hosts = names.iter().flat_map(|names| &names.args);
    let hosts = hosts.filter(|_| has("server_names"));
    for name in args().chain(hosts) {
        if ["none", "blocked", "server_names"].contains(&name.as_str()) {
            continue;
        }
        let pattern = if let Some(regex) = name.strip_prefix('~') {
            format!("~*^https?://.*?(?:{})", regex.trim_start_matches('^'))
        } else {
            let (host, path) = name.split_at(name.find('/').unwrap_or(name.len()));
            let host = match (host.strip_prefix("*."), host.strip_prefix('.')) {
                (Some(below), _) => format!(r".+\.{}", regex::escape(below)),
                (_, Some(below)) => format!(r"(?:.+\.)?{}", regex::escape(below)),
                _ => match host.strip_suffix(".*") {
                    Some(begin) => format!(r"{}\.[^/:?#]+", regex::escape(begin)),
                    None => regex::escape(host),
                },
            };
            match path {
                "" => format!("~*^https?://{host}{end}"),
                path => format!("~*^https?://{host}(?::[0-9]+)?{}", regex::escape(path)),
            }
        };
        Pattern::of_text(&pattern)?.ok()?;
        values.insert(pattern, "".into());
    }
    if has("blocked") {
        values.insert("~*^(?!https?://)".to_owned(), "".into());
    }
    let value = json!({ "from": "{header.referer}", "values": values, "default": "1" });
    let name = format!("invalid_referer.{}", first.line);
    Some(add(&name, first.place(), value, scope))
}

/// Returns name and value of the table for a group of a server's name.
fn of_host(names: &Directive, variable: &str) -> Option<(String, Value)> {
    let mut names_in_order = names.args.iter();
    let regex = names_in_order.find_map(|name| {
        let regex = name.strip_prefix('~')?;
        has_group(regex, variable).then_some(regex)
    })?;
    let result = format!("{{group.{variable}}}");
    let values = Map::from_iter([(format!("~*{regex}"), result.into())]);
    // No variable of nginx has a dot in its name.
    let name = format!("host{}.{variable}", names.line);
    Some((name, json!({ "from": "{host.name}", "values": values })))
}

/// Returns the tables of the file, all of which stand in `http`.
fn all<'a>(scope: &Scope<'a>) -> impl DoubleEndedIterator<Item = &'a Directive> {
    let tables = scope.outermost().iter();
    tables.filter(|one| variable_of(one).is_some())
}

/// Returns the variable of a table; `None` for another directive.
pub(super) fn variable_of(table: &Directive) -> Option<&str> {
    let is_table = matches!(table.name.as_str(), "map" | "geo" | "split_clients");
    let name = table.args.last()?.strip_prefix('$')?;
    (is_table && table.block.is_some()).then_some(name)
}

/// Returns the table as the configuration writes it, or the reason why it has no counterpart.
fn translate(table: &Directive, at: At<'_, '_>) -> Result<Value, &'static str> {
    const VARIABLE: &str = "a variable of it has no counterpart";
    let of = |text: &str| value(text, at).ok_or(VARIABLE);
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
            (_, [result]) => match result_of(key, result, at) {
                Ok(result) if key == "default" => entries.default = result,
                // Without a counterpart its keys have an empty result.
                Err(_) if key == "default" && at.is_lenient => entries.default.clear(),
                Err(_) if at.is_lenient => drop(entries.add(key, String::new(), hostnames)),
                Err(why) => return Err(why),
                Ok(result) => match entries.add(key, result, hostnames) {
                    Err(why) if !at.is_lenient => return Err(why),
                    _ => {}
                },
            },
            _ => return Err("one of its lines has no counterpart"),
        }
    }
    if table.children().iter().all(|one| one.name == "default") {
        entries.add("", entries.default.clone(), false)?;
    }
    entries.value(&from).ok_or("it has no entries")
}

/// Returns the result of an entry of a `map`.
fn result_of(key: &str, result: &str, at: At<'_, '_>) -> Result<String, &'static str> {
    let regex = key.strip_prefix('~').map(|_| key);
    value(result, at.with_groups(regex)).ok_or("a variable of it has no counterpart")
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
    add_to(&mut value, "default", default);
    Ok(value)
}

/// Returns all results of a table, with those of the tables that they are; `None` if one of them
/// has other placeholders, or is empty.
pub(super) fn results(name: &str, scope: &Scope<'_>, depth: usize) -> Option<Vec<String>> {
    let table = table(name, scope)?;
    let default = table.get("default").is_none().then_some("");
    let mut names = Vec::new();
    for result in texts(&table).chain(default) {
        let inner = result
            .strip_prefix("{map.")
            .and_then(|rest| rest.strip_suffix('}'));
        match inner {
            Some(inner) => names.extend(results(inner, scope, depth.checked_sub(1)?)?),
            None if result.is_empty() || result.contains('{') => return None,
            None => names.push(result.to_owned()),
        }
    }
    names.sort();
    names.dedup();
    Some(names)
}

/// Returns true if a path has what clients may send beside the path: nginx passes it on as it is, so
/// that it may be a query, or another path.
pub(super) fn is_of_client(path: &str, scope: &Scope<'_>, depth: usize) -> bool {
    const SENT: [&str; 5] = ["{arg.", "{cookie.", "{header.", "{proxy.", "{query"];
    let has = |text: &str| SENT.iter().any(|begin| text.contains(begin));
    let Some(depth) = depth.checked_sub(1).filter(|_| !has(path)) else {
        return true;
    };
    path.split("{map.").skip(1).any(|rest| {
        let name = rest.split('}').next().unwrap_or_default();
        let Some(table) = table(name, scope) else {
            return true;
        };
        let from = table["from"].as_str().unwrap_or_default();
        let mut results = texts(&table);
        results.any(|result| {
            result.contains('?')
                || result.contains("{group.") && is_of_client(from, scope, depth)
                || is_of_client(result, scope, depth)
        })
    })
}

/// Returns the value of a text for a response of HTML, if nothing else decides about it.
pub(super) fn of_html(text: &str, scope: &Scope<'_>) -> Option<String> {
    if text == "{response.content-type}" {
        return Some("text/html".to_owned());
    }
    let Some(name) = text
        .strip_prefix("{map.")
        .and_then(|rest| rest.strip_suffix('}'))
    else {
        return (!text.contains('{')).then(|| text.to_owned());
    };
    let table = table(name, scope)?;
    let from = of_html(table["from"].as_str()?, scope)?;
    let values = table["values"].as_object()?;
    let matches = |key: &str| {
        let pattern = Pattern::of_text(key).and_then(Result::ok);
        pattern.is_some_and(|pattern| pattern.is_match(&from).unwrap_or(false))
    };
    let mut patterns = values.iter().filter(|(key, _)| matches(key));
    let result = values.get(&from).or_else(|| Some(patterns.next()?.1));
    let result = result.unwrap_or(&table["default"]).as_str();
    of_html(result.unwrap_or_default(), scope)
}

/// Returns the results of a table as they are written.
fn texts(table: &Value) -> impl Iterator<Item = &str> {
    let entries = table.as_object().into_iter().flatten();
    let results = entries.flat_map(|(key, entries)| {
        let entries = entries.as_object().into_iter().flatten();
        let is_share = key == "shares";
        entries.filter_map(move |(name, result)| {
            if is_share {
                Some(name.as_str())
            } else {
                result.as_str()
            }
        })
    });
    let single = ["default", "exists"].into_iter();
    results.chain(single.filter_map(|key| table[key].as_str()))
}

/// Returns true if a table has the query behind `?` for some requests, and nothing for others.
pub(super) fn is_query(name: &str, scope: &Scope<'_>) -> bool {
    table(name, scope).is_some_and(|table| {
        let is_query = |results: &Map<_, _>| results.values().all(|one| one == "?{query}");
        table["default"].as_str().is_none_or(str::is_empty)
            && table["values"].as_object().is_some_and(is_query)
    })
}

/// Returns all results of a variable's table as they are written, empty ones too.
pub(super) fn results_or_empty(variable: &str, scope: &Scope<'_>) -> Option<Vec<String>> {
    let table = table(variable, scope)?;
    let default = table.get("default").is_none().then_some("");
    let all: Vec<String> = texts(&table).chain(default).map(str::to_owned).collect();
    (!all.iter().any(|result| result.contains('{'))).then_some(all)
}

/// Returns the networks that make up a range of IPv4 addresses.
fn range_of(range: &str) -> Option<impl Iterator<Item = String> + use<>> {
    let (first, last) = range.split_once('-')?;
    let address = |text: &str| text.trim().parse::<Ipv4Addr>().ok().map(u32::from);
    let (first, last) = (address(first)?, address(last)?);
    let mut next = u64::from(first);
    let end = u64::from(last) + 1;
    (first <= last).then(|| {
        iter::from_fn(move || {
            let begin = u32::try_from(next).ok().filter(|_| next < end)?;
            // The largest network that begins here and ends within the range.
            let bits = (0..=32u32)
                .rev()
                .find(|bits| next.trailing_zeros() >= *bits && next + (1 << bits) <= end)?;
            next += 1 << bits;
            Some(format!("{}/{}", Ipv4Addr::from(begin), 32 - bits))
        })
    })
}

fn networks(table: &Directive, from: Option<String>) -> Result<Value, &'static str> {
    let mut value = Map::new();
    let (mut networks, mut default) = (Map::new(), String::new());
    if let Some(from) = from {
        value.insert("from".to_owned(), from.into());
    }
    for entry in table.children() {
        if entry.name == "ranges" && entry.args.is_empty() {
            continue;
        }
        let [result] = &entry.args[..] else {
            return Err("one of its lines has no counterpart");
        };
        // Results of `geo` hold no variables: `$` is a letter like any other.
        let result = result.replace("${", "$${");
        match entry.name.as_str() {
            "default" => default = result,
            "proxy" | "delete" => return Err("`proxy` and `delete` have no counterpart"),
            range if range.contains('-') => {
                let all = range_of(range).ok_or("one of its ranges cannot be read")?;
                networks.extend(all.map(|network| (network, result.clone().into())));
            }
            network => {
                if network.parse::<Cidr>().is_err() {
                    return Err("one of its networks has bits beyond its prefix");
                }
                networks.insert(network.to_owned(), result.into());
            }
        }
    }
    if networks.is_empty() {
        return Err("it has no networks");
    }
    value.insert("networks".to_owned(), networks.into());
    put(&mut value, "default", default);
    Ok(value.into())
}

/// Returns the tables whose results `uses` holds, itself or by other tables, and marks all tables.
pub(super) fn parts(http: &Scope<'_>, mut uses: String) -> Vec<(String, Part)> {
    let mut parts: Vec<(String, Part)> = Vec::new();
    let mut left: Vec<&Directive> = all(http).collect();
    let mut derived = http.derived.borrow().clone();
    let is_used = |name: &str, uses: &str| uses.contains(&format!("{{map.{name}}}"));
    loop {
        let next_used = derived.keys().find(|name| is_used(name, &uses)).cloned();
        if let Some((name, part)) = next_used.and_then(|name| derived.remove_entry(&name)) {
            uses.push_str(&part.value.to_string());
            parts.push((name, part));
            continue;
        }
        let next = left
            .iter()
            .position(|table| variable_of(table).is_some_and(|name| is_used(name, &uses)));
        let Some(next) = next else { break };
        let table = left.remove(next);
        let name = variable_of(table).unwrap_or_default().to_owned();
        // The last table of a variable counts.
        if find(&name, http).is_none_or(|counts| counts.id != table.id) {
            continue;
        }
        let place = At::response(http).lenient();
        let Ok(value) = translate(table, place) else {
            continue;
        };
        if is_forwarded(&value["from"].to_string(), http) {
            table.changed(UNTRUSTED);
        } else {
            table.carried("");
        }
        for entry in table.children() {
            let [result] = &entry.args[..] else {
                entry.carried("");
                continue;
            };
            let hostnames = false;
            let known = result_of(&entry.name, result, place)
                .and_then(|result| Entries::default().add(&entry.name, result, hostnames));
            match known {
                Err(why) if table.name == "map" => entry.lost(why),
                _ => entry.carried(""),
            }
        }
        uses.push_str(&value.to_string());
        parts.push((name, Part::at(table, value)));
    }
    for table in left {
        // Those for WebSockets are needed by nothing here.
        if plain(table.arg(0)).is_none() && table.arg(0) == "$http_upgrade" {
            continue;
        }
        if let Err(why) = translate(table, At::response(http)) {
            for one in std::iter::once(table).chain(table.children()) {
                one.lost(why);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests;
