//! Several changes to a head at once, straight on its header map.
//!
//! `insert_header` of a `RequestHeader` or `ResponseHeader` parses and copies the name and
//! keeps a second map with the spelling of each name. For the dozen headers that every
//! answer gets, this costs several times the insertion itself, so filters that set more
//! than one header go through here. The price: names leave in lower case, which RFC 9110,
//! 5.1 allows and HTTP/2 demands.

use std::mem;

use http::{HeaderMap, HeaderValue, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

/// Changes the headers of a request; there will be room for `more` names beyond those there.
pub fn edit_request(
    head: &mut RequestHeader,
    more: usize,
    change: impl FnOnce(&mut HeaderMap<HeaderValue>),
) {
    // What `Parts` do not carry: a target that is kept beside the URI since the URI does
    // not render it, and HTTP/2's flag.
    let target = head.raw_path();
    let shown = head.uri.path_and_query().map(|path| path.as_str().as_ptr());
    let target = (shown != Some(target.as_ptr())).then(|| target.to_vec());
    let end_stream = head.send_end_stream();

    let nothing = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts: http::request::Parts = mem::replace(head, nothing).into();
    reserve(&mut parts.headers, more);
    change(&mut parts.headers);
    *head = RequestHeader::from(parts);

    if let Some(target) = target {
        let kept = head.set_raw_path(&target);
        debug_assert!(kept.is_ok(), "the target was accepted before");
    }
    if let Some(end_stream) = end_stream {
        head.set_send_end_stream(end_stream);
    }
}

/// Changes the headers of an answer; there will be room for `more` names beyond those there.
pub fn edit_response(
    head: &mut ResponseHeader,
    more: usize,
    change: impl FnOnce(&mut HeaderMap<HeaderValue>),
) {
    let phrase = head
        .get_reason_phrase()
        .filter(|phrase| !is_usual(phrase, head.status))
        .map(str::to_owned);

    let nothing = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let mut parts: http::response::Parts = mem::replace(head, nothing).into();
    reserve(&mut parts.headers, more);
    change(&mut parts.headers);
    *head = ResponseHeader::from(parts);

    if let Some(phrase) = phrase {
        let kept = head.set_reason_phrase(Some(&phrase));
        debug_assert!(kept.is_ok(), "the phrase was there before");
    }
}

/// Where a head has no phrase of its own, Pingora gives the very text of the status.
fn is_usual(phrase: &str, status: StatusCode) -> bool {
    status
        .canonical_reason()
        .is_some_and(|usual| std::ptr::eq(usual, phrase) || usual == phrase)
}

/// Growing step by step would hash every name again at each step.
fn reserve(headers: &mut HeaderMap<HeaderValue>, more: usize) {
    // Past its bound (32,768 names) the map stays as it is; insertions then fail softly.
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
            let mut head = RequestHeader::build("OPTIONS", target, None).unwrap();
            head.set_version(http::Version::HTTP_2);
            head.set_send_end_stream(false);
            head.insert_header("X-One", "1").unwrap();
            let is_utf8 = head.raw_path_is_utf8();
            edit_request(&mut head, 1, |headers| {
                headers.insert(header::HOST, HeaderValue::from_static("example.com"));
            });
            assert_eq!(head.raw_path(), target);
            assert_eq!(head.raw_path_is_utf8(), is_utf8);
            assert_eq!(head.method, "OPTIONS");
            assert_eq!(head.version, http::Version::HTTP_2);
            assert_eq!(head.send_end_stream(), Some(false));
            assert_eq!(head.headers["x-one"], "1");
            assert_eq!(head.headers["host"], "example.com");
        }
    }

    #[test]
    fn an_answer_keeps_status_version_and_phrase() {
        let mut head = ResponseHeader::build(404, None).unwrap();
        head.set_version(http::Version::HTTP_11);
        head.set_reason_phrase(Some("Nowhere")).unwrap();
        head.append_header("Set-Cookie", "a=1").unwrap();
        head.append_header("Set-Cookie", "b=2").unwrap();
        edit_response(&mut head, 1, |headers| {
            headers.insert(header::SERVER, HeaderValue::from_static("edgeway"));
        });
        assert_eq!(head.status, 404);
        assert_eq!(head.version, http::Version::HTTP_11);
        assert_eq!(head.get_reason_phrase(), Some("Nowhere"));
        let cookies: Vec<_> = head.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(head.headers["server"], "edgeway");
        // Pingora panics if its map of spellings and the headers drift apart.
        let mut wire = bytes::BytesMut::new();
        head.header_to_h1_wire(&mut wire);
        assert!(
            wire.starts_with(b"set-cookie: a=1\r\n") || wire.starts_with(b"Set-Cookie: a=1\r\n")
        );
    }
}
