//! The last requests of one kind, in memory that is written again and again.

use std::{ops::Range, slice, time::SystemTime};

use edgeway_core::chain::{FixedFields, LoggedRequest, Text};
use edgeway_core_filters::access_log::Redactor;
use smart_default::SmartDefault;

/// Maximum length of a name of the configuration.
const NAME: usize = 256;

/// Maximum lengths of stored texts, in the order of [`Text`]. A longer text ends with `…`.
const LONGEST: [usize; Text::COUNT] = {
    let mut longest = [NAME; Text::COUNT];
    longest[Text::Id as usize] = 64;
    longest[Text::Method as usize] = 32;
    longest[Text::Path as usize] = 512;
    longest[Text::Query as usize] = 512;
    longest[Text::User as usize] = 128;
    longest
};

/// Memory that a record keeps for its texts. Before a query is truncated its secrets are replaced,
/// which may make it much longer for a moment.
const ROOM: usize = 4096;

/// Length of the texts of most records.
const USUAL: usize = 512;

/// Number of bytes that a processor fetches at a time.
const CACHE_LINE: usize = 64;

const ELLIPSIS: &[u8] = "…".as_bytes();

/// Length that stands for a text that a request does not have.
const ABSENT: u16 = u16::MAX;

/// A ring of records, each with a number that counts from zero.
#[derive(Default)]
pub(super) struct Ring {
    records: Vec<Record>,
    capacity: usize,
    /// Index of the next record to write.
    next: usize,
    /// Number of records ever written.
    written: u64,
    pub(super) overwritten: Option<SystemTime>,
}

/// A request without its secrets. The texts follow one another in `bytes`.
#[derive(SmartDefault)]
struct Record {
    fixed: FixedFields,
    #[default([ABSENT; Text::COUNT])]
    lengths: [u16; Text::COUNT],
    bytes: Vec<u8>,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Stores a request in place of the oldest. Allocates only until the ring has been full once
    /// and its texts have had their usual length, or if they are longer than [`ROOM`].
    pub(super) fn push(&mut self, request: &LoggedRequest<'_>, redact: &Redactor) {
        if self.next == self.records.len() {
            self.records.push(Record::default());
        }
        if self.written >= self.capacity as u64 {
            self.overwritten = Some(self.records[self.next].fixed.ended);
        }
        self.records[self.next].fill(request, redact);
        self.next = self.after(self.next);
        self.written += 1;
        self.fetch_ahead();
    }

    /// Returns the index of the record that is written after the one at `index`.
    fn after(&self, index: usize) -> usize {
        if index + 1 == self.capacity {
            0
        } else {
            index + 1
        }
    }

    /// Fetches the memory of the next records into the cache: a ring is so large that it is never
    /// there by itself, and a request would wait for each part that it writes.
    fn fetch_ahead(&self) {
        // The place of its texts is known, because the record was fetched one request earlier.
        if let Some(record) = self.records.get(self.next) {
            prefetch(&record.bytes[..record.bytes.len().min(USUAL)]);
        }
        if let Some(record) = self.records.get(self.after(self.next)) {
            prefetch(slice::from_ref(record));
        }
    }

    /// Returns the numbers of the records that are stored.
    pub(super) fn numbers(&self) -> Range<u64> {
        self.written - self.records.len() as u64..self.written
    }

    /// Returns the record of a stored number.
    pub(super) fn get(&self, number: u64) -> LoggedRequest<'_> {
        let index = usize::try_from(number % self.capacity as u64).unwrap_or(0);
        self.records[index].request()
    }
}

impl Record {
    fn fill(&mut self, request: &LoggedRequest<'_>, redact: &Redactor) {
        self.fixed = request.fixed;
        let bytes = &mut self.bytes;
        bytes.clear();
        for (index, text) in request.texts.iter().enumerate() {
            let Some(text) = text else {
                self.lengths[index] = ABSENT;
                continue;
            };
            let start = bytes.len();
            if index == Text::Query as usize {
                redact.put(bytes, text, Vec::extend_from_slice);
            } else if text.len() <= LONGEST[index] {
                bytes.extend_from_slice(text);
            } else {
                bytes.extend_from_slice(&text[..=LONGEST[index]]);
            }
            if bytes.len() - start > LONGEST[index] {
                bytes.truncate(start + LONGEST[index] - ELLIPSIS.len());
                bytes.extend_from_slice(ELLIPSIS);
            }
            self.lengths[index] = u16::try_from(bytes.len() - start).unwrap_or(ABSENT);
        }
        if bytes.capacity() > ROOM {
            bytes.shrink_to(ROOM);
        }
    }

    fn request(&self) -> LoggedRequest<'_> {
        let mut rest = &self.bytes[..];
        let texts = self.lengths.map(|length| {
            if length == ABSENT {
                return None;
            }
            let (text, after) = rest.split_at_checked(length.into())?;
            rest = after;
            Some(text)
        });
        LoggedRequest {
            fixed: self.fixed,
            texts,
        }
    }
}

/// Asks the processor to fetch memory that is needed soon, and does not wait for it. Elsewhere than
/// on x86-64 it does nothing.
#[cfg_attr(
    target_arch = "x86_64",
    allow(unsafe_code, reason = "no safe function fetches memory ahead")
)]
fn prefetch<T>(memory: &[T]) {
    let bytes = memory.as_ptr_range();
    let (mut line, end) = (bytes.start.cast::<i8>(), bytes.end.cast::<i8>());
    while line < end {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction is part of every x86-64 processor, changes no state but the
        // cache's, and ignores addresses that cannot be read.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line);
        }
        line = line.wrapping_add(CACHE_LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(texts: &[(Text, &'a [u8])]) -> LoggedRequest<'a> {
        let mut request = LoggedRequest {
            fixed: FixedFields::default(),
            texts: [None; Text::COUNT],
        };
        for (text, value) in texts {
            request.texts[*text as usize] = Some(value);
        }
        request
    }

    #[test]
    fn the_last_requests_are_kept_with_all_their_texts() {
        let mut ring = Ring::new(3);
        assert_eq!(ring.numbers(), 0..0);
        for number in 0..8u64 {
            let path = format!("/{number}");
            // A record that had a text before loses it.
            let user = number
                .is_multiple_of(2)
                .then_some((Text::User, &b"ann"[..]));
            let texts: Vec<_> = [(Text::Path, path.as_bytes())]
                .into_iter()
                .chain(user)
                .collect();
            ring.push(&request(&texts), &Redactor::none());
            let numbers = ring.numbers();
            assert_eq!(numbers.end, number + 1);
            assert_eq!(numbers.start, (number + 1).saturating_sub(3));
            for stored in numbers {
                let found = ring.get(stored);
                assert_eq!(found.plain(Text::Path), format!("/{stored}").as_bytes());
                let user = stored.is_multiple_of(2).then_some(&b"ann"[..]);
                assert_eq!(found.text(Text::User), user);
                assert_eq!(found.text(Text::Query), None);
            }
        }
    }

    #[test]
    fn no_request_makes_a_record_keep_much_memory() {
        let mut ring = Ring::new(1);
        let redact = Redactor::with_secrets(["key"], &[]);
        // Each secret becomes longer when it is replaced.
        let query = b"&key=".repeat(1600);
        let long = vec![b'x'; 8000];
        let texts: Vec<_> = [Text::Path, Text::Host, Text::Referer, Text::Route]
            .map(|text| (text, &long[..]))
            .into_iter()
            .chain([(Text::Query, &query[..])])
            .collect();
        ring.push(&request(&texts), &redact);
        assert_eq!(ring.get(0).plain(Text::Query).len(), 512);
        assert!(ring.records[0].bytes.capacity() <= ROOM);
    }

    #[test]
    fn secrets_and_long_texts_are_not_stored() {
        let mut ring = Ring::new(1);
        let long = vec![b'x'; 10_000];
        let redact = Redactor::with_secrets(["token"], &[]);
        let texts = [
            (Text::Path, &long[..]),
            (Text::Query, b"a=1&token=hunter2"),
            (Text::UserAgent, &long[..256]),
        ];
        ring.push(&request(&texts), &redact);
        let found = ring.get(0);
        assert_eq!(found.plain(Text::Query), b"a=1&token=[redacted]");
        assert_eq!(found.plain(Text::UserAgent), &long[..256]);
        let path = found.plain(Text::Path);
        assert_eq!(path.len(), 512);
        assert!(path.ends_with("x…".as_bytes()));
        // The name of the secret is found however long the query is.
        let query = format!("{}&token=hunter2", "a=1&".repeat(1000));
        ring.push(&request(&[(Text::Query, query.as_bytes())]), &redact);
        assert_eq!(ring.get(1).plain(Text::Query).len(), 512);
    }
}
