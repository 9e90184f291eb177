//! Words of nginx in those of the gateway: variables, times, sizes, regular expressions.

use super::parse::Directive;

/// A piece of a value: text, or the name of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Variable(String),
}

/// Splits a value into text and variables (`$name`, `${name}`).
pub(super) fn pieces(value: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut left = value;
    while let Some(at) = left.find('$') {
        text.push_str(&left[..at]);
        let rest = &left[at + 1..];
        let braced = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let (name, after) = braced.unwrap_or_else(|| {
            let is_digit = rest.starts_with(|c: char| c.is_ascii_digit());
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            // `$1x` is the first group and an x.
            rest.split_at(if is_digit {
                1
            } else {
                end.unwrap_or(rest.len())
            })
        });
        if name.is_empty() {
            text.push('$');
        } else {
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Variable(name.to_owned()));
        }
        left = after;
    }
    text.push_str(left);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}

/// Returns the text of a value without variables.
pub(super) fn plain(value: &str) -> Option<String> {
    match &pieces(value)[..] {
        [] => Some(String::new()),
        [Piece::Text(text)] => Some(text.clone()),
        _ => None,
    }
}

/// Facts about a request that a template may use.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// `http` or `https`, if all listeners of the server are of one kind.
    pub(super) scheme: Option<&'static str>,
    pub(super) server_name: Option<String>,
    /// Names of the groups of the location's regular expression.
    pub(super) groups: Vec<String>,
    /// Names of the groups of the server's regular expression.
    pub(super) of_host: Vec<String>,
    /// True if that expression was the last one that matched, so that `$1` is its first group.
    pub(super) is_host_last: bool,
}

/// Returns the target of a redirect with placeholders; `None` if a variable has no counterpart.
pub(super) fn target(value: &str, known: &Known) -> Option<String> {
    let mut out = String::new();
    let list = pieces(value);
    let mut list = list.iter().peekable();
    while let Some(piece) = list.next() {
        let name = match piece {
            Piece::Text(text) => {
                out.push_str(&text.replace('{', "%7B").replace('}', "%7D"));
                continue;
            }
            Piece::Variable(name) => name.as_str(),
        };
        let is_last = list.peek().is_none();
        match name {
            "request_uri" if is_last => {
                out.push_str("{path}?{query}");
            }
            "uri" | "document_uri" => out.push_str("{path}"),
            "is_args" => {
                let args = list.next();
                if args != Some(&Piece::Variable("args".to_owned())) || list.peek().is_some() {
                    return None;
                }
                out.push_str("?{query}");
            }
            "args" | "query_string" if is_last && out.ends_with(['?', '&']) => {
                out.push_str("{query}");
            }
            "host" | "http_host" => out.push_str("{host}"),
            "server_name" => out.push_str(known.server_name.as_deref()?),
            "scheme" => out.push_str(known.scheme?),
            name => {
                let group = group(name, known)?;
                // Nothing but a domain of its own may follow a name that a client chooses.
                let is_named = |text: &str| text.starts_with('.') && text[1..].contains('.');
                let is_domain = matches!(list.peek(), Some(Piece::Text(text)) if is_named(text));
                if out.ends_with("://") && !is_domain {
                    return None;
                }
                out.push_str(&group);
            }
        }
    }
    // A path of its own would be read as the path after the host.
    (out.starts_with('/') || out.starts_with("http://") || out.starts_with("https://"))
        .then_some(out)
}

/// Returns the placeholder of a group: `$1` or `$name`.
pub(super) fn group(name: &str, known: &Known) -> Option<String> {
    let own = match name.parse::<usize>() {
        // The last expression that matched has the numbers.
        Ok(number) if known.is_host_last => known.of_host.get(number.checked_sub(1)?)?.clone(),
        Ok(number) => known.groups.get(number.checked_sub(1)?)?.clone(),
        Err(_) => {
            let mut all = known.groups.iter().chain(&known.of_host);
            all.find(|own| *own == name)?.clone()
        }
    };
    Some(format!("{{{own}}}"))
}

/// Returns the value of a header with placeholders of the filter `headers`; `None` if a variable
/// has no counterpart. `other` returns the placeholder of a variable that is not nginx's own.
pub(super) fn header_with(value: &str, other: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::new();
    for piece in pieces(value) {
        match piece {
            Piece::Text(text) => out.push_str(&text),
            Piece::Variable(name) => match name.as_str() {
                "remote_addr" => out.push_str("{client.ip}"),
                "request_id" => out.push_str("{request_id}"),
                "host" => out.push_str("{host.name}"),
                "http_host" => out.push_str("{host}"),
                "scheme" => out.push_str("{scheme}"),
                "request_method" => out.push_str("{method}"),
                "request_uri" => out.push_str("{uri}"),
                "uri" | "document_uri" => out.push_str("{path}"),
                "args" | "query_string" => out.push_str("{query}"),
                name => match name.split_once('_') {
                    Some(("http", own)) => {
                        out.extend(["{header.", &own.replace('_', "-"), "}"]);
                    }
                    Some(("cookie", own)) => out.extend(["{cookie.", own, "}"]),
                    _ => out.push_str(&other(name)?),
                },
            },
        }
    }
    Some(out.replace("${", "$${"))
}

/// Names the capturing groups of a regular expression (`p1`, `p2`, …), and returns it with the
/// names of all its groups.
pub(super) fn named_groups(regex: &str) -> (String, Vec<String>) {
    groups_as(regex, "p")
}

/// Names the capturing groups as [`named_groups`] does, with this beginning.
pub(super) fn groups_as(regex: &str, beginning: &str) -> (String, Vec<String>) {
    let mut out = String::new();
    let mut names = Vec::new();
    let mut left = regex.chars().peekable();
    let mut in_class = false;
    while let Some(c) = left.next() {
        out.push(c);
        match c {
            '\\' => out.extend(left.next()),
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => {
                let rest: String = left.clone().collect();
                let written = ["?<", "?P<", "?'"].iter().find_map(|mark| {
                    let name = rest.strip_prefix(mark)?;
                    let end = name.find(['>', '\''])?;
                    let name = &name[..end];
                    (!name.starts_with(['=', '!'])).then(|| name.to_owned())
                });
                if let Some(name) = written {
                    names.push(name);
                } else if !rest.starts_with('?') {
                    let name = format!("{beginning}{}", names.len() + 1);
                    out.extend(["?<", &name, ">"]);
                    names.push(name);
                }
            }
            _ => {}
        }
    }
    (out, names)
}

/// Returns a time of nginx (`60`, `30s`, `1h30m`, `500ms`) in milliseconds.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut left = text.trim();
    if left.is_empty() {
        return None;
    }
    while !left.is_empty() {
        let digits = left
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(left.len());
        let number: u64 = left[..digits].parse().ok()?;
        left = &left[digits..];
        let letters = left
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(left.len());
        let unit = match &left[..letters] {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "M" => 30 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        left = left[letters..].trim_start();
    }
    Some(total)
}

/// Returns a duration as the configuration writes it.
pub(super) fn duration(milliseconds: u64) -> String {
    match milliseconds {
        0 => "0s".to_owned(),
        ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// Returns a size of nginx (`1m`, `512k`) in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (digits, lower.chars().last()),
        None => (lower.as_str(), None),
    };
    let number: u64 = digits.parse().ok()?;
    let shift = match unit {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        _ => 0,
    };
    number.checked_shl(shift)
}

/// Returns a size as the configuration writes it.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        b if b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => b.to_string(),
    }
}

/// Returns the value of a parameter such as `weight=5`.
pub(super) fn parameter<'d>(directive: &'d Directive, name: &str) -> Option<&'d str> {
    let mut args = directive.args.iter();
    args.find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_split_into_text_and_variables() {
        let text = |text: &str| Piece::Text(text.to_owned());
        let variable = |name: &str| Piece::Variable(name.to_owned());
        for (value, expected) in [
            ("a", vec![text("a")]),
            ("$a", vec![variable("a")]),
            (
                "x$a-${b}c",
                vec![
                    text("x"),
                    variable("a"),
                    text("-"),
                    variable("b"),
                    text("c"),
                ],
            ),
            ("$1x", vec![variable("1"), text("x")]),
            ("a$", vec![text("a$")]),
        ] {
            assert_eq!(pieces(value), expected, "{value}");
        }
    }

    #[test]
    fn targets_have_placeholders() {
        let known = Known {
            scheme: Some("https"),
            server_name: Some("a.test".to_owned()),
            groups: vec!["p1".to_owned(), "id".to_owned()],
            of_host: vec!["host1".to_owned(), "sub".to_owned()],
            is_host_last: false,
        };
        for (value, expected) in [
            (
                "https://$host$request_uri",
                Some("https://{host}{path}?{query}"),
            ),
            ("$scheme://$server_name$uri", Some("https://a.test{path}")),
            ("/b/$1/$id$is_args$args", Some("/b/{p1}/{id}?{query}")),
            ("/b?x=1&$args", Some("/b?x=1&{query}")),
            ("/$sub/$1", Some("/{sub}/{p1}")),
            ("https://$sub.b.test/", Some("https://{sub}.b.test/")),
            ("https://$sub/", None),
            ("/{a}", Some("/%7Ba%7D")),
            ("https://$host$request_uri/x", None),
            ("/$http_x", None),
            ("$host/x", None),
        ] {
            assert_eq!(target(value, &known).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn groups_get_names() {
        for (regex, named, names) in [
            ("^/a/(.*)$", "^/a/(?<p1>.*)$", vec!["p1"]),
            (
                "(a)(?:b)(?<x>c)[(]\\((d)",
                "(?<p1>a)(?:b)(?<x>c)[(]\\((?<p3>d)",
                vec!["p1", "x", "p3"],
            ),
            ("(?<!x)(?=y)", "(?<!x)(?=y)", vec![]),
        ] {
            let (own, list) = named_groups(regex);
            assert_eq!(
                (own.as_str(), list),
                (named, names.iter().map(ToString::to_string).collect())
            );
        }
    }

    #[test]
    fn times_and_sizes() {
        for (text, expected) in [
            ("60", Some(60_000)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1d 2h", Some(93_600_000)),
            ("1x", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
        assert_eq!(duration(5_400_000), "90min");
        assert_eq!(
            (bytes("1m"), bytes("10K"), bytes("7"), bytes("x")),
            (Some(1 << 20), Some(10_240), Some(7), None)
        );
        assert_eq!(
            (size(1 << 20), size(1000)),
            ("1MiB".to_owned(), "1000".to_owned())
        );
    }
}
