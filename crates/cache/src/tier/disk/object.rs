//! The file of an entry: the id of its journal, its position among purges, and the encoded entry.

use bytes::{Buf, Bytes};

use super::super::codec::{self, Decoded};
use crate::{key::Key, store::Entry};

const MAGIC: &[u8; 8] = b"EDGEWAY1";
/// The magic, the journal's id, the position, and a checksum of them.
const HEAD: usize = 8 + 16 + 8 + 4;

/// Encodes an entry. Returns `None` if the body is incomplete or the response has `Vary: *`.
pub(super) fn encode(journal: u128, position: u64, entry: &Entry) -> Option<Vec<u8>> {
    let encoded = codec::encode(entry)?;
    let mut bytes = Vec::with_capacity(HEAD + encoded.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&journal.to_be_bytes());
    bytes.extend_from_slice(&position.to_be_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes.extend_from_slice(&encoded);
    Some(bytes)
}

/// Decodes an entry, of any key if `key` is `None`, and its position. Returns `None` for an entry
/// that must not be used: truncated, changed, or of another version, journal or key.
pub(super) fn decode(journal: u128, mut bytes: Bytes, key: Option<&Key>) -> Option<(u64, Decoded)> {
    let head = bytes.get(..HEAD)?;
    let checksum = crc32fast::hash(&head[..HEAD - 4]);
    let mut head = bytes.split_to(HEAD);
    if head.split_to(MAGIC.len()) != MAGIC.as_slice() || head.get_u128() != journal {
        return None;
    }
    let position = head.get_u64();
    if head.get_u32() != checksum {
        return None;
    }
    let decoded = codec::decode(bytes, key).ok()?;
    Some((position, decoded))
}
