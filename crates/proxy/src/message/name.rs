//! Names of headers, as clients and backends write them.

use std::cell::RefCell;

use http::HeaderName;

/// Number of names that a thread remembers.
const PLACES: usize = 128;
/// Length of the longest name that is remembered.
const LONGEST: usize = 32;

/// A name and its spelling.
struct ReadName {
    spelling: Box<[u8]>,
    name: HeaderName,
}

thread_local! {
    /// Names that this thread has read last, each at its place. Messages repeat them, and `http`
    /// needs memory for each that it does not know: a browser sends ten such names.
    static READ: RefCell<[Option<ReadName>; PLACES]> = const { RefCell::new([const { None }; PLACES]) };
}

/// Reads a name; `None` if it is not one.
pub(super) fn read(text: &[u8]) -> Option<HeaderName> {
    let (first, last) = (*text.first()?, *text.last()?);
    if text.len() > LONGEST {
        return HeaderName::from_bytes(text).ok();
    }
    let place = usize::from(first) + 3 * usize::from(last) + 11 * text.len();
    READ.with_borrow_mut(|read| {
        let place = &mut read[place % PLACES];
        if let Some(known) = place.as_ref().filter(|known| *known.spelling == *text) {
            return Some(known.name.clone());
        }
        let name = HeaderName::from_bytes(text).ok()?;
        *place = Some(ReadName {
            spelling: text.into(),
            name: name.clone(),
        });
        Some(name)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_is_read_as_http_reads_it(texts in prop::collection::vec("[a-cA-C-]{0,3}|[ -~]{0,40}", 1..50)) {
            for text in texts.iter().chain(&texts) {
                prop_assert_eq!(read(text.as_bytes()), HeaderName::from_bytes(text.as_bytes()).ok());
            }
        }
    }
}
