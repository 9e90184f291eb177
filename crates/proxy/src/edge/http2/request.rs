//! Requests on HTTP/2 that are malformed although `h2` accepts them (RFC 9113, 8.1.1).

use edgeway_base::http::values;
use http::{HeaderMap, StatusCode, header, request::Parts};
use pingora::protocols::http::authority::{RawTargetAuthority, raw_target_authority};

use crate::connection::refusal::Refusal;

/// Fault of a malformed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Space around the value of a header.
    Value,
    /// No host, or more than one.
    Authority,
    /// Content-Length that is more than one, or no number in its shortest form: HTTP/1.1 to a backend
    /// could be read in two ways.
    Length,
    /// Body behind a length of zero.
    Body,
}

impl Malformed {
    /// Returns the refusal, which has a log line as any other response has. A status of 444 is none:
    /// the stream is reset.
    pub(super) fn refusal(self) -> Refusal {
        let (status, detail) = match self {
            Self::Value => (444, "A value of a header begins or ends with a space."),
            Self::Authority => (400, "The request names no host, or more than one."),
            Self::Length => (400, "The Content-Length is invalid."),
            Self::Body => (444, "The body is longer than its Content-Length."),
        };
        Refusal {
            status: StatusCode::from_u16(status).expect("three digits"),
            reason: "h2_malformed",
            detail,
            method: None,
            target: None,
        }
    }
}

/// Checks a request. Its pseudo-headers and the bytes of its target are those that `h2` accepts.
pub(super) fn check(request: &Parts) -> Result<(), Malformed> {
    if has_space_around(&request.headers) {
        return Err(Malformed::Value);
    }
    if !has_one_authority(request) {
        return Err(Malformed::Authority);
    }
    if has_length(&request.headers) {
        Ok(())
    } else {
        Err(Malformed::Length)
    }
}

/// Returns true if there is no Content-Length, or one in its shortest form (RFC 9110, 8.6).
fn has_length(headers: &HeaderMap) -> bool {
    let mut lengths = values(headers, &header::CONTENT_LENGTH);
    let first = lengths.next().map(http::HeaderValue::as_bytes);
    let is_short = |length: &[u8]| matches!(length, [b'0'] | [b'1'..=b'9', ..]);
    lengths.next().is_none() && first.is_none_or(is_short)
}

/// Returns true if a value begins or ends with a space or a tab (RFC 9113, 8.2.1): a recipient that
/// trims it sees another value than one that does not.
fn has_space_around(headers: &HeaderMap) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers.values().any(|value| {
        let value = value.as_bytes();
        is_space(value.first()) || is_space(value.last())
    })
}

/// Returns true if the request names one host in one way (RFC 9113, 8.3.1).
fn has_one_authority(request: &Parts) -> bool {
    let mut hosts = values(&request.headers, &header::HOST);
    let host = hosts.next().map(http::HeaderValue::as_bytes);
    let authority = request.uri.authority();
    let authority = authority.map(|authority| authority.as_str().as_bytes());
    let Some(name) = authority.or(host) else {
        return false;
    };
    let is_one = hosts.next().is_none() && host.is_none_or(|host| host == name);
    let target = request
        .uri
        .path_and_query()
        .map_or("", |path| path.as_str());
    is_one
        && !name.contains(&b'@')
        && raw_target_authority(target.as_bytes()) == RawTargetAuthority::None
}

#[cfg(test)]
mod tests {
    use http::{Request, Uri, uri};

    use super::*;

    /// Returns the problem of a request with this authority, path and headers.
    fn problem(authority: &str, path: &str, headers: &[(&str, &str)]) -> Option<Malformed> {
        let mut parts = uri::Parts::default();
        if !authority.is_empty() {
            parts.scheme = Some(uri::Scheme::HTTPS);
            parts.authority = Some(authority.parse().unwrap());
        }
        parts.path_and_query = Some(path.parse().unwrap());
        let mut request = Request::builder().uri(Uri::from_parts(parts).unwrap());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0).err()
    }

    #[test]
    fn a_request_has_one_host() {
        for (authority, headers) in [
            ("a.test", &[][..]),
            ("a.test:8443", &[("host", "a.test:8443")]),
            ("", &[("host", "a.test")]),
        ] {
            assert_eq!(problem(authority, "/", headers), None, "{authority}");
        }
        for (authority, headers) in [
            ("", &[][..]),
            ("a.test", &[("host", "b.test")]),
            ("a.test", &[("host", "A.test")]),
            ("a.test", &[("host", "a.test"), ("host", "a.test")]),
            ("", &[("host", "a.test"), ("host", "b.test")]),
            ("me@a.test", &[]),
            ("", &[("host", "me@a.test")]),
        ] {
            let problem = problem(authority, "/", headers);
            assert_eq!(
                problem,
                Some(Malformed::Authority),
                "{authority} {headers:?}"
            );
        }
    }

    #[test]
    fn a_length_is_one_number_in_its_shortest_form() {
        for length in ["0", "5", "10"] {
            let headers = [("content-length", length)];
            assert_eq!(problem("a.test", "/", &headers), None, "{length}");
        }
        for lengths in [
            &["5", "5"][..],
            &["05"],
            &["00"],
            &[""],
            &["+5"],
            &["5", "6"],
        ] {
            let headers: Vec<_> = lengths.iter().map(|it| ("content-length", *it)).collect();
            let problem = problem("a.test", "/", &headers);
            assert_eq!(problem, Some(Malformed::Length), "{lengths:?}");
        }
    }

    #[test]
    fn values_have_no_space_around_them() {
        assert_eq!(problem("a.test", "/", &[("x-a", "a b")]), None);
        for value in [" a", "a ", "\ta", "a\t"] {
            let problem = problem("a.test", "/", &[("x-a", value)]);
            assert_eq!(problem, Some(Malformed::Value), "{value:?}");
        }
    }

    #[test]
    fn bytes_that_delimit_targets_are_in_none() {
        for target in ["/a b", "/a\r", "/a\nb", "/a\0", "/?a b"] {
            assert!(uri::PathAndQuery::try_from(target).is_err(), "{target:?}");
        }
    }
}
