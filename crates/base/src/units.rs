//! Quantities in human-readable form: `10s`, `8MiB`, `10/s`, `50%`. Parsing, printing, schema.
//!
//! A number without its unit is refused: one reader would take `timeout: 5` for seconds, the next
//! for milliseconds.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use derive_more::Display;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration: `250ms`, `10s`, `15min`, `1h`, `7d`, or several parts such as `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// A number of bytes: `512`, `500kB` (powers of 1,000), `8MiB` (powers of 1,024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// A count per time span: `10/s`, `100/min`, `1000/15min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

/// A share of a whole: `10%`, `0.5%`; never above `100%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Display)]
#[display("{_0}%")]
pub struct Percent(pub f64);

/// Reason why a quantity was refused; the text is the user's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

impl Span {
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

/// Converts to milliseconds, rounded to a thousandth: more digits would be noise to the reader.
pub fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// Converts to whole seconds, rounded up.
pub fn whole_seconds(span: Duration) -> u64 {
    span.as_secs()
        .saturating_add(u64::from(span.subsec_nanos() > 0))
}

/// Converts to whole milliseconds, rounded down.
pub fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Converts to nanoseconds; 584 years if it is longer.
#[inline]
pub fn whole_nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Splits `12.5ms` into the number's text and the unit's.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn unit_nanos(unit: &str) -> Option<u64> {
    Some(match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" | "sec" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        "w" => 604_800_000_000_000,
        _ => return None,
    })
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| UnitError(format!("invalid duration `{text}`: {why}"));
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(refuse("write a number and a unit, such as `10s`"));
        }
        let mut nanos = 0f64;
        while !rest.is_empty() {
            let (number, tail) = split_number(rest);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let value: f64 = number
                .parse()
                .map_err(|_| refuse("write a number and a unit, such as `10s`"))?;
            if unit.is_empty() {
                return Err(refuse(&format!(
                    "the unit is missing; write `{number}s` or `{number}ms`"
                )));
            }
            let scale = unit_nanos(unit.trim()).ok_or_else(|| {
                refuse(&format!(
                    "unknown unit `{unit}`; use us, ms, s, min, h, d or w"
                ))
            })?;
            #[expect(clippy::cast_precision_loss, reason = "unit sizes are exact in f64")]
            let scale = scale as f64;
            nanos += value * scale;
            rest = tail.trim_start();
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by the check before"
        )]
        if nanos < 1e19 {
            Ok(Self(Duration::from_nanos(nanos.round() as u64)))
        } else {
            Err(refuse("it is longer than 300 years"))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = whole_nanos(self.0);
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in [
            ("d", 86_400_000_000_000),
            ("h", 3_600_000_000_000),
            ("min", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
        ] {
            if nanos >= scale {
                write!(f, "{}{unit}", nanos / scale)?;
                nanos %= scale;
            }
        }
        Ok(())
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| UnitError(format!("invalid size `{text}`: {why}"));
        let (number, unit) = split_number(text.trim());
        let value: f64 = number
            .parse()
            .map_err(|_| refuse("write a number and a unit, such as `8MiB`"))?;
        let scale: u64 = match unit.trim() {
            "" | "B" => 1,
            "k" | "kB" | "KB" => 1_000,
            "KiB" | "K" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" | "M" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" | "G" => 1 << 30,
            other => {
                return Err(refuse(&format!(
                    "unknown unit `{other}`; use B, kB, KiB, MB, MiB, GB or GiB"
                )));
            }
        };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "sizes below 2^53 are exact, larger ones are refused"
        )]
        {
            let bytes = value * scale as f64;
            if bytes > 9e15 {
                return Err(refuse("it is larger than 8 PiB"));
            }
            Ok(Self(bytes.round() as u64))
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in [
            ("GiB", 1u64 << 30),
            ("GB", 1_000_000_000),
            ("MiB", 1 << 20),
            ("MB", 1_000_000),
            ("KiB", 1 << 10),
            ("kB", 1_000),
        ] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| UnitError(format!("invalid rate `{text}`: {why}"));
        let (count, per) = text
            .split_once('/')
            .ok_or_else(|| refuse("write a count and a time, such as `10/s` or `100/15min`"))?;
        let count = count
            .trim()
            .parse()
            .map_err(|_| refuse("the part before `/` must be a whole number"))?;
        if count == 0 {
            return Err(refuse("the count must be at least 1"));
        }
        let per = per.trim();
        let per = match unit_nanos(per) {
            Some(nanos) => Duration::from_nanos(nanos),
            None => per.parse::<Span>().map_err(|e| refuse(&e.0))?.0,
        };
        if per.is_zero() {
            return Err(refuse("the time must be longer than zero"));
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = Span(self.per).to_string();
        let span = match span.strip_prefix('1') {
            Some(unit) if unit.chars().all(char::is_alphabetic) => unit,
            _ => &span,
        };
        write!(f, "{}/{span}", self.count)
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| UnitError(format!("invalid share `{text}`: {why}"));
        let number = text
            .trim()
            .strip_suffix('%')
            .ok_or_else(|| refuse("write a number and `%`, such as `10%`"))?;
        let value: f64 = number
            .trim()
            .parse()
            .map_err(|_| refuse("write a number and `%`, such as `10%`"))?;
        if !(0.0..=100.0).contains(&value) {
            return Err(refuse("it must lie between 0% and 100%"));
        }
        Ok(Self(value))
    }
}

macro_rules! as_text {
    (@numbers none) => {
        None
    };
    (@numbers $numbers:tt) => {
        Some(serde_json::json!($numbers))
    };
    ($type:ty, $name:literal, $what:literal, $pattern:literal, $numbers:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                d.deserialize_any(Text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // A bare number has no unit: allowed for few of these types, and for some values.
                let text = serde_json::json!({ "type": "string", "pattern": $pattern });
                let numbers: Option<serde_json::Value> = as_text!(@numbers $numbers);
                let forms: Vec<_> = [Some(text), numbers].into_iter().flatten().collect();
                json_schema!({ "description": $what, "anyOf": forms })
            }
        }
    };
}

as_text!(
    Span,
    "Duration",
    "a duration such as `250ms`, `10s`, `15min` or `1h`",
    r"^(\d+(\.\d+)?\s*(us|ms|s|sec|m|min|h|d|w)\s*)+$|^0$",
    { "const": 0 }
);
as_text!(
    ByteSize,
    "ByteSize",
    "a size such as `64KiB`, `8MiB` or `500kB`",
    r"^\d+(\.\d+)?\s*(B|k|kB|KB|K|KiB|MB|M|MiB|GB|G|GiB)?$",
    { "type": "integer", "minimum": 0 }
);
as_text!(
    Rate,
    "Rate",
    "a rate such as `10/s`, `100/min` or `1000/15min`",
    r"^\d+/.+$",
    none
);
as_text!(
    Percent,
    "Percent",
    "a share such as `10%`",
    r"^\d+(\.\d+)?%$",
    none
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_read_as_written() {
        for (text, millis) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("1.5s", 1_500),
            ("15min", 900_000),
            ("15m", 900_000),
            ("1m30s", 90_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span::millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_no_span() {
        let error = "5".parse::<Span>().unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid duration `5`: the unit is missing; write `5s` or `5ms`"
        );
        assert!("5 parsecs".parse::<Span>().is_err());
        assert!("".parse::<Span>().is_err());
        assert!("s".parse::<Span>().is_err());
    }

    #[test]
    fn sizes_distinguish_decimal_from_binary() {
        assert_eq!("500kB".parse(), Ok(ByteSize(500_000)));
        assert_eq!("512KiB".parse(), Ok(ByteSize(524_288)));
        assert_eq!("1.5MiB".parse(), Ok(ByteSize(1_572_864)));
        assert_eq!("1024".parse(), Ok(ByteSize(1024)));
        assert!("8 MBit".parse::<ByteSize>().is_err());
        assert!("-1".parse::<ByteSize>().is_err());
    }

    #[test]
    fn rates_take_a_bare_unit_or_a_span() {
        let rate = |count, secs| {
            Ok(Rate {
                count,
                per: Duration::from_secs(secs),
            })
        };
        assert_eq!("10/s".parse(), rate(10, 1));
        assert_eq!("100/min".parse(), rate(100, 60));
        assert_eq!("1000/15min".parse(), rate(1000, 900));
        assert!("0/s".parse::<Rate>().is_err());
        assert!("10/0s".parse::<Rate>().is_err());
        assert!("ten".parse::<Rate>().is_err());
    }

    #[test]
    fn shares_end_at_one_hundred() {
        assert_eq!("0.5%".parse(), Ok(Percent(0.5)));
        assert!("101%".parse::<Percent>().is_err());
        assert!("10".parse::<Percent>().is_err());
    }

    proptest! {
        #[test]
        fn printed_spans_read_back(micros in 0u64..1_000_000_000_000) {
            let span = Span(Duration::from_micros(micros));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn printed_sizes_read_back(bytes in 0u64..1 << 50) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn printed_rates_read_back(count in 1u32.., secs in 1u64..100_000) {
            let rate = Rate { count, per: Duration::from_secs(secs) };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _unused = (text.parse::<Span>(), text.parse::<ByteSize>(), text.parse::<Rate>(), text.parse::<Percent>());
        }
    }
}
