//! The `traceparent` header of W3C Trace Context.

use http::{HeaderValue, header::GetAll};

use crate::chain::RequestId;

/// `00-` + 32 digits + `-` + 16 digits + `-` + 2 digits.
const LENGTH: usize = 55;

/// Returns true if there is exactly one value, in a form that the recommendation allows to pass on.
pub(super) fn is_valid(values: &GetAll<'_, HeaderValue>) -> bool {
    let mut values = values.iter();
    match (values.next(), values.next()) {
        (Some(value), None) => is_context(value.as_bytes()),
        _ => false,
    }
}

fn is_context(text: &[u8]) -> bool {
    // A later, unknown version may have more fields after another dash (3.2.4).
    let length_fits = match text.get(..2) {
        Some(b"00") => text.len() == LENGTH,
        Some(b"ff") | None => false,
        Some(_) => text.len() == LENGTH || text.get(LENGTH) == Some(&b'-'),
    };
    length_fits
        && [2, 35, 52].iter().all(|at| text[*at] == b'-')
        && is_hex(&text[..2])
        && is_id(&text[3..35])
        && is_id(&text[36..52])
        && is_hex(&text[53..55])
}

fn is_hex(digits: &[u8]) -> bool {
    digits
        .iter()
        .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

fn is_id(digits: &[u8]) -> bool {
    is_hex(digits) && digits.iter().any(|b| *b != b'0')
}

/// Starts a trace with the request's id as trace id, so that log and traces can be matched. `span`
/// is random.
///
/// The trace is sampled, since apps that follow their parent's decision (the default of
/// OpenTelemetry's SDKs) would otherwise record nothing at all.
pub(super) fn begin(id: &RequestId, origin: IdOrigin, span: u64) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let id = id.as_bytes();
    if id.len() == 32 && (origin == IdOrigin::Ours || is_id(id)) {
        text[3..35].copy_from_slice(id);
    } else {
        write_hex(&mut text[3..35], &fingerprint(id).max(1).to_be_bytes());
    }
    // Zero means "no span".
    write_hex(&mut text[36..52], &span.max(1).to_be_bytes());
    HeaderValue::from_bytes(&text).expect("made of digits and dashes")
}

/// Source of an id; generated ids need no check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdOrigin {
    Ours,
    Foreign,
}

/// Writes two digits for each byte.
fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Hashes an id with FNV-1a over 128 bits: the same foreign id gives the same trace on every
/// attempt and on every gateway. No secret depends on it.
fn fingerprint(id: &[u8]) -> u128 {
    id.iter()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_well_formed_contexts_pass() {
        assert!(is_context(VALID.as_bytes()));
        for (from, to) in [("00-", "01-"), ("-01", "-00"), ("-01", "-ff")] {
            assert!(is_context(VALID.replacen(from, to, 1).as_bytes()), "{to}");
        }
        assert!(is_context(format!("cc{}-more", &VALID[2..]).as_bytes()));
        for wrong in [
            String::new(),
            VALID[..54].to_owned(),
            format!("{VALID}-more"),
            format!("ff{}", &VALID[2..]),
            format!("cc{}.", &VALID[2..]),
            VALID.to_uppercase(),
            VALID.replace('4', "g"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736.00f067aa0ba902b7-01".to_owned(),
        ] {
            assert!(!is_context(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_new_trace_carries_the_requests_id() {
        let id = RequestId::random(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
        assert_eq!(
            begin(&id, IdOrigin::Ours, 0xab),
            "00-0123456789abcdeffedcba9876543210-00000000000000ab-01"
        );
    }

    #[test]
    fn a_new_trace_is_valid_whatever_the_id() {
        for id in ["x", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", &"0".repeat(32)] {
            let id = RequestId::foreign(id.as_bytes()).unwrap();
            assert!(
                is_context(begin(&id, IdOrigin::Foreign, 0).as_bytes()),
                "{id:?}"
            );
            let begin = || begin(&id, IdOrigin::Foreign, 1);
            assert_eq!(begin(), begin());
        }
    }
}
