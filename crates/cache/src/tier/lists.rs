//! Redis representation of lists of fields, and of numbers.

use super::codec;
use crate::policy::Vary;

/// Number of lists of `Vary` fields that are tried before those of a key are known.
pub(super) const VARIES: usize = 4;

/// Returns the fields of a `Vary` as stored in Redis; `None` for [`Vary::Everything`].
pub(super) fn names(vary: &Vary) -> Option<String> {
    let names = codec::fields(vary)?;
    let names: Vec<_> = names.iter().map(http::HeaderName::as_str).collect();
    Some(names.join(","))
}

/// Parses lists of fields, each ended by a line feed.
pub(super) fn varies_of(text: &[u8]) -> Option<Vec<Vary>> {
    let text = std::str::from_utf8(text).ok()?;
    let vary = |line: &str| {
        if line.is_empty() {
            return Some(Vary::Nothing);
        }
        let names = line.split(',').map(|name| name.parse().ok());
        let names: Option<Vec<http::HeaderName>> = names.collect();
        Some(Vary::Fields(names?.into()))
    };
    text.lines().take(VARIES).map(vary).collect()
}

/// Parses a number as scripts write it.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
