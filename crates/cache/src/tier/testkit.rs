//! Checks for the fuzzer: reading an entry never panics, whatever its bytes, and the result is
//! within bounds and can be written again.

use bytes::Bytes;

use super::codec;

/// Reads an entry as it is, and once more with a correct checksum.
pub fn stored_entry(data: &[u8]) {
    read(data);
    if data.len() > 5 {
        let mut mended = data.to_vec();
        let checksum = crc32fast::hash(&mended[5..]);
        mended[0] = codec::VERSION;
        mended[1..5].copy_from_slice(&checksum.to_be_bytes());
        read(&mended);
    }
}

fn read(data: &[u8]) {
    let Ok(decoded) = codec::decode(Bytes::copy_from_slice(data), None) else {
        return;
    };
    assert!(decoded.headers.len() <= 1024 && decoded.tags.len() <= 1024);
    assert!(decoded.key.as_bytes().len() <= codec::MAX_HEAD);
    let spans = [
        decoded.lifetime.initial_age,
        decoded.lifetime.fresh_for,
        decoded.lifetime.stale_while_revalidate,
        decoded.lifetime.stale_if_error,
    ];
    assert!(spans.iter().all(|span| span.as_secs() <= 1 << 31));
    for keeps_private in [false, true] {
        let _is_storable = decoded.may_be_stored(keeps_private);
    }
    let bound = decoded.key.clone();
    let again = codec::decode(Bytes::copy_from_slice(data), Some(&bound));
    assert!(again.is_ok(), "it is of its own key");
}
