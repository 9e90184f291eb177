//! The `traceparent` and `tracestate` headers of W3C Trace Context.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` + 32 digits + `-` + 16 digits + `-` + 2 digits.
const LENGTH: usize = 55;
/// Most entries of a `tracestate` (3.3.1.1).
const MAX_ENTRIES: usize = 32;
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 256;

/// Position in a trace, as `traceparent` carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Id of the trace, never zero.
    pub trace_id: u128,
    /// Id of the sender's span, never zero.
    pub span_id: u64,
    pub flags: TraceFlags,
}

/// Flags of a trace. Unknown ones are dropped, as the recommendation demands of those who change a
/// `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFlags(u8);

impl TraceFlags {
    pub const NONE: Self = Self(0);
    /// The sender may have recorded its span.
    pub const SAMPLED: Self = Self(1);
    /// The right half of the trace id is random (Level 2).
    pub const RANDOM: Self = Self(2);

    pub fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED.0 != 0
    }

    /// Returns these flags with the decision on sampling replaced.
    #[must_use]
    pub fn with_sampled(self, is_sampled: bool) -> Self {
        Self((self.0 & !Self::SAMPLED.0) | u8::from(is_sampled))
    }

    pub fn bits(self) -> u8 {
        self.0
    }
}

impl TraceContext {
    /// Returns the context in `headers`, if there is exactly one and it is valid.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Parses the value of a `traceparent`; `None` if it must be ignored.
    pub fn parse(text: &[u8]) -> Option<Self> {
        // A later, unknown version may have more fields after another dash (3.2.4).
        let length_fits = match text.get(..2) {
            Some(b"00") => text.len() == LENGTH,
            Some(b"ff") | None => false,
            Some(_) => text.len() == LENGTH || text.get(LENGTH) == Some(&b'-'),
        };
        if !length_fits || [2, 35, 52].iter().any(|at| text[*at] != b'-') {
            return None;
        }
        read_hex(&text[..2])?;
        let trace_id = read_hex(&text[3..35])?;
        let span_id = u64::try_from(read_hex(&text[36..52])?).ok()?;
        let flags = u8::try_from(read_hex(&text[53..LENGTH])?).ok()?;
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            flags: TraceFlags(flags & (TraceFlags::SAMPLED.0 | TraceFlags::RANDOM.0)),
        })
    }

    /// Returns the value of a `traceparent`, of version 00.
    pub fn header_value(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.trace_id.to_be_bytes());
        write_hex(&mut text[36..52], &self.span_id.to_be_bytes());
        write_hex(&mut text[53..], &[self.flags.0]);
        HeaderValue::from_bytes(&text).expect("made of digits and dashes")
    }
}

/// Reads a number of at most 128 bits in lower-case hexadecimal digits.
pub fn read_hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// The digits of each byte: one load for both, since every request has several ids.
static DIGITS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Writes two digits for each byte.
pub fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&DIGITS[usize::from(*byte)]);
    }
}

/// Returns true if the lines of a `tracestate` are well-formed (3.3.1) and may be sent on. If not,
/// all of them are dropped.
pub fn is_tracestate<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> bool {
    let mut entries = 0;
    for line in lines {
        for entry in line.as_bytes().split(|byte| *byte == b',') {
            let entry = without_space(entry);
            if entry.is_empty() {
                continue;
            }
            entries += 1;
            if entries > MAX_ENTRIES || !is_entry(entry) {
                return false;
            }
        }
    }
    true
}

fn without_space(mut entry: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = entry {
        entry = rest;
    }
    entry
}

fn is_entry(entry: &[u8]) -> bool {
    let Some(equals) = entry.iter().position(|byte| *byte == b'=') else {
        return false;
    };
    let (key, value) = (&entry[..equals], &entry[equals + 1..]);
    let is_key_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let begins_well = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_value_byte = |byte: &u8| matches!(byte, b' '..=b'~') && !b",=".contains(byte);
    key.len() <= MAX_KEY
        && key.first().is_some_and(begins_well)
        && key.iter().all(is_key_byte)
        && (1..=MAX_VALUE).contains(&value.len())
        && value.iter().all(is_value_byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(text: &str) -> Option<TraceContext> {
        TraceContext::parse(text.as_bytes())
    }

    #[test]
    fn only_well_formed_contexts_are_read() {
        let context = parse(VALID).unwrap();
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(context.flags.is_sampled());
        for (from, to, is_sampled) in [
            ("00-", "01-", true),
            ("-01", "-00", false),
            ("-01", "-fe", false),
            ("-01", "-ff", true),
        ] {
            let read = parse(&VALID.replacen(from, to, 1)).unwrap();
            assert_eq!(read.flags.is_sampled(), is_sampled, "{to}");
        }
        assert!(parse(&format!("cc{}-more", &VALID[2..])).is_some());
        for wrong in [
            String::new(),
            VALID[..54].to_owned(),
            format!("{VALID}-more"),
            format!("{VALID} "),
            format!("ff{}", &VALID[2..]),
            format!("cc{}.", &VALID[2..]),
            VALID.to_uppercase(),
            VALID.replace('4', "g"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736.00f067aa0ba902b7-01".to_owned(),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_contexts_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::read(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
        assert_eq!(TraceContext::read(&headers), parse(VALID));
        headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
        assert_eq!(TraceContext::read(&headers), None);
    }

    #[test]
    fn a_malformed_state_is_no_state() {
        let is_valid = |lines: &[&str]| {
            let lines: Vec<_> = lines
                .iter()
                .map(|line| HeaderValue::from_bytes(line.as_bytes()).unwrap())
                .collect();
            is_tracestate(lines.iter())
        };
        let many = |count: usize| vec!["a=1"; count].join(",");
        assert!(is_valid(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]));
        assert!(is_valid(&[
            "fw529a3039@dt=FfAAAA",
            "1b*/_-= 1:{}\t,\t, c=d "
        ]));
        assert!(is_valid(&["a=1", "b=2 3", "", ",,"]));
        assert!(is_valid(&[&many(32)]));
        for wrong in [
            "a",
            "a=",
            "=1",
            "A=1",
            "_a=1",
            "a =1",
            "a=1=2",
            "a=\u{e9}",
            "a=1;b=2,c",
            &many(33),
            &format!("{}=1", "a".repeat(257)),
            &format!("a={}", "1".repeat(257)),
        ] {
            assert!(!is_valid(&[wrong]), "{wrong}");
            assert!(!is_valid(&["ok=1", wrong]), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_written_context_is_read_as_it_was(
            trace_id in 1u128.., span_id in 1u64.., flags in 0u8..4,
        ) {
            let context = TraceContext { trace_id, span_id, flags: TraceFlags(flags) };
            let written = context.header_value();
            prop_assert_eq!(TraceContext::parse(written.as_bytes()), Some(context));
        }

        /// The grammar of the recommendation as a regular expression; see also the end-to-end test
        /// against OpenTelemetry's own propagator.
        #[test]
        fn exactly_what_the_grammar_allows_is_read(
            text in "(00|01|fe|ff|0g)[-_]([0-9a-f]{32}|0{32}|[0-9A-F]{32}|[0-9a-f]{31})-([0-9a-f]{16}|0{16})-[0-9a-f]{1,2}(-[a-z]{0,3}|\\.)?"
        ) {
            let grammar = regex::Regex::new(
                "^(?:00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}|[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?)$",
            ).unwrap();
            let is_version_0 = text.starts_with("00");
            let is_valid = !text.starts_with("ff")
                && grammar.captures(&text).is_some_and(|found| {
                    let first = found.get(1).is_some();
                    let ids = if first { [1, 2] } else { [3, 4] };
                    (first || !is_version_0)
                        && ids.iter().all(|id| found[*id].bytes().any(|digit| digit != b'0'))
                });
            prop_assert_eq!(parse(&text).is_some(), is_valid, "{}", text);
        }
    }
}
