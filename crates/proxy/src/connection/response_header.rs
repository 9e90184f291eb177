//! Header section of an HTTP/1.1 response as bytes: written for a response that no Pingora session
//! writes, or copied from one with the connection's additions.

use std::sync::Arc;

use edgeway_base::http::write_header_line;
use http::{HeaderMap, HeaderValue, header};
use pingora::http::ResponseHeader;

/// Changes to the next header section that Pingora writes.
#[derive(Debug, Default)]
pub struct ReadyHeaderLines {
    /// Complete header lines, inserted after the status line.
    pub added: Option<Arc<[u8]>>,
    /// Replaces the `Date` that is written.
    pub date: Option<HeaderValue>,
}

/// Writer of one response header section (RFC 9112, 4 and 5).
///
/// Both ways give the same bytes for the same response: the tests of `edge::conn::ready_lines`
/// compare them, and state where they differ.
#[derive(Debug)]
pub struct ResponseHeaderWriter<'a> {
    pub out: &'a mut Vec<u8>,
    /// Complete header lines, inserted after the status line.
    pub ready_lines: Option<&'a [u8]>,
}

/// Use of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionReuse {
    KeepAlive,
    Close,
}

/// Presence of the headers that matter to the connection. One pass over the names costs less than a
/// lookup of each.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is the presence of a header"
)]
pub struct PresentHeaders {
    pub content_length: bool,
    transfer_encoding: bool,
    date: bool,
    connection: bool,
}

impl PresentHeaders {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match *name {
                header::CONTENT_LENGTH => present.content_length = true,
                header::TRANSFER_ENCODING => present.transfer_encoding = true,
                header::DATE => present.date = true,
                header::CONNECTION => present.connection = true,
                _ => {}
            }
        }
        present
    }
}

impl ResponseHeaderWriter<'_> {
    /// Writes the header section of a response with these `headers`, of which some are
    /// `present`. The body is sent in chunks if it `is_chunked`. `date` is called if the response
    /// has no `Date`.
    ///
    /// The version is that of the sender (RFC 9110, 6.2), whatever `headers` has.
    pub fn write(
        self,
        headers: &mut ResponseHeader,
        present: PresentHeaders,
        is_chunked: bool,
        reuse: ConnectionReuse,
        date: impl FnOnce() -> HeaderValue,
    ) {
        let out = self.out;
        if present.connection {
            // Written below, no matter which value a filter set.
            headers.remove_header(&header::CONNECTION);
        }
        write_status_line(out, headers);
        out.extend_from_slice(self.ready_lines.unwrap_or_default());
        headers.header_to_h1_wire(out);
        if !present.date {
            write_header_line(out, b"Date", date().as_bytes());
        }
        if is_chunked && !present.transfer_encoding {
            write_header_line(out, b"Transfer-Encoding", b"chunked");
        }
        let end: &[u8] = match reuse {
            ConnectionReuse::KeepAlive => b"Connection: keep-alive\r\n\r\n",
            ConnectionReuse::Close => b"Connection: close\r\n\r\n",
        };
        out.extend_from_slice(end);
    }

    /// Copies a header section that Pingora has written, of which `section` is at least the status
    /// line. `date` replaces its `Date`.
    pub fn copy(self, section: &[u8], date: Option<&HeaderValue>) {
        let out = self.out;
        let after_status = memchr::memchr(b'\n', section).map_or(section.len(), |end| end + 1);
        let (status_line, lines) = section.split_at(after_status);
        out.extend_from_slice(status_line);
        out.extend_from_slice(self.ready_lines.unwrap_or_default());
        let lines_at = out.len();
        out.extend_from_slice(lines);
        if let Some(date) = date {
            replace_date(&mut out[lines_at..], date.as_bytes());
        }
    }
}

/// Writes the header section of a response with a status of 1xx (RFC 9110, 15.2). It has these
/// `headers` and no others but the `ready_lines`.
pub fn write_informational(
    out: &mut Vec<u8>,
    headers: &ResponseHeader,
    ready_lines: Option<&[u8]>,
) {
    write_status_line(out, headers);
    out.extend_from_slice(ready_lines.unwrap_or_default());
    headers.header_to_h1_wire(out);
    out.extend_from_slice(b"\r\n");
}

fn write_status_line(out: &mut Vec<u8>, headers: &ResponseHeader) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(headers.status.as_str().as_bytes());
    out.push(b' ');
    let phrase = headers.get_reason_phrase().unwrap_or_default();
    out.extend_from_slice(phrase.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Overwrites the date in `lines` with `date`, which has the same length: both are IMF-fixdate
/// (RFC 9110, 5.6.7).
fn replace_date(lines: &mut [u8], date: &[u8]) {
    const NAME: &[u8] = b"date: ";
    let starts = memchr::memchr_iter(b'\n', lines).map(|end| end + 1);
    let is_date = |start: &usize| {
        let name = lines.get(*start..*start + NAME.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    };
    let Some(start) = std::iter::once(0).chain(starts).find(is_date) else {
        return;
    };
    let value = start + NAME.len()..start + NAME.len() + date.len();
    let is_as_long = lines.get(value.end..value.end + 2) == Some(b"\r\n");
    if let Some(old) = lines.get_mut(value).filter(|_| is_as_long) {
        old.copy_from_slice(date);
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_date_that_pingora_would_not_write_is_sent_as_it_is_stored() {
        let mut head = ResponseHeader::build_no_case(StatusCode::OK, None).unwrap();
        head.insert_header("date", "never").unwrap();
        let present = PresentHeaders::of(&head.headers);
        let mut out = Vec::new();
        let writer = ResponseHeaderWriter {
            out: &mut out,
            ready_lines: None,
        };
        let unused = || -> HeaderValue { unreachable!("it has a date") };
        writer.write(
            &mut head,
            present,
            false,
            ConnectionReuse::KeepAlive,
            unused,
        );
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "HTTP/1.1 200 OK\r\nDate: never\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn only_a_date_of_the_same_length_is_replaced() {
        let date = b"Thu, 01 Jan 2015 08:00:00 GMT";
        let mut lines = *b"age: 1\r\nDate: Fri, 20 Nov 2026 22:00:00 GMT\r\nx-date: a\r\n\r\n";
        replace_date(&mut lines, date);
        let expected = "age: 1\r\nDate: Thu, 01 Jan 2015 08:00:00 GMT\r\nx-date: a\r\n\r\n";
        assert_eq!(std::str::from_utf8(&lines).unwrap(), expected);
        let mut odd = *b"x-date: Fri, 20 Nov 2026 22:00:00 GMT\r\ndate: never\r\n\r\n";
        let before = odd;
        replace_date(&mut odd, date);
        assert_eq!(odd, before);
    }
}
