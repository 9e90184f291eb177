//! Formats of the process's own log: text for people, JSON and logfmt for programs. A record is one
//! line in each, whatever a client put into it.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    time::SystemTime,
};

use edgeway_base::{
    clock::rfc3339,
    out::{is_obeyed, printable},
};
use edgeway_core_filters::access_log::put_json_text;
use env_logger::fmt::{Formatter, default_kv_format};
use log::{
    Record,
    kv::{self, Key, Value, VisitSource},
};
use serde_json::{Map, Value as Json};

/// Format of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
    Logfmt,
}

/// Names of a line's own fields, in their order. A field of a record with such a name gets a `_`.
const OWN: [&str; 4] = ["time", "level", "target", "message"];

/// Writes a record as one line for people, with colours on a terminal.
pub(super) fn write_text(
    out: &mut Formatter,
    record: &Record<'_>,
    wall: SystemTime,
) -> io::Result<()> {
    let (time, level, target) = (rfc3339(wall), record.level(), record.target());
    let style = out.default_level_style(level);
    let message = record.args();
    write!(
        out,
        "[{time} {style}{level:<5}{style:#} {target}] {message}"
    )?;
    default_kv_format(out, record.key_values())?;
    writeln!(out)
}

/// Writes a record as one line of a format for programs.
pub(super) fn write(
    out: &mut impl io::Write,
    format: LogFormat,
    record: &Record<'_>,
    wall: SystemTime,
) -> io::Result<()> {
    let fields = fields(record, wall);
    let mut line = Vec::new();
    for (index, (name, value)) in fields.iter().enumerate() {
        match format {
            LogFormat::Json => {
                line.push(if index == 0 { b'{' } else { b',' });
                put_quoted(&mut line, name);
                line.push(b':');
                match value {
                    Json::String(text) => put_quoted(&mut line, text),
                    plain => line.extend_from_slice(plain.to_string().as_bytes()),
                }
            }
            LogFormat::Logfmt | LogFormat::Text => {
                if index > 0 {
                    line.push(b' ');
                }
                put_logfmt(&mut line, name, value);
            }
        }
    }
    line.extend_from_slice(if format == LogFormat::Json {
        b"}\n"
    } else {
        b"\n"
    });
    out.write_all(&line)
}

/// Returns the fields of a line, each name once.
fn fields(record: &Record<'_>, wall: SystemTime) -> Map<String, Json> {
    let level = record.level().as_str().to_ascii_lowercase();
    let message = record.args().to_string();
    let texts = [rfc3339(wall), level, record.target().to_owned(), message];
    let own = OWN.into_iter().zip(texts);
    let mut fields = Fields(
        own.map(|(name, text)| (name.to_owned(), text.into()))
            .collect(),
    );
    // The visitor returns no error.
    drop(record.key_values().visit(&mut fields));
    fields.0
}

struct Fields(Map<String, Json>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let mut name = key.as_str().to_owned();
        while self.0.contains_key(&name) {
            name.push('_');
        }
        let finite = || value.to_f64().filter(|number| number.is_finite());
        let plain = value.to_bool().map(Json::from);
        let plain = plain.or_else(|| value.to_u64().map(Json::from));
        let plain = plain.or_else(|| value.to_i64().map(Json::from));
        let plain = plain.or_else(|| finite().map(Json::from));
        self.0
            .insert(name, plain.unwrap_or_else(|| value.to_string().into()));
        Ok(())
    }
}

/// Adds `text` as a JSON string.
fn put_quoted(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    put_json_text(line, text.as_bytes());
    line.push(b'"');
}

/// Adds `name=value` by the rules of go-logfmt: a value is quoted as in JSON if it has a space, a
/// control, `=`, `"` or U+FFFD; such characters are left out of a name.
fn put_logfmt(line: &mut Vec<u8>, name: &str, value: &Json) {
    let is_special = |c: char| c <= ' ' || is_obeyed(c) || matches!(c, '=' | '"' | '\u{fffd}');
    let start = line.len();
    let plain = name.chars().filter(|c| !is_special(*c));
    plain.for_each(|c| line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()));
    if line.len() == start {
        line.push(b'_');
    }
    line.push(b'=');
    match value {
        Json::String(text) if text.is_empty() || text.contains(is_special) => {
            put_quoted(line, text);
        }
        Json::String(text) => line.extend_from_slice(text.as_bytes()),
        plain => line.extend_from_slice(plain.to_string().as_bytes()),
    }
}

/// Returns text without characters that end its line or that a terminal obeys.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(is_obeyed) {
        Cow::Owned(printable(text))
    } else {
        Cow::Borrowed(text)
    }
}

/// Fields of a record whose values are each one line.
#[derive(Default)]
pub(super) struct OneLineFields {
    fields: Vec<(String, String)>,
    has_controls: bool,
}

impl OneLineFields {
    /// Returns `None` if all values are one line each as they are.
    pub(super) fn collect(record: &Record<'_>) -> Option<Self> {
        let mut all = Self::default();
        // The visitor returns no error.
        drop(record.key_values().visit(&mut all));
        all.has_controls.then_some(all)
    }
}

impl kv::Source for OneLineFields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        for (name, value) in &self.fields {
            visitor.visit_pair(Key::from_str(name), Value::from(value.as_str()))?;
        }
        Ok(())
    }
}

impl<'kvs> VisitSource<'kvs> for OneLineFields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let text = value.to_string();
        self.has_controls |= text.contains(is_obeyed);
        let pair = (key.as_str().to_owned(), one_line(&text).into_owned());
        self.fields.push(pair);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use log::Level;
    use proptest::prelude::*;

    use super::*;

    fn line(format: LogFormat, message: &str, fields: &[(&str, Value<'_>)]) -> String {
        let mut out = Vec::new();
        let wall = UNIX_EPOCH + Duration::from_millis(1_800_000_000_007);
        let record = &mut Record::builder();
        let record = record.level(Level::Warn).target("edgeway::proxy");
        write(
            &mut out,
            format,
            &record
                .args(format_args!("{message}"))
                .key_values(&fields)
                .build(),
            wall,
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Reads a line as go-logfmt's decoder does, strictly: names and values as they were before.
    fn decode(line: &str) -> Vec<(String, String)> {
        let mut rest = line.strip_suffix('\n').unwrap();
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let end = rest.find('=').unwrap();
            let name = &rest[..end];
            assert!(!name.is_empty() && !name.contains([' ', '"']), "{line}");
            rest = &rest[end + 1..];
            let value = if rest.starts_with('"') {
                let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                let value = values.next().unwrap().unwrap();
                rest = &rest[values.byte_offset()..];
                value
            } else {
                let end = rest.find(' ').unwrap_or(rest.len());
                let value = &rest[..end];
                assert!(!value.contains(['=', '"']), "{line}");
                rest = &rest[end..];
                value.to_owned()
            };
            fields.push((name.to_owned(), value));
            assert!(rest.is_empty() || rest.starts_with(' '), "{line}");
            rest = rest.strip_prefix(' ').unwrap_or(rest);
        }
        fields
    }

    #[test]
    fn a_record_has_its_own_fields_first_and_no_name_twice() {
        let fields = [
            ("route", Value::from("shop")),
            ("status", Value::from(502)),
            ("took", Value::from(1.5)),
            ("is_last", Value::from(true)),
            ("message", Value::from("a b")),
        ];
        assert_eq!(
            line(LogFormat::Json, "backend \"x\" left", &fields),
            "{\"time\":\"2027-01-15T08:00:00.007Z\",\"level\":\"warn\",\
             \"target\":\"edgeway::proxy\",\"message\":\"backend \\\"x\\\" left\",\
             \"route\":\"shop\",\"status\":502,\"took\":1.5,\"is_last\":true,\
             \"message_\":\"a b\"}\n"
        );
        assert_eq!(
            line(LogFormat::Logfmt, "backend left", &fields),
            "time=2027-01-15T08:00:00.007Z level=warn target=edgeway::proxy \
             message=\"backend left\" route=shop status=502 took=1.5 is_last=true \
             message_=\"a b\"\n"
        );
    }

    #[test]
    fn every_byte_stays_in_its_line() {
        for byte in (0..=0x2070).filter_map(char::from_u32) {
            let text = format!("a{byte}level=error b");
            for format in [LogFormat::Json, LogFormat::Logfmt] {
                let line = line(format, &text, &[("value", Value::from(text.as_str()))]);
                let inside = line.strip_suffix('\n').unwrap();
                assert!(!inside.contains(is_obeyed), "{byte}: {line:?}");
            }
            assert!(!one_line(&text).contains(is_obeyed), "{byte}");
        }
    }

    proptest! {
        /// Invariant: a parser gets back what was logged.
        #[test]
        fn parsers_read_what_was_logged(message in "\\PC*|.*|(?s:.*)", value in "(?s:.*)") {
            let fields = [("value", Value::from(value.as_str()))];
            let json: serde_json::Value =
                serde_json::from_str(&line(LogFormat::Json, &message, &fields)).unwrap();
            prop_assert_eq!(json["message"].as_str(), Some(message.as_str()));
            prop_assert_eq!(json["value"].as_str(), Some(value.as_str()));
            let read = decode(&line(LogFormat::Logfmt, &message, &fields));
            prop_assert_eq!(read.len(), 5);
            prop_assert_eq!(&read[3], &("message".to_owned(), message));
            prop_assert_eq!(&read[4], &("value".to_owned(), value));
        }
    }
}
