//! Start of a W3C trace for a request that arrived without one, where the gateway exports no spans.

use edgeway_base::trace_context::{read_hex, write_hex};
use edgeway_core::chain::RequestId;
use http::HeaderValue;

/// Starts a trace with the request's id as trace id, so that log and traces can be matched. `span`
/// is random.
///
/// The trace is sampled, since apps that follow their parent's decision (the default of
/// OpenTelemetry's SDKs) would otherwise record nothing at all.
pub(super) fn begin(id: &RequestId, origin: IdOrigin, span: u64) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let id = id.as_bytes();
    let is_trace_id = || read_hex(id).is_some_and(|number| number != 0);
    if id.len() == 32 && (origin == IdOrigin::Ours || is_trace_id()) {
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
    use edgeway_base::trace_context::TraceContext;

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
        let zero = "0".repeat(32);
        let upper = "4BF92F3577B34DA6A3CE929D0E0E4736";
        for id in ["x", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", &zero, upper] {
            let id = RequestId::foreign(id.as_bytes()).unwrap();
            let begun = begin(&id, IdOrigin::Foreign, 0);
            assert!(TraceContext::parse(begun.as_bytes()).is_some(), "{id:?}");
            let begin = || begin(&id, IdOrigin::Foreign, 1);
            assert_eq!(begin(), begin());
        }
    }
}
