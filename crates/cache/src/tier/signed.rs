//! Redis representation of an entry: a version, the signature of the fleet, and the entry.
//!
//! The entry contains its key and its variant, so that a copy in another place is detected, and the
//! prefix of all keys is signed with it.

use bytes::{Buf, Bytes};
use edgeway_net::redis::{Signer, TAG};

use super::{
    codec::{self, Decoded},
    metrics::DiscardReason,
};
use crate::{key::Key, store::Entry};

/// Version of this layout; the first had no signature.
const VERSION: u8 = 2;
/// Maximum bytes in addition to a body.
pub(super) const MAX_OVERHEAD: u64 = (codec::MAX_HEAD + TAG + 64) as u64;

const KIND: &str = "cache entry";

/// Encodes and signs an entry. Returns `None` if the body is incomplete or the response has `Vary:
/// *`.
pub(super) fn encode(signer: &Signer, prefix: &str, entry: &Entry) -> Option<Vec<u8>> {
    let encoded = codec::encode(entry)?;
    let mut bytes = Vec::with_capacity(1 + TAG + encoded.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&signer.sign(KIND, &[prefix.as_bytes(), &encoded]));
    bytes.extend_from_slice(&encoded);
    Some(bytes)
}

/// Decodes an entry. Its signature is verified before anything else is read.
pub(super) fn decode(
    signer: &Signer,
    prefix: &str,
    mut bytes: Bytes,
    expected: &Key,
    keeps_private: bool,
) -> Result<Decoded, DiscardReason> {
    if bytes.first() != Some(&VERSION) {
        return Err(DiscardReason::Version);
    }
    if bytes.len() < 1 + TAG {
        return Err(DiscardReason::Damaged);
    }
    bytes.advance(1);
    let tag = bytes.split_to(TAG);
    if !signer.verifies(KIND, &[prefix.as_bytes(), &bytes], &tag) {
        return Err(DiscardReason::Signature);
    }
    let decoded = codec::decode(bytes, Some(expected))?;
    if !decoded.may_be_stored(keeps_private) {
        return Err(DiscardReason::Policy);
    }
    Ok(decoded)
}
