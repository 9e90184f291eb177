//! Variables of nginx as placeholders of the gateway: its own, those that `set` defines, groups of
//! expressions, and those that lookup tables have.
//!
//! A variable that `set` defines is a text; one that an `if` changes is a lookup table over what the
//! `if` compares, whose other result is the variable as it was before.

use serde_json::{Map, Value, json};

use super::{
    conditions::{Condition, Test},
    output::{Part, add_to},
    parse::Directive,
    scope::Scope,
    tables,
    words::{Piece, pieces, plain},
};

/// Longest chain of definitions that use each other, as a guard against circles.
pub(super) const MAX_CHAIN: usize = 24;

/// Place where a value is used.
#[derive(Clone, Copy)]
pub(super) struct At<'s, 'a> {
    pub(super) scope: &'s Scope<'a>,
    /// Directive before which definitions count; all of them if absent.
    before: Option<usize>,
    /// Expression whose groups `$1` and the like are here, as `{group.1}`.
    groups: Option<&'s str>,
    /// True if there is a response that values may come from.
    has_response: bool,
    /// True where an entry of a table that has no counterpart may be left out alone: nothing that
    /// keeps requests out depends on the value.
    pub(super) is_lenient: bool,
    depth: usize,
}

impl<'s, 'a> At<'s, 'a> {
    /// Place of a value that is used once all rules of a location have run.
    pub(super) fn request(scope: &'s Scope<'a>) -> Self {
        Self {
            scope,
            before: None,
            groups: None,
            has_response: false,
            is_lenient: false,
            depth: MAX_CHAIN,
        }
    }

    pub(super) fn response(scope: &'s Scope<'a>) -> Self {
        Self {
            has_response: true,
            ..Self::request(scope)
        }
    }

    /// Place of a value within the rules, at this directive.
    pub(super) fn rule(scope: &'s Scope<'a>, directive: &Directive) -> Self {
        Self {
            before: Some(directive.id),
            ..Self::request(scope)
        }
    }

    /// Returns the place with the groups of an expression.
    pub(super) fn with_groups(self, groups: Option<&'s str>) -> Self {
        Self { groups, ..self }
    }

    /// Returns the place of a value on which nothing depends that keeps requests out.
    pub(super) fn lenient(self) -> Self {
        Self {
            is_lenient: true,
            ..self
        }
    }

    fn deeper(self) -> Option<Self> {
        Some(Self {
            depth: self.depth.checked_sub(1)?,
            ..self
        })
    }
}

/// Returns a value with placeholders; `None` if a variable has no counterpart.
pub(super) fn value(text: &str, at: At<'_, '_>) -> Option<String> {
    let text: Option<String> = parts(text, at).collect();
    text.map(|text| text.replace("${", "$${"))
}

/// Returns a text with placeholders, and without the variables that have no counterpart.
pub(super) fn known_parts(text: &str, at: At<'_, '_>) -> String {
    let known: String = parts(text, at).flatten().collect();
    known.replace("${", "$${")
}

/// Returns the parts of a text with placeholders; `None` for a variable without a counterpart.
fn parts<'p>(text: &str, at: At<'p, 'p>) -> impl Iterator<Item = Option<String>> + 'p {
    pieces(text).into_iter().map(move |piece| match piece {
        Piece::Text(text) => Some(text),
        Piece::Variable(name) => placeholder(&name, at),
    })
}

/// Returns a value with placeholders, or the reason why it has no counterpart.
pub(super) fn known(text: &str, at: At<'_, '_>) -> Result<String, String> {
    value(text, at).ok_or_else(|| format!("{} has no counterpart", culprit(text, at)))
}

/// Names the first variable of a text without a counterpart, or else its first one.
pub(super) fn culprit(text: &str, at: At<'_, '_>) -> String {
    let list = pieces(text);
    let names = list.iter().filter_map(|piece| match piece {
        Piece::Variable(name) => Some(name.as_str()),
        Piece::Text(_) => None,
    });
    let unknown = names.clone().find(|name| placeholder(name, at).is_none());
    format!("`${}`", unknown.or({ names }.next()).unwrap_or_default())
}

/// Returns what stands for a variable.
fn placeholder(name: &str, at: At<'_, '_>) -> Option<String> {
    if let Some(groups) = at.groups
        && has_group(groups, name)
    {
        return Some(format!("{{group.{name}}}"));
    }
    if let Some(text) = built_in(name, at) {
        return text;
    }
    if let Some(defined) = defined(name, at) {
        return defined;
    }
    if let Some(table) = tables::find(name, at.scope) {
        return tables::is_translated(table, at.deeper()?).then(|| format!("{{map.{name}}}"));
    }
    group_of_path(name, at).or_else(|| tables::group_of_host(name, at.scope))
}

/// Returns the placeholder of a variable that nginx has itself; the inner value is `None` if there is
/// no counterpart.
#[expect(clippy::option_option, reason = "another variable, none, or a text")]
fn built_in(name: &str, at: At<'_, '_>) -> Option<Option<String>> {
    let scope = at.scope;
    let fixed = match name {
        // As a key, the text does as well as the bytes.
        "remote_addr" | "binary_remote_addr" => "{client.ip}",
        "remote_port" => "{client.port}",
        "request_id" => "{request_id}",
        "host" => "{host.name}",
        "http_host" => "{host}",
        "server_port" => "{listener.port}",
        "scheme" => "{scheme}",
        "server_protocol" => "{protocol}",
        "request_method" => "{method}",
        "request" => "{method} {uri} {protocol}",
        "request_uri" => "{uri}",
        "uri" | "document_uri" => "{path.decoded}",
        "args" | "query_string" => "{query}",
        "is_args" => "{query_mark}",
        "content_type" => "{header.content-type}",
        "content_length" => "{header.content-length}",
        "msec" => "{now}",
        "remote_user" => {
            let login = scope.one("auth_basic");
            let has_login = login.is_some_and(|login| login.arg(0) != "off");
            // Rules run before logins.
            let is_known = has_login && at.before.is_none();
            return Some(is_known.then(|| "{user}".to_owned()));
        }
        "status" => "{status}",
        "upstream_cache_status" | "upstream_addr" | "upstream_status" if at.has_response => {
            match name {
                "upstream_cache_status" => "{cache.status}",
                "upstream_addr" => "{backend}",
                _ => "{status}",
            }
        }
        // The gateway has added the client by then.
        "proxy_add_x_forwarded_for" if at.has_response => "{header.x-forwarded-for}",
        "server_name" => {
            let names = scope.one("server_name");
            let name = names.map_or("", |names| names.arg(0));
            return Some(Some(name.trim_start_matches('.').to_lowercase()));
        }
        "document_root" => {
            let root = scope.nearest_of(&["alias", "root"]);
            return Some(root.first().and_then(|root| plain(root.arg(0))));
        }
        "request_filename" => {
            let root = scope.nearest_of(&["alias", "root"]);
            let root = root.first().filter(|root| root.name == "root");
            let root = root.and_then(|root| plain(root.arg(0)));
            return Some(root.map(|root| format!("{root}{{path.decoded}}")));
        }
        "https" => return Some(Some(https(scope))),
        // The gateway takes no early data.
        "ssl_early_data" => return Some(Some(String::new())),
        "http2" => return Some(Some(http2(scope))),
        "invalid_referer" => return Some(tables::invalid_referer(scope)),
        _ => {
            let (kind, rest) = name.split_once('_')?;
            let dashed = rest.replace('_', "-");
            return Some(match (kind, rest.split_once('_')) {
                ("http", _) => {
                    let is_of_proxies = dashed.starts_with("x-forwarded-")
                        || matches!(&*dashed, "forwarded" | "x-real-ip");
                    let kind = if is_of_proxies { "proxy" } else { "header" };
                    Some(format!("{{{kind}.{dashed}}}"))
                }
                ("cookie", _) => Some(format!("{{cookie.{rest}}}")),
                ("arg", _) => Some(format!("{{arg.{rest}}}")),
                ("sent" | "upstream", Some(("http", header))) if at.has_response => {
                    Some(format!("{{response.{}}}", header.replace('_', "-")))
                }
                _ => return None,
            });
        }
    };
    Some(Some(fixed.to_owned()))
}

/// Returns the value of `$https`.
fn https(scope: &Scope<'_>) -> String {
    let value = json!({ "from": "{scheme}", "values": { "https": "on" } });
    add("https", "$https".to_owned(), value, scope)
}

/// Returns the value of `$http2`: HTTP/2 with TLS, which is the only one that there is here.
fn http2(scope: &Scope<'_>) -> String {
    let value = json!({ "from": "{protocol}", "values": { "HTTP/2.0": "h2" } });
    add("http2", "$http2".to_owned(), value, scope)
}

/// Returns the value that `set` gives a variable before a place. The outer value is `None` if no
/// `set` defines it there, the inner one if one of them has no counterpart.
#[expect(clippy::option_option, reason = "another variable, none, or a text")]
fn defined(name: &str, at: At<'_, '_>) -> Option<Option<String>> {
    let mut state: Option<Option<String>> = None;
    for step in steps(at) {
        let here = At {
            before: Some(step.id),
            // What uses the variable, such as a `rewrite`, has groups of its own.
            groups: None,
            ..at.deeper()?
        };
        match step.name.as_str() {
            "set" if is_of(step, name) => {
                let around = at.scope.owner().filter(|around| {
                    let mut inner = around.children().iter();
                    around.name == "if" && inner.any(|one| one.id == step.id)
                });
                let by_group = || changed(around?, step, Some(String::new()), here);
                state = Some(value(step.arg(1), here).or_else(by_group));
            }
            "if" => {
                let inner = until_break(step).filter(|one| one.name == "set");
                let set = inner.filter(|one| is_of(one, name)).last();
                let before = state.clone().unwrap_or_else(|| Some(String::new()));
                let after = match set {
                    Some(set) => changed(step, set, before, here),
                    None if names_group(step, name) => group_of_condition(step, name, before, here),
                    None => continue,
                };
                state = Some(after);
            }
            _ => {}
        }
    }
    // A variable that is defined elsewhere is empty here.
    let is_elsewhere = || at.scope.outermost().iter().any(|one| defines(one, name));
    state.or_else(|| is_elsewhere().then(|| Some(String::new())))
}

/// Returns the directives of a block that run: a `break` ends them.
fn until_break(block: &Directive) -> impl Iterator<Item = &Directive> {
    block
        .children()
        .iter()
        .take_while(|one| one.name != "break")
}

fn is_of(set: &Directive, name: &str) -> bool {
    set.arg(0).strip_prefix('$') == Some(name)
}

fn defines(directive: &Directive, name: &str) -> bool {
    (directive.name == "set" && is_of(directive, name))
        || directive.children().iter().any(|one| defines(one, name))
}

/// Returns the directives that run before a place: those of the server, then those of its innermost
/// location, and of the block of an `if` in that.
fn steps<'a>(at: At<'_, 'a>) -> Vec<&'a Directive> {
    let blocks = [at.scope.server(), at.scope.location(), at.scope.owner()];
    let mut blocks: Vec<&Directive> = blocks.into_iter().flatten().collect();
    blocks.dedup_by_key(|block| block.id);
    let all = blocks.into_iter().flat_map(Directive::children);
    all.filter(|one| at.before.is_none_or(|before| one.id < before))
        .collect()
}

/// Returns the variable after a `set` in the block of an `if`.
fn changed(
    condition: &Directive,
    set: &Directive,
    before: Option<String>,
    at: At<'_, '_>,
) -> Option<String> {
    let before = before?;
    let read = Condition::read(condition, at)?;
    let groups = read.groups();
    // Within the block, the variable is what it was before.
    let inner = At {
        before: Some(condition.id),
        ..at
    };
    let after = value(set.arg(1), inner.with_groups(groups.as_deref()))?;
    let name = format!("{}.{}", set.arg(0).trim_start_matches('$'), set.line);
    Some(table_of(&read, &name, &after, &before, condition, at.scope))
}

fn names_group(condition: &Directive, name: &str) -> bool {
    let has = |arg: &String| {
        ["<", "'"]
            .iter()
            .any(|mark| arg.contains(&format!("?{mark}{name}")))
    };
    name.parse::<u8>().is_err() && condition.args.iter().any(has)
}

/// Returns a variable that is a group of the expression of an `if`.
fn group_of_condition(
    condition: &Directive,
    name: &str,
    before: Option<String>,
    at: At<'_, '_>,
) -> Option<String> {
    let before = before?;
    let read = Condition::read(condition, at)?;
    let group = format!("{{group.{name}}}");
    let table = format!("{name}.{}", condition.line);
    Some(table_of(
        &read, &table, &group, &before, condition, at.scope,
    ))
}

/// Adds the table of a condition with a result for when it holds and one for when it does not, and
/// returns its placeholder.
fn table_of(
    condition: &Condition,
    name: &str,
    holds: &str,
    fails: &str,
    place: &Directive,
    scope: &Scope<'_>,
) -> String {
    let (yes, no) = if condition.is_negated {
        (fails, holds)
    } else {
        (holds, fails)
    };
    let from = &condition.value;
    let mut default = no;
    let one = |regex: String| json!({ "from": from, "values": { regex: yes } });
    let mut table = match &condition.test {
        Test::True => {
            default = yes;
            json!({ "from": from, "values": { "": no, "0": no } })
        }
        Test::Equal(text) => one(format!("~^{}$", regex::escape(text))),
        Test::Like(regex) => one(regex.clone()),
        Test::Exists => json!({ "from": from, "exists": yes }),
    };
    add_to(&mut table, "default", default);
    add(name, place.place(), table, scope)
}

/// Adds a table under a free name, and returns its placeholder.
pub(super) fn add(name: &str, comment: String, value: Value, scope: &Scope<'_>) -> String {
    let mut derived = scope.derived.borrow_mut();
    let mut free = name.to_owned();
    while derived.get(&free).is_some_and(|known| known.value != value) {
        free.push_str("-b");
    }
    derived.insert(free.clone(), Part { comment, value });
    format!("{{map.{free}}}")
}

/// Returns true if an expression has a group, by number or by name.
pub(super) fn has_group(regex: &str, name: &str) -> bool {
    let Ok(regex) = fancy_regex::Regex::new(regex.trim_start_matches(['~', '*'])) else {
        return false;
    };
    match name.parse::<usize>() {
        Ok(number) => (1..regex.captures_len()).contains(&number),
        Err(_) => regex.capture_names().flatten().any(|own| own == name),
    }
}

/// Returns the table of a group of the expression of the location.
fn group_of_path(name: &str, at: At<'_, '_>) -> Option<String> {
    let location = at.scope.location()?;
    let (mark, regex) = expression(location)?;
    if !has_group(&regex, name) {
        return None;
    }
    // Another expression may have matched since, or the path be another one.
    let is_numbered = name.parse::<u8>().is_ok();
    let matches = |one: &&Directive| match one.name.as_str() {
        "rewrite" => true,
        "if" => is_numbered && one.args.iter().any(|arg| arg.contains('~')),
        _ => false,
    };
    if location
        .children()
        .iter()
        .any(|one| matches(&one) && at.before.is_none_or(|before| one.id < before))
    {
        return None;
    }
    let key = format!("{mark}{regex}");
    let result = format!("{{group.{name}}}");
    let values: Map<String, Value> = Map::from_iter([(key, result.into())]);
    // A destination with variables is a rewrite, after which the path is another one.
    let is_moved = |one: &Directive| one.name == "proxy_pass" && plain(one.arg(0)).is_none();
    let from = if location.children().iter().any(is_moved) {
        "{path.sent}"
    } else {
        "{path.decoded}"
    };
    let value = json!({ "from": from, "values": values });
    let table = format!("path{}.{name}", location.line);
    Some(add(&table, location.place(), value, at.scope))
}

/// Returns the sign and the text of a location that is an expression.
pub(super) fn expression(location: &Directive) -> Option<(String, String)> {
    match &location.args[..] {
        [mark, regex] if mark.starts_with('~') => Some((mark.clone(), regex.clone())),
        [one] => {
            let regex = one.strip_prefix('~')?;
            Some(match regex.strip_prefix('*') {
                Some(regex) => ("~*".to_owned(), regex.to_owned()),
                None => ("~".to_owned(), regex.to_owned()),
            })
        }
        _ => None,
    }
}
