//! The directive `if`: conditions that have a counterpart, and what is done when they hold.

use serde_json::{Map, Value, json};

use super::{
    parse::Directive,
    scope::Scope,
    tables::header,
    words::{Known, plain, target},
};

/// Expression of what an `if` without operator takes for true: neither empty nor `0`.
const TRUE: &str = "~(?s)^(?:[^0]|0.)";

/// Subject of a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Subject {
    /// The requested host.
    Host(String),
    /// Requests without TLS.
    WithoutTls,
    /// Predicates of a route.
    Predicates(Map<String, Value>),
}

/// A condition, and the action of requests for which it holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) subject: Subject,
    /// True if the action is for requests for which the subject does not hold.
    pub(super) is_negated: bool,
    /// Keys of the route that stands for the action.
    pub(super) action: Map<String, Value>,
}

impl Condition {
    /// Reads an `if`; `None` if condition or action have no counterpart.
    pub(super) fn read(directive: &Directive, known: &Known) -> Option<Self> {
        let (subject, is_negated) = subject(&directive.args)?;
        let [only] = directive.children() else {
            return None;
        };
        Some(Self {
            subject,
            is_negated,
            action: action(only, known)?,
        })
    }
}

/// Returns true if the block of an `if` keeps requests out.
pub(super) fn refuses(directive: &Directive) -> bool {
    directive.children().iter().any(|one| {
        let status = one.arg(0).parse::<u16>().unwrap_or(200);
        (one.name == "return" && status >= 400) || one.name == "deny"
    })
}

/// Returns an `if` as an entry of `conditions`; `None` if its variable or its block has no
/// counterpart.
pub(super) fn entry(directive: &Directive, scope: &Scope<'_>) -> Option<Value> {
    let (variable, operator, value) = words(&directive.args)?;
    let [only] = directive.children() else {
        return None;
    };
    let mut entry = json!({ "if": header(&format!("${variable}"), scope)? });
    let negated = operator.is_some_and(|operator| operator.starts_with('!'));
    match operator.map(|operator| operator.trim_start_matches('!')) {
        None => {}
        Some("=") if !value.contains('$') => {
            let escape = if value.starts_with('~') { "\\" } else { "" };
            entry["is"] = format!("{escape}{value}").into();
        }
        Some(operator @ ("~" | "~*")) if regex::Regex::new(value).is_ok() => {
            entry["is"] = format!("{operator}{value}").into();
        }
        Some(_) => return None,
    }
    if negated {
        entry["not"] = true.into();
    }
    let (status, rest) = match only.name.as_str() {
        "return" => match only.arg(0).parse::<u16>() {
            Ok(status) => (status, only.arg(1)),
            Err(_) => (302, only.arg(0)),
        },
        "deny" if only.args == ["all"] => (403, ""),
        "rewrite" if only.arg(0) == "^" && only.arg(1).ends_with('?') => {
            let status = if only.arg(2) == "permanent" { 301 } else { 302 };
            (status, only.arg(1).trim_end_matches('?'))
        }
        _ => return None,
    };
    entry["status"] = status.into();
    if [301, 302, 303, 307, 308].contains(&status) {
        let to = rest.replace("$uri$is_args$args", "$request_uri");
        if !to.starts_with("http") && !to.starts_with(['/', '$']) {
            return None;
        }
        entry["to"] = header(&to, scope)?.into();
    } else if !(200..600).contains(&status) {
        return None;
    } else if only.args.len() > 1 && only.name == "return" {
        entry["body"] = plain(rest)?.into();
    }
    Some(entry)
}

/// Splits a condition into the variable, the operator and the value.
fn words(args: &[String]) -> Option<(&str, Option<&str>, &str)> {
    let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
    let first = words.first_mut()?;
    *first = first.strip_prefix('(').unwrap_or(first);
    let last = words.last_mut()?;
    *last = last.strip_suffix(')').unwrap_or(last);
    let is_parenthesis = |index: usize| index == 0 || index + 1 == args.len();
    let mut index = 0;
    words.retain(|word| {
        index += 1;
        !(word.is_empty() && is_parenthesis(index - 1) && matches!(&*args[index - 1], "(" | ")"))
    });
    let variable = words.first()?.strip_prefix('$')?;
    let operator = words.get(1).copied();
    let value = words.get(2).copied().unwrap_or_default();
    (words.len() <= 3).then_some((variable, operator, value))
}

fn subject(args: &[String]) -> Option<(Subject, bool)> {
    let (variable, operator, value) = words(args)?;
    if value.contains('$') && matches!(operator, Some("=" | "!=")) {
        return None;
    }
    let is_negated = operator.is_some_and(|operator| operator.starts_with('!'));
    let wanted = match operator {
        None => Some(TRUE.to_owned()),
        Some("=" | "!=") => Some(value.to_owned()),
        Some("~" | "!~") => Some(format!("~{value}")),
        Some("~*" | "!~*") => Some(format!("~(?i){value}")),
        Some(_) => None,
    }?;
    let is_equal = matches!(operator, Some("=" | "!="));
    let subject = match variable {
        "host" | "http_host" if is_equal => Subject::Host(value.to_ascii_lowercase()),
        "scheme" if is_equal && value == "http" => Subject::WithoutTls,
        "scheme" if is_equal && value == "https" => {
            return Some((Subject::WithoutTls, !is_negated));
        }
        "https" if is_equal && value.is_empty() => Subject::WithoutTls,
        "https" if is_equal && value == "on" => return Some((Subject::WithoutTls, !is_negated)),
        "request_method" => Subject::Predicates(predicate("method", methods(operator?, value)?)),
        name => {
            let (kind, name) = ["http_", "arg_", "cookie_"]
                .iter()
                .find_map(|kind| Some((*kind, name.strip_prefix(kind)?)))?;
            let (kind, name) = match kind {
                "http_" => ("header", name.replace('_', "-")),
                "arg_" => ("query", name.to_owned()),
                _ => ("cookie", name.to_owned()),
            };
            // A variable without a value is empty for nginx; a predicate needs a value.
            if is_equal && wanted.is_empty() {
                let some = predicate(kind, json!({ name: "~(?s)." }));
                return Some((Subject::Predicates(some), !is_negated));
            }
            let regex = wanted.strip_prefix('~').map(regex::Regex::new);
            if matches!(regex, Some(Ok(regex)) if regex.is_match("")) {
                return None;
            }
            Subject::Predicates(predicate(kind, json!({ name: wanted })))
        }
    };
    Some((subject, is_negated))
}

fn predicate(kind: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(kind.to_owned(), value)])
}

/// Returns the methods of a comparison: one, or those of `^(GET|HEAD)$`.
fn methods(operator: &str, value: &str) -> Option<Value> {
    let list = match operator {
        "=" | "!=" => vec![value],
        _ => {
            let inner = value.strip_prefix('^')?.strip_suffix('$')?;
            let inner = inner
                .strip_prefix('(')
                .and_then(|i| i.strip_suffix(')'))
                .unwrap_or(inner);
            inner.split('|').collect()
        }
    };
    let is_method = |one: &&str| !one.is_empty() && one.bytes().all(|b| b.is_ascii_uppercase());
    list.iter().all(is_method).then(|| json!(list))
}

/// Returns the keys of a route for `return`, or for a `rewrite` that redirects every path.
pub(super) fn action(directive: &Directive, known: &Known) -> Option<Map<String, Value>> {
    match directive.name.as_str() {
        "return" => returned(directive, known),
        "rewrite" => {
            let status = match directive.arg(2) {
                "permanent" => 301,
                "redirect" => 302,
                _ if directive.arg(1).starts_with("http") => 302,
                _ => return None,
            };
            let to = directive.arg(1);
            let to = match directive.arg(0) {
                "^" => to.to_owned(),
                "^(.*)$" | "^(.*)" | "(.*)" => to.replacen("$1", "$uri", 1),
                "^/(.*)$" | "^/(.*)" => to.replacen("/$1", "$uri", 1),
                _ => return None,
            };
            // A `?` at the end keeps nginx from adding the query, which `$request_uri` has.
            let to = match to.strip_suffix('?') {
                Some(to) => to.to_owned(),
                None => format!("{to}$is_args$args"),
            };
            Some(redirect(&target(&to, known)?, status))
        }
        _ => None,
    }
}

fn redirect(to: &str, status: u16) -> Map<String, Value> {
    Map::from_iter([("redirect".to_owned(), json!({ "to": to, "status": status }))])
}

fn returned(directive: &Directive, known: &Known) -> Option<Map<String, Value>> {
    let (first, second) = (directive.arg(0), directive.arg(1));
    let Ok(status) = first.parse::<u16>() else {
        return Some(redirect(&target(first, known)?, 302));
    };
    if [301, 302, 303, 307, 308].contains(&status) {
        return Some(redirect(&target(second, known)?, status));
    }
    let respond = match directive.args.len() {
        _ if status == 444 => json!({ "status": 444 }),
        1 => json!({ "status": status }),
        _ => json!({ "status": status, "body": plain(second)?.replace("${", "$${") }),
    };
    (200..600)
        .contains(&status)
        .then(|| Map::from_iter([("respond".to_owned(), respond)]))
}

/// Returns the keys of a route for a `return` with variables that only a condition fills in.
pub(super) fn filled_in(directive: &Directive, scope: &Scope<'_>) -> Option<Map<String, Value>> {
    if directive.name != "return" {
        return None;
    }
    let (status, rest) = match directive.arg(0).parse::<u16>() {
        Ok(status) => (status, directive.arg(1)),
        Err(_) => (302, directive.arg(0)),
    };
    let mut entry = json!({ "if": "1", "status": status });
    if [301, 302, 303, 307, 308].contains(&status) {
        let begins = |text: &str| text.starts_with("http") || text.starts_with('/');
        let to = header(rest, scope).filter(|_| begins(rest) || rest.starts_with("$scheme"))?;
        entry["to"] = to.into();
    } else if (200..600).contains(&status) && !matches!(status, 204 | 205 | 304) {
        entry["body"] = header(rest, scope)?.into();
    } else {
        return None;
    }
    // Never reached.
    let respond = ("respond".to_owned(), json!(404));
    Some(Map::from_iter([
        respond,
        ("conditions".to_owned(), json!([entry])),
    ]))
}

/// Returns the redirect of a `rewrite` whose expression names groups.
pub(super) fn redirected(directive: &Directive, known: &Known) -> Option<Map<String, Value>> {
    let to = directive.arg(1);
    let status = match directive.arg(2) {
        "permanent" => 301,
        "redirect" => 302,
        _ if to.starts_with("http://") || to.starts_with("https://") => 302,
        _ => return None,
    };
    let to = match to.strip_suffix('?') {
        Some(to) => to.to_owned(),
        None if to.contains('?') => format!("{to}&$args"),
        None => format!("{to}$is_args$args"),
    };
    let to = target(&to, known)?;
    Some(redirect(&to, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_have_counterparts() {
        let word = |word: &str| word.replace("\"\"", "");
        let words = |text: &str| text.split(' ').map(word).collect::<Vec<_>>();
        let method = |list: &[&str]| Subject::Predicates(predicate("method", json!(list)));
        let one = |kind: &str, name: &str, value: &str| {
            Subject::Predicates(predicate(kind, json!({ name: value })))
        };
        for (text, expected) in [
            (
                "($host = www.a.test)",
                Some((Subject::Host("www.a.test".to_owned()), false)),
            ),
            (
                "($host != a.test)",
                Some((Subject::Host("a.test".to_owned()), true)),
            ),
            ("($scheme = http)", Some((Subject::WithoutTls, false))),
            ("($scheme != https)", Some((Subject::WithoutTls, false))),
            ("($request_method = POST)", Some((method(&["POST"]), false))),
            (
                "($request_method !~ ^(GET|HEAD)$)",
                Some((method(&["GET", "HEAD"]), true)),
            ),
            (
                "($http_user_agent ~* bot)",
                Some((one("header", "user-agent", "~(?i)bot"), false)),
            ),
            ("($arg_debug)", Some((one("query", "debug", TRUE), false))),
            (
                "($http_user_agent = \"\")",
                Some((one("header", "user-agent", "~(?s)."), true)),
            ),
            ("($http_user_agent ~ ^$|bot)", None),
            ("($cookie_a = 1)", Some((one("cookie", "a", "1"), false))),
            ("(-f $request_filename)", None),
            ("($remote_addr = 1.2.3.4)", None),
            ("($http_x = $arg_y)", None),
        ] {
            assert_eq!(subject(&words(text)), expected, "{text}");
        }
    }
}
