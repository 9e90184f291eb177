//! Words of nginx in those of the gateway: variables, times, sizes, regular expressions.

use regex::escape;

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
            pieces.extend((!text.is_empty()).then(|| Piece::Text(std::mem::take(&mut text))));
            pieces.push(Piece::Variable(name.to_owned()));
        }
        left = after;
    }
    text.push_str(left);
    pieces.extend((!text.is_empty()).then_some(Piece::Text(text)));
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

/// Returns a path as requests have it in their normal form.
pub(super) fn encoded(path: &str) -> String {
    let byte = |byte: u8| match byte {
        b'!'..=b'~' if !b"\"<>\\^`{|}".contains(&byte) => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(byte).collect()
}

/// Returns an expression for a path as requests have it in their normal form: characters that may be
/// percent-encoded or not, either way.
pub(super) fn spelled(path: &str) -> String {
    let byte = |byte: u8| match byte {
        b'/' | b'-' | b'.' | b'_' | b'~' => escape(&char::from(byte).to_string()),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        b'!'..=b'~' => format!("(?:{}|%{byte:02X})", escape(&char::from(byte).to_string())),
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(byte).collect()
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

/// Returns the part of a request that a variable stands for, as keys of limits and hashes name it.
pub(super) fn part_of_request(variable: &str) -> Option<String> {
    let kinds = [
        ("http_", "header"),
        ("cookie_", "cookie"),
        ("arg_", "query"),
    ];
    kinds.iter().find_map(|(begin, kind)| {
        let name = variable.strip_prefix(begin)?;
        Some(match *kind {
            "header" => format!("header:{}", name.replace('_', "-")),
            kind => format!("{kind}:{name}"),
        })
    })
}

/// Returns the name of the zone that a parameter of a directive defines.
pub(super) fn zone<'d>(directive: &'d Directive, parameter_name: &str) -> Option<&'d str> {
    parameter(directive, parameter_name)?.split(':').next()
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
