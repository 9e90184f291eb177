//! Header section of an HTTP/1.1 response as bytes.

use edgeway_base::http::write_header_line;
use http::{HeaderMap, HeaderValue, header};
use pingora::http::ResponseHeader;

/// Writer of one response header section (RFC 9112, 4 and 5).
#[derive(Debug)]
pub struct ResponseHeaderWriter<'a> {
    pub out: &'a mut Vec<u8>,
    /// Complete header lines, inserted after the status line.
    pub ready_lines: &'a [u8],
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
#[expect(clippy::struct_excessive_bools, reason = "each is a header's presence")]
pub struct PresentHeaders {
    pub content_length: bool,
    transfer_encoding: bool,
    date: bool,
    connection: bool,
    trailer: bool,
}

impl PresentHeaders {
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match *name {
                header::CONTENT_LENGTH => present.content_length = true,
                header::TRANSFER_ENCODING => present.transfer_encoding = true,
                header::DATE => present.date = true,
                header::CONNECTION => present.connection = true,
                header::TRAILER => present.trailer = true,
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
        if present.trailer {
            // HTTP/1 drops the trailers that it announces.
            headers.remove_header(&header::TRAILER);
        }
        write_status_line(out, headers);
        out.extend_from_slice(self.ready_lines);
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
}

/// Writes the header section of a response with a status of 1xx (RFC 9110, 15.2). It has these
/// `headers` and no others but the `ready_lines`.
pub fn write_informational(out: &mut Vec<u8>, headers: &ResponseHeader, ready_lines: &[u8]) {
    write_status_line(out, headers);
    out.extend_from_slice(ready_lines);
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

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_date_is_sent_as_it_is_stored_and_no_trailer_is_announced() {
        let mut head = ResponseHeader::build_no_case(StatusCode::OK, None).unwrap();
        head.insert_header("date", "never").unwrap();
        head.insert_header("trailer", "x-sum").unwrap();
        let present = PresentHeaders::from_headers(&head.headers);
        let mut out = Vec::new();
        let writer = ResponseHeaderWriter {
            out: &mut out,
            ready_lines: b"",
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
}
