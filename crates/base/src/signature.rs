//! Signatures of requests: which headers of its request a client has signed. A backend that checks
//! the signature refuses the request if one of them was changed on the way.

use http::{HeaderMap, HeaderName, header};
use memchr::memmem;

/// Signed components of a request by RFC 9421.
pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
/// Parameter with the names of signed headers, as AWS (Signature Version 4) and others have it.
const SIGNED_HEADERS: &[u8] = b"SignedHeaders=";

/// Returns true if the client has signed headers beside `Host` by the rules of AWS: in
/// `Authorization`, or in the query of a presigned URL.
pub fn has_signed_headers(headers: &HeaderMap, query: Option<&str>) -> bool {
    let is_more_than_host = |text: &[u8]| {
        let start = memmem::find(text, SIGNED_HEADERS);
        let list = start.map(|start| &text[start + SIGNED_HEADERS.len()..]);
        list.is_some_and(|list| {
            !matches!(list, b"host" | [b'h', b'o', b's', b't', b'&' | b',', ..])
        })
    };
    let authorization = headers.get(header::AUTHORIZATION);
    authorization.is_some_and(|value| is_more_than_host(value.as_bytes()))
        || query.is_some_and(|query| is_more_than_host(query.as_bytes()))
}

/// Returns true if the client has signed the header `name`: in `Authorization`, in the query of a
/// presigned URL, or by RFC 9421. A name that is a part of a signed one counts too.
pub fn is_signed(headers: &HeaderMap, query: Option<&str>, name: &HeaderName) -> bool {
    let names = |text: &[u8]| memmem::find(text, name.as_str().as_bytes()).is_some();
    let is_listed = |list: &HeaderName| {
        let lists = headers.get(list);
        lists.is_some_and(|value| names(value.as_bytes()))
    };
    is_listed(&header::AUTHORIZATION)
        || is_listed(&SIGNATURE_INPUT)
        || query.is_some_and(|query| {
            names(query.as_bytes()) && has_signed_headers(headers, Some(query))
        })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_signature_names_what_it_covers() {
        let is_signed = |name: Option<HeaderName>, value: &'static str, query: &str| {
            let mut headers = HeaderMap::new();
            if let Some(name) = name {
                headers.insert(name, HeaderValue::from_static(value));
            }
            super::is_signed(&headers, Some(query), &header::ACCEPT_ENCODING)
        };
        for (value, expected) in [
            (
                "AWS4-HMAC-SHA256 Credential=a/s3/aws4_request, SignedHeaders=accept-encoding;host, Signature=1",
                true,
            ),
            (
                "AWS4-HMAC-SHA256 Credential=a/s3/aws4_request, SignedHeaders=host, Signature=1",
                false,
            ),
            ("Bearer abc", false),
        ] {
            assert_eq!(
                is_signed(Some(header::AUTHORIZATION), value, ""),
                expected,
                "{value}"
            );
        }
        assert!(is_signed(
            Some(SIGNATURE_INPUT),
            r#"s=("@method" "accept-encoding");created=1"#,
            ""
        ));
        assert!(!is_signed(
            Some(SIGNATURE_INPUT),
            r#"s=("@method");created=1"#,
            ""
        ));
        for (query, expected) in [
            (
                "X-Amz-SignedHeaders=accept-encoding%3Bhost&X-Amz-Signature=1",
                true,
            ),
            ("X-Amz-SignedHeaders=host&X-Amz-Signature=1", false),
            ("accept-encoding", false),
            ("", false),
        ] {
            assert_eq!(is_signed(None, "", query), expected, "{query}");
        }
    }

    #[test]
    fn a_url_that_signs_the_host_alone_signs_no_header() {
        let headers = HeaderMap::new();
        for (list, expected) in [
            ("host", false),
            ("host%3Bif-none-match", true),
            ("hosts", true),
            ("range%3Bhost", true),
        ] {
            for query in [
                format!("X-Amz-SignedHeaders={list}"),
                format!("a=b&X-Amz-SignedHeaders={list}&X-Amz-Signature=1"),
            ] {
                let is_more = has_signed_headers(&headers, Some(&query));
                assert_eq!(is_more, expected, "{query}");
            }
        }
        assert!(!has_signed_headers(&headers, None));
    }
}
