//! Types of plain scalars by the core schema of YAML 1.2.

use super::Value;

/// Returns the value of a plain (unquoted) scalar.
///
/// `yes`, `on` and `off` are text, as in YAML 1.2. So is a number with leading zeros: `0660` is 432
/// to some readers and 660 to others.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.starts_with(['+', '-'])
            && let Ok(number) = i64::from_str_radix(digits, radix)
        {
            return Value::Integer(number);
        }
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let padded = digits > 1 && unsigned.starts_with('0');
    if digits == unsigned.len() && digits > 0 && !padded {
        return match text.parse() {
            Ok(number) => Value::Integer(number),
            // Beyond 64 bits: as a float it is refused wherever an integer is expected.
            Err(_) => text
                .parse()
                .map_or_else(|_| Value::Text(text.to_owned()), Value::Float),
        };
    }
    // `inf` and `nan` are numbers to Rust and words to YAML.
    let is_float = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse() {
        Ok(number) if is_float && !padded => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("FALSE", Value::Bool(false)),
            ("80", Value::Integer(80)),
            ("-3", Value::Integer(-3)),
            ("+3", Value::Integer(3)),
            ("0", Value::Integer(0)),
            ("0x1F", Value::Integer(31)),
            ("0o17", Value::Integer(15)),
            ("1.5", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("99999999999999999999", Value::Float(1e20)),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }

    #[test]
    fn what_is_not_surely_a_number_or_a_flag_is_text() {
        for text in [
            "yes",
            "no",
            "on",
            "off",
            "0660",
            "1.2.3",
            "127.0.0.1",
            "10s",
            "inf",
            "nan",
            "1_000",
            "-",
            ".",
            "e3",
            "0x",
            "0x-1",
            "12:30",
            "tRue",
            "00.5",
        ] {
            assert_eq!(plain(text), Value::Text(text.to_owned()), "{text}");
        }
    }
}
