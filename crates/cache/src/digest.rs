//! Digests that are the same on each gateway, in Redis and on disk.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

pub(crate) type Digest = [u8; 16];

/// Returns a digest of `parts`. `kind` and the lengths of the parts go into it, so that different
/// kinds and different splits never share a digest.
pub(crate) fn digest(kind: &[u8], parts: &[&[u8]]) -> Digest {
    let mut hasher = SipHasher13::new();
    hasher.write(kind);
    for part in parts {
        hasher.write(&(part.len() as u64).to_be_bytes());
        hasher.write(part);
    }
    hasher.finish128().as_u128().to_be_bytes()
}
