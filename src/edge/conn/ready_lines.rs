//! Additions to the response headers that Pingora writes: prepared lines, and the response's own
//! `Date`.

use super::{ConnIo, WRITE_BUFFER};
use crate::connection::ReadyHeaderLines;

impl ConnIo {
    /// Buffers response headers with the additions in `lines`.
    pub(super) fn put_head(&mut self, head: &[u8], lines: &ReadyHeaderLines) {
        let after_status = memchr::memchr(b'\n', head).map_or(head.len(), |end| end + 1);
        let (status, fields) = head.split_at(after_status);
        if self.output.capacity() == 0 {
            self.output.reserve_exact(WRITE_BUFFER);
        }
        self.output.extend_from_slice(status);
        if let Some(added) = &lines.added {
            self.output.extend_from_slice(added);
        }
        let fields_at = self.output.len();
        self.output.extend_from_slice(fields);
        if let Some(date) = &lines.date {
            put_date(&mut self.output[fields_at..], date.as_bytes());
        }
    }
}

/// Overwrites the date in `fields` with `date`, which has the same length: both are IMF-fixdate
/// (RFC 9110, 5.6.7).
fn put_date(fields: &mut [u8], date: &[u8]) {
    const NAME: &[u8] = b"date: ";
    let lines = memchr::memchr_iter(b'\n', fields).map(|end| end + 1);
    let is_date = |at: &usize| {
        let name = fields.get(*at..*at + NAME.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    };
    let Some(at) = std::iter::once(0).chain(lines).find(is_date) else {
        return;
    };
    let value = at + NAME.len()..at + NAME.len() + date.len();
    let is_as_long = fields.get(value.end..value.end + 2) == Some(b"\r\n");
    if let Some(old) = fields.get_mut(value).filter(|_| is_as_long) {
        old.copy_from_slice(date);
    }
}

#[cfg(test)]
mod tests {
    use super::put_date;

    #[test]
    fn only_a_date_of_the_same_length_is_written_over() {
        let date = b"Thu, 01 Jan 2015 08:00:00 GMT";
        let mut head = *b"age: 1\r\nDate: Fri, 20 Nov 2026 22:00:00 GMT\r\nx-date: a\r\n\r\n";
        put_date(&mut head, date);
        let expected = "age: 1\r\nDate: Thu, 01 Jan 2015 08:00:00 GMT\r\nx-date: a\r\n\r\n";
        assert_eq!(std::str::from_utf8(&head).unwrap(), expected);
        let mut odd = *b"x-date: Fri, 20 Nov 2026 22:00:00 GMT\r\ndate: never\r\n\r\n";
        let before = odd;
        put_date(&mut odd, date);
        assert_eq!(odd, before);
    }
}
