//! Normalises HTTP/2 request headers into the form that the rest of the gateway uses: `Host` as a
//! header, the target as a path, one `Cookie`.
//!
//! The checks that `edge/head` makes on the raw HTTP/1 bytes are made here on the parsed headers,
//! so that both are refused for the same reasons. The `h2` crate refuses bad framing, control
//! characters and hop-by-hop headers, and `edge::http2` what else is malformed.

use bytes::{BufMut, BytesMut};
use edgeway_base::http::{has, values};
use edgeway_config::model::{LimitsConfig, UnderscoresConfig};
use edgeway_gateway::Listener;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use pingora::http::RequestHeader;

use super::error::Failure;
use crate::connection::header_texts::ConnectionText;

/// No registered method has more than 17 letters.
const MAX_METHOD_LEN: usize = 32;
const MAX_NAME_LEN: usize = 256;
/// Bytes of a request line and of a header line besides their parts, as HTTP/1 writes them.
const LINE: usize = "  HTTP/1.1\r\n".len();
const FIELD: usize = ": \r\n".len();

/// Headers that must not be repeated: programs differ in which of two they use.
const SINGLE: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    header::ORIGIN,
    header::REFERER,
    header::EXPECT,
    header::RANGE,
];

/// Checks the request headers against the limits of `listener`, and normalises them.
pub(super) fn settle(
    request: &mut RequestHeader,
    listener: &Listener,
    text: &ConnectionText,
) -> Result<(), Failure> {
    check_line(request, &listener.limits)?;
    let odd = check_fields(request, &listener.limits)?;
    if odd.has_underscore {
        match listener.underscores {
            UnderscoresConfig::Allow => {}
            UnderscoresConfig::Refuse => return Err(Failure::BadHeader),
            UnderscoresConfig::Drop => drop_underscores(request),
        }
    }
    if odd.cookies > 1
        && let Some(joined) = joined_cookies(&request.headers)
    {
        request
            .insert_header(header::COOKIE, joined)
            .map_err(|_| Failure::BadHeader)?;
    }
    name_host(request, text)
}

fn check_line(request: &RequestHeader, limits: &LimitsConfig) -> Result<(), Failure> {
    let method = request.method.as_str();
    let is_method_byte = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    if method.len() > MAX_METHOD_LEN || !method.bytes().all(is_method_byte) {
        return Err(Failure::BadRequest);
    }
    if matches!(request.method, Method::TRACE | Method::CONNECT) {
        return Err(Failure::Method);
    }
    match request.raw_path() {
        [b'/', ..] => {}
        b"*" if request.method == Method::OPTIONS => {}
        _ => return Err(Failure::BadPath),
    }
    if !request.raw_path().is_ascii()
        || request.raw_path().iter().any(|byte| b"\"<>".contains(byte))
    {
        return Err(Failure::BadPath);
    }
    let length = line_length(request) - "\r\n".len();
    if length as u64 > limits.request_line().0 {
        return Err(Failure::LongLine);
    }
    Ok(())
}

fn line_length(request: &RequestHeader) -> usize {
    request.method.as_str().len() + request.raw_path().len() + LINE
}

/// Unusual properties of request headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UnusualHeaders {
    has_underscore: bool,
    cookies: usize,
}

fn check_fields(request: &RequestHeader, limits: &LimitsConfig) -> Result<UnusualHeaders, Failure> {
    let mut odd = UnusualHeaders::default();
    let mut length = line_length(request) + "\r\n".len();
    for (name, value) in &request.headers {
        let text = name.as_str();
        length += text.len() + value.len() + FIELD;
        if text.len() > MAX_NAME_LEN {
            return Err(Failure::BadHeader);
        }
        odd.has_underscore |= text.contains('_');
        odd.cookies += usize::from(*name == header::COOKIE);
    }
    // Cookies count once, as HTTP/1 sends them.
    let count = request.headers.len() - odd.cookies.saturating_sub(1);
    if length as u64 > limits.headers().0 || count > limits.header_count as usize {
        return Err(Failure::LongHead);
    }
    // If there are as many lines as names, no name is repeated.
    if request.headers.len() != request.headers.keys_len() {
        let is_twice = |name: &HeaderName| request.headers.get_all(name).iter().nth(1).is_some();
        if SINGLE.iter().any(is_twice) {
            return Err(Failure::BadHeader);
        }
    }
    match values(&request.headers, &header::EXPECT).next() {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Failure::Expectation)
        }
        _ => Ok(odd),
    }
}

fn drop_underscores(request: &mut RequestHeader) {
    let has_underscore = |name: &&HeaderName| name.as_str().contains('_');
    let names: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(has_underscore)
        .cloned()
        .collect();
    for name in names {
        request.remove_header(&name);
    }
}

/// Joins cookies, which may arrive one by one (RFC 9113, 8.2.3), into one header.
fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    const BETWEEN: &[u8] = b"; ";
    let cookies = || headers.get_all(header::COOKIE).iter();
    let length = cookies().map(|cookie| cookie.len() + BETWEEN.len()).sum();
    let mut joined = BytesMut::with_capacity(length);
    for cookie in cookies() {
        if !joined.is_empty() {
            joined.put_slice(BETWEEN);
        }
        joined.put_slice(cookie.as_bytes());
    }
    HeaderValue::from_maybe_shared(joined.freeze()).ok()
}

/// Turns `:authority` into `Host`. The edge has checked that they agree if both are present.
fn name_host(request: &mut RequestHeader, text: &ConnectionText) -> Result<(), Failure> {
    let Some(authority) = request.uri.authority() else {
        return Ok(());
    };
    if !has(&request.headers, &header::HOST) {
        let host = text
            .host(authority.as_str().as_bytes())
            .map_or_else(
                || HeaderValue::from_str(authority.as_str()),
                |known| Ok(known.raw.clone()),
            )
            .map_err(|_| Failure::BadHost)?;
        request
            .insert_header(header::HOST, host)
            .map_err(|_| Failure::BadHost)?;
    }
    if let Some(path) = request.uri.path_and_query() {
        request.set_uri(Uri::from(path.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn head(uri: &str, fields: &[(&str, &str)]) -> RequestHeader {
        let mut request = http::Request::builder()
            .uri(uri)
            .version(http::Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0.into()
    }

    fn settled(request: &mut RequestHeader, listener: &Listener) -> Result<(), Failure> {
        let text = ConnectionText::new(Ipv4Addr::LOCALHOST.into(), &HeaderValue::from(443u16));
        settle(request, listener, &text)
    }

    #[track_caller]
    fn check(uri: &str, fields: &[(&str, &str)], expected: Result<(), Failure>) {
        let outcome = settled(&mut head(uri, fields), &Listener::test());
        assert_eq!(outcome, expected, "{uri} {fields:?}");
    }

    #[test]
    fn headers_of_http_2_get_the_form_of_http_1() {
        let mut head = head(
            "https://shop.example.com:8443/a%2Fb?c=d",
            &[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3")],
        );
        settled(&mut head, &Listener::test()).unwrap();
        assert_eq!(head.raw_path(), b"/a%2Fb?c=d");
        assert_eq!(head.uri.to_string(), "/a%2Fb?c=d");
        assert_eq!(head.headers[header::HOST], "shop.example.com:8443");
        let cookies: Vec<_> = head.headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
        assert_eq!(head.headers.len(), 3);
    }

    #[test]
    fn what_http_1_refuses_is_refused() {
        let long = "a".repeat(8200);
        let many: Vec<(String, &str)> = (0..129).map(|i| (format!("x-{i}"), "")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, *value)).collect();
        let large = "a".repeat(32 * 1024);
        check("http://a/", &[("accept", "*/*")], Ok(()));
        check(&format!("http://a/{long}"), &[], Err(Failure::LongLine));
        check("http://a/", &[("x-a", &large)], Err(Failure::LongHead));
        check("http://a/", &many, Err(Failure::LongHead));
        check("http://a/", &many[..127], Ok(()));
        check("http://a/", &[("x-a", "1"), ("x-a", "2")], Ok(()));
        for name in SINGLE {
            let fields = [(name.as_str(), "100-continue"); 2];
            check("http://a/", &fields, Err(Failure::BadHeader));
            check("http://a/", &fields[..1], Ok(()));
        }
        check("http://a/", &[("expect", "tea")], Err(Failure::Expectation));
        check(
            "http://a/",
            &[(&"a".repeat(257), "")],
            Err(Failure::BadHeader),
        );
        check("http://a/\u{e9}", &[], Err(Failure::BadPath));
        check("http://a/\"", &[], Err(Failure::BadPath));
        for (method, expected) in [
            ("TRACE", Failure::Method),
            ("CONNECT", Failure::Method),
            ("get", Failure::BadRequest),
        ] {
            let mut head = head("http://a/", &[]);
            head.set_method(Method::from_bytes(method.as_bytes()).unwrap());
            assert_eq!(settled(&mut head, &Listener::test()), Err(expected));
        }
    }

    #[test]
    fn a_hundred_cookies_are_one_header() {
        let cookies = [("cookie", "a=1"); 150];
        check("http://a/", &cookies, Ok(()));
    }

    #[test]
    fn underscores_are_the_listeners_to_judge() {
        let fields = [("x_user", "root"), ("x-user", "me")];
        for (underscores, expected) in [
            (UnderscoresConfig::Drop, Ok(1)),
            (UnderscoresConfig::Allow, Ok(2)),
            (UnderscoresConfig::Refuse, Err(Failure::BadHeader)),
        ] {
            let mut listener = Listener::test();
            listener.underscores = underscores;
            let mut head = head("/", &fields);
            let outcome = settled(&mut head, &listener).map(|()| head.headers.len());
            assert_eq!(outcome, expected, "{underscores:?}");
        }
    }
}
