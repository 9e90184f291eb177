//! Redis representation of lists of fields.

use crate::policy::Vary;

/// Number of lists of `Vary` fields that are tried before those of a key are known.
pub(super) const VARIES: usize = 4;

/// Returns the fields of a `Vary` as stored in Redis; `None` for [`Vary::Everything`].
pub(super) fn names(vary: &Vary) -> Option<String> {
    let names: Vec<_> = vary
        .fields()?
        .iter()
        .map(http::HeaderName::as_str)
        .collect();
    Some(names.join(","))
}

/// Parses lists of fields, each ended by a line feed.
pub(super) fn varies_of(text: &[u8]) -> Option<Vec<Vary>> {
    let text = std::str::from_utf8(text).ok()?;
    let vary = |line: &str| Vary::from_names(line.split(',').filter(|name| !name.is_empty()));
    text.lines().take(VARIES).map(vary).collect()
}
