//! The slot of a key in a cluster.

use crc16::{State, XMODEM};

/// Number of slots in a cluster, whatever its size.
pub(super) const SLOTS: u16 = 16_384;

/// Returns the slot of `key`: CRC-16 (XMODEM) of the key, or of the text in its first braces.
pub(super) fn slot(key: &[u8]) -> u16 {
    State::<XMODEM>::calculate(hashed(key)) % SLOTS
}

fn hashed(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let rest = &key[open + 1..];
    match memchr::memchr(b'}', rest) {
        Some(close) if close > 0 => &rest[..close],
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As returned by `CLUSTER KEYSLOT`.
        assert_eq!(slot(b"123456789"), 12_739);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"a{foo}b{x}"), slot(b"foo"));
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn braces_count_only_if_something_is_in_them() {
        assert_ne!(slot(b"{}a"), slot(b"{}b"));
        assert_ne!(slot(b"{a"), slot(b"{b"));
    }
}
