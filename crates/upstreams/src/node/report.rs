//! Header in which an app reports: a version, then four whole numbers.

use http::HeaderName;

/// Response header of the module `edgeway-node`. Removed from every response.
pub const REPORT_HEADER: HeaderName = HeaderName::from_static("x-edgeway-node");

/// Report of an app on the time since its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeReport {
    /// Thousandths of the time in which the event loop was busy.
    pub(super) utilisation: u16,
    /// Longest delay of the event loop, in milliseconds.
    pub(super) delay_ms: u32,
    pub(super) heap_bytes: u64,
    pub(super) rss_bytes: u64,
}

const MAX_UTILISATION: u64 = 1000;
/// Longest delay in a report, an hour: a longer one says no more.
pub(super) const MAX_DELAY_MS: u64 = 3_600_000;
/// Upper bound on an amount of memory: exact as a floating-point number, and no address space is
/// larger.
pub(crate) const MAX_BYTES: u64 = 1 << 48;

impl NodeReport {
    /// Parses a header value: `1 UTILISATION DELAY HEAP RSS`. `None` for any other text, also for
    /// a later version, whose numbers may mean something else.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = value.split(|byte| *byte == b' ');
        if parts.next() != Some(b"1") {
            return None;
        }
        let mut number = |max| parts.next().and_then(|part| number(part, max));
        let report = Self {
            utilisation: number(MAX_UTILISATION)?.try_into().ok()?,
            delay_ms: number(MAX_DELAY_MS)?.try_into().ok()?,
            heap_bytes: number(MAX_BYTES)?,
            rss_bytes: number(MAX_BYTES)?,
        };
        parts.next().is_none().then_some(report)
    }
}

/// Parses digits without a leading zero, up to `max`.
fn number(digits: &[u8], max: u64) -> Option<u64> {
    if digits.is_empty() || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0, |sum: u64, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        // At most ten times the bound, which is far from the end of the type.
        Some(sum * 10 + digit).filter(|sum| *sum <= max)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Generates a valid report, as numbers.
    fn numbers() -> impl Strategy<Value = (u64, u64, u64, u64)> {
        (
            0..=MAX_UTILISATION,
            0..=MAX_DELAY_MS,
            0..=MAX_BYTES,
            0..=MAX_BYTES,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn a_report_reads_as_it_was_written((utilisation, delay, heap, rss) in numbers()) {
            let text = format!("1 {utilisation} {delay} {heap} {rss}");
            let report = NodeReport::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(u64::from(report.utilisation), utilisation);
            prop_assert_eq!(u64::from(report.delay_ms), delay);
            prop_assert_eq!((report.heap_bytes, report.rss_bytes), (heap, rss));
        }

        #[test]
        fn another_text_is_refused_or_is_the_text_of_its_report(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                "1 [0-9 +.-]{0,60}".prop_map(String::into_bytes),
                "[01]( [0-9]{1,17}){3,5}".prop_map(String::into_bytes),
            ]
        ) {
            if let Some(report) = NodeReport::parse(&bytes) {
                let NodeReport { utilisation, delay_ms, heap_bytes, rss_bytes } = report;
                let text = format!("1 {utilisation} {delay_ms} {heap_bytes} {rss_bytes}");
                prop_assert_eq!(bytes, text.into_bytes());
            }
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for text in [
            "",
            "1",
            "1 0 0 0",
            "1 0 0 0 0 0",
            "1 0 0 0 0 ",
            " 1 0 0 0 0",
            "1  0 0 0 0",
            "2 0 0 0 0",
            "1 1001 0 0 0",
            "1 01 0 0 0",
            "1 -1 0 0 0",
            "1 +1 0 0 0",
            "1 0.5 0 0 0",
            "1 0 3600001 0 0",
            "1 0 0 281474976710657 0",
            "1 0 0 0 99999999999999999999999999",
            "1 0 0 0 NaN",
            "1\t0\t0\t0\t0",
            "1 0 0 0 0, 1 0 0 0 0",
        ] {
            assert_eq!(NodeReport::parse(text.as_bytes()), None, "{text:?}");
        }
        assert!(NodeReport::parse(b"1 1000 3600000 281474976710656 0").is_some());
    }
}
