//! Digests that gateways agree on: the same bytes on each of them, in Redis and on disk.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

pub(in crate::cache) type Digest = [u8; 16];

/// `kind` keeps digests of different things apart, and the lengths of parts are in it.
pub(in crate::cache) fn digest(kind: &[u8], parts: &[&[u8]]) -> Digest {
    let mut hasher = SipHasher13::new();
    hasher.write(kind);
    for part in parts {
        hasher.write(&(part.len() as u64).to_be_bytes());
        hasher.write(part);
    }
    hasher.finish128().as_u128().to_be_bytes()
}
