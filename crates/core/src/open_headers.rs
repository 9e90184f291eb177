//! Request and response headers taken apart, changed on their bare header map, and put together
//! again.
//!
//! `insert_header` of a `RequestHeader` or `ResponseHeader` parses and copies the name and keeps a
//! second map with the spelling of each name. For the dozen headers that every response gets, this
//! costs several times the insertion itself, so the headers are opened once for all changes of a
//! phase. The price: names are sent in lower case, which RFC 9110, 5.1 allows and HTTP/2 requires.

use std::mem;

use http::{HeaderMap, HeaderValue, StatusCode, request, response};
use pingora::http::{RequestHeader, ResponseHeader};

/// A `RequestHeader` taken apart. The original stays empty until [`OpenRequestHeaders::close`].
#[must_use]
#[derive(Debug)]
pub struct OpenRequestHeaders {
    parts: request::Parts,
    /// Request target that `Parts` cannot carry, because the URI does not render it.
    target: Option<Box<[u8]>>,
    /// HTTP/2's end-of-stream flag, which `Parts` cannot carry either.
    end_stream: Option<bool>,
}

/// A `ResponseHeader` taken apart. The original stays empty until [`OpenResponseHeaders::close`].
#[must_use]
#[derive(Debug)]
pub struct OpenResponseHeaders {
    pub parts: response::Parts,
    /// Reason phrase, if it is not the status code's own.
    phrase: Option<Box<str>>,
}

impl OpenRequestHeaders {
    /// Takes `head` apart and reserves capacity for `more` additional names.
    pub fn take(head: &mut RequestHeader, more: usize) -> Self {
        let target = is_unusual(head).then(|| head.raw_path().into());
        let end_stream = head.send_end_stream();
        let nothing = RequestHeader::from(http::Request::new(()).into_parts().0);
        let mut parts: request::Parts = mem::replace(head, nothing).into();
        reserve(&mut parts.headers, more);
        Self {
            parts,
            target,
            end_stream,
        }
    }

    pub fn headers(&mut self) -> &mut HeaderMap {
        &mut self.parts.headers
    }

    /// Puts the parts back into `request`.
    pub fn close(self, request: &mut RequestHeader) {
        put_back(request, RequestHeader::from(self.parts));
        if let Some(target) = self.target {
            let accepted = request.set_raw_path(&target);
            debug_assert!(accepted.is_ok(), "the target was accepted before");
        }
        if let Some(end_stream) = self.end_stream {
            request.set_send_end_stream(end_stream);
        }
    }
}

impl OpenResponseHeaders {
    /// Takes `head` apart and reserves capacity for `more` additional names.
    pub fn take(head: &mut ResponseHeader, more: usize) -> Self {
        let phrase = head
            .get_reason_phrase()
            .filter(|phrase| !is_usual(phrase, head.status))
            .map(Into::into);
        let nothing = ResponseHeader::from(http::Response::new(()).into_parts().0);
        let mut parts: response::Parts = mem::replace(head, nothing).into();
        reserve(&mut parts.headers, more);
        Self { parts, phrase }
    }

    /// Puts the parts back into `response`.
    pub fn close(self, response: &mut ResponseHeader) {
        put_back(response, ResponseHeader::from(self.parts));
        if let Some(phrase) = self.phrase {
            let accepted = response.set_reason_phrase(Some(&phrase));
            debug_assert!(accepted.is_ok(), "the phrase was there before");
        }
    }
}

/// Returns true if `phrase` is the standard one of `status`. Pingora returns that very string if
/// the response has no phrase of its own.
fn is_usual(phrase: &str, status: StatusCode) -> bool {
    status
        .canonical_reason()
        .is_some_and(|usual| std::ptr::eq(usual, phrase) || usual == phrase)
}

/// Puts `head` back without dropping the placeholder, which owns no memory. Dropping it piece by
/// piece would take a hundred instructions each time.
fn put_back<H>(place: &mut H, head: H) {
    mem::forget(mem::replace(place, head));
}

/// Copies `request` with capacity for `more` additional names.
///
/// A clone has capacity for its names alone, and would allocate again for the first one that is added.
pub fn roomy_copy(request: &RequestHeader, more: usize) -> RequestHeader {
    if is_unusual(request) {
        return request.clone();
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = request.method.clone();
    parts.uri = request.uri.clone();
    parts.version = request.version;
    parts.headers = HeaderMap::with_capacity(request.headers.len() + more);
    for (name, value) in &request.headers {
        parts.headers.append(name.clone(), value.clone());
    }
    let mut copy = RequestHeader::from(parts);
    if let Some(end_stream) = request.send_end_stream() {
        copy.set_send_end_stream(end_stream);
    }
    copy
}

/// Returns true if the target of `request` is not the one that its URI renders.
fn is_unusual(request: &RequestHeader) -> bool {
    let path = request.uri.path_and_query();
    let shown = path.map_or(&b""[..], |path| path.as_str().as_bytes());
    request.raw_path().as_ptr() != shown.as_ptr() || !request.raw_path_is_utf8()
}

/// Reserves capacity at once, because growing step by step would rehash every name at each step.
fn reserve(headers: &mut HeaderMap<HeaderValue>, more: usize) {
    // Past its limit (32,768 names) the map stays as it is; later insertions then return an error.
    let _unbounded = headers.try_reserve(more);
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn a_request_keeps_all_that_its_headers_are_not() {
        for target in [
            &b"/a%2Fb?q=\xff"[..],
            b"/plain?x=1",
            b"http://example.com/absolute",
            b"*",
        ] {
            let mut request = RequestHeader::build("OPTIONS", target, None).unwrap();
            request.set_version(http::Version::HTTP_2);
            request.set_send_end_stream(false);
            request.insert_header("X-One", "1").unwrap();
            let is_utf8 = request.raw_path_is_utf8();
            let mut open = OpenRequestHeaders::take(&mut request, 1);
            let host = HeaderValue::from_static("example.com");
            open.headers().insert(header::HOST, host);
            open.close(&mut request);
            assert_eq!(request.raw_path(), target);
            assert_eq!(request.raw_path_is_utf8(), is_utf8);
            assert_eq!(request.method, "OPTIONS");
            assert_eq!(request.version, http::Version::HTTP_2);
            assert_eq!(request.send_end_stream(), Some(false));
            assert_eq!(request.headers["x-one"], "1");
            assert_eq!(request.headers["host"], "example.com");
        }
    }

    #[test]
    fn a_copy_has_all_that_a_request_has() {
        for target in [
            &b"/a%2Fb?q=\xff"[..],
            b"/plain?x=1",
            b"http://example.com/absolute",
            b"*",
        ] {
            let mut request = RequestHeader::build("PATCH", target, None).unwrap();
            request.set_version(http::Version::HTTP_2);
            for (name, value) in [("X-One", "1"), ("Cookie", "a=1"), ("X-One", "2")] {
                request.append_header(name, value).unwrap();
            }
            for end_stream in [true, false] {
                request.set_send_end_stream(end_stream);
                let copy = roomy_copy(&request, 10);
                assert_eq!(copy.raw_path(), target);
                assert_eq!(copy.uri, request.uri);
                assert_eq!(copy.method, request.method);
                assert_eq!(copy.version, request.version);
                assert_eq!(copy.headers, request.headers);
                assert_eq!(copy.send_end_stream(), request.send_end_stream());
            }
        }
    }

    #[test]
    fn added_names_need_no_more_memory() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header(header::HOST, "a.test").unwrap();
        let mut copy = roomy_copy(&request, 10);
        let capacity = copy.headers.capacity();
        assert!(capacity >= 11);
        let open = OpenRequestHeaders::take(&mut copy, 10);
        assert_eq!(open.parts.headers.capacity(), capacity);
        open.close(&mut copy);
    }

    #[test]
    fn a_response_keeps_status_version_and_phrase() {
        let mut response = ResponseHeader::build(404, None).unwrap();
        response.set_version(http::Version::HTTP_11);
        response.set_reason_phrase(Some("Nowhere")).unwrap();
        response.append_header("Set-Cookie", "a=1").unwrap();
        response.append_header("Set-Cookie", "b=2").unwrap();
        let mut open = OpenResponseHeaders::take(&mut response, 1);
        let server = HeaderValue::from_static("edgeway");
        open.parts.headers.insert(header::SERVER, server);
        open.close(&mut response);
        assert_eq!(response.status, 404);
        assert_eq!(response.version, http::Version::HTTP_11);
        assert_eq!(response.get_reason_phrase(), Some("Nowhere"));
        let cookies: Vec<_> = response.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(response.headers["server"], "edgeway");
        // Pingora panics if its map of spellings and the header map disagree.
        let mut wire = bytes::BytesMut::new();
        response.header_to_h1_wire(&mut wire);
        assert!(
            wire.starts_with(b"set-cookie: a=1\r\n") || wire.starts_with(b"Set-Cookie: a=1\r\n")
        );
    }
}
