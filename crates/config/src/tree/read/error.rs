//! Errors of reading a value, in a user's words.

use std::fmt;

use derive_more::Display;
use serde::de;

use crate::tree::{Node, Value};

/// Reason why reading a value failed, before its place is known.
#[derive(Debug, Display)]
pub(super) enum ReadError {
    /// Reported already, at the place of a part.
    #[display("reported")]
    Reported,
    #[display("`{_0}` is missing")]
    Missing(&'static str),
    #[display("expected {expected}")]
    WrongType {
        expected: String,
    },
    #[display("unknown value `{word}`")]
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    #[display("unknown key `{key}`")]
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    Message(String),
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::Message(text.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::WrongType {
            expected: plain_words(&expected.to_string()),
        }
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::WrongType {
            expected: plain_words(&expected.to_string()),
        }
    }

    fn invalid_length(len: usize, expected: &dyn de::Expected) -> Self {
        Self::Message(format!(
            "expected {}, found {len}",
            plain_words(&expected.to_string())
        ))
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownWord {
            word: word.to_owned(),
            known,
        }
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownKey {
            key: key.to_owned(),
            known,
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::Message(format!("the key `{field}` is written twice"))
    }
}

/// Translates serde's name of a type into a user's words. Our own visitors use such words already.
fn plain_words(expected: &str) -> String {
    match expected {
        "a string" | "a borrowed string" | "string" => "text".into(),
        "path string" => "text (a path)".into(),
        "a boolean" => "`true` or `false`".into(),
        "f32" | "f64" => "a number".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "u64" | "usize" | "u128" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => "a whole number".into(),
        "a nonzero u8" => "a whole number from 1 to 255".into(),
        "a nonzero u16" => "a whole number from 1 to 65535".into(),
        "a nonzero u32" => "a whole number from 1 to 4294967295".into(),
        "a nonzero u64" | "a nonzero usize" => "a whole number, 1 or more".into(),
        "a character" => "a single character".into(),
        "a map" => "a mapping".into(),
        "a sequence" => "a list".into(),
        "IP address" => "an IP address such as `192.0.2.1`".into(),
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => {
            "a mapping".into()
        }
        other => other
            .strip_prefix("a tuple of size ")
            .map_or_else(|| other.to_owned(), |n| format!("a list of {n} values")),
    }
}

/// Returns true if the source of a node is as long as this text.
fn is_written(node: &Node, text: &str) -> bool {
    (node.place.end - node.place.start) as usize == text.len()
}

/// Suggests a replacement for a value of the wrong type.
pub(super) fn wrong_type_help(node: &Node, expected: &str) -> Option<String> {
    let wants_text = expected.starts_with("text");
    let wants_number = expected.contains("number");
    match &node.value {
        // `0x10` is 16, and as a text what is written.
        Value::Integer(number) if wants_text && is_written(node, &number.to_string()) => {
            Some(format!("put quotes round it: `\"{number}\"`"))
        }
        Value::Integer(_) | Value::Float(_) | Value::Bool(_) if wants_text => {
            Some("put quotes round it to make it text".to_owned())
        }
        Value::Text(text) if wants_number && text.parse::<f64>().is_ok() => {
            Some(format!("remove the quotes: `{text}`"))
        }
        Value::Text(text) if expected.contains("`true`") && text.parse::<bool>().is_ok() => {
            Some(format!("remove the quotes: `{text}`"))
        }
        Value::Text(text) if expected.contains("`true`") => match text.as_str() {
            "yes" | "on" | "y" => Some("write `true`".to_owned()),
            "no" | "off" | "n" => Some("write `false`".to_owned()),
            _ => None,
        },
        Value::Null => Some("write a value, or remove the key".to_owned()),
        Value::Text(text) if expected == "a mapping" && is_address(text) => Some(format!(
            "write `{{ backends: [{text}] }}` if this is an upstream"
        )),
        _ if expected == "a list" => Some("write `[…]`, or one `- …` on each line".to_owned()),
        Value::List(_) if !expected.contains("mapping") => {
            Some("write a single value, not a list".to_owned())
        }
        _ => None,
    }
}

/// True of `HOST:PORT`.
fn is_address(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| host.chars().all(name) && port.parse::<u16>().is_ok())
}
