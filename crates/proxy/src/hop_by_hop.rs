//! Hop-by-hop headers of requests and responses, which end at this gateway (RFC 9110, 7.6.1).
//!
//! A lookup of each name would cost two dozen of them per request. Here the check is part of the
//! passes that [`super::forwarded`] makes over the names.

pub(super) use edgeway_base::hop_by_hop::{BadConnection, is_hop_by_hop, nominated};
use edgeway_base::http::list_of;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;

/// Returns true if a response header of this name ends here, whatever its value. `Connection` does
/// too, but every response that is sent has one of its own.
#[inline]
pub(super) fn ends_here(name: &str) -> bool {
    match name.as_bytes() {
        [b'u', ..] => name == "upgrade",
        [b'k', ..] => name == "keep-alive",
        // Not `Proxy-Status`, which is for the client (RFC 9209).
        [b'p', b'r', b'o', b'x', b'y', b'-', rest @ ..] => {
            rest.starts_with(b"auth") || rest == b"connection"
        }
        [b't', b'e'] => true,
        [b'h', ..] => name == "http2-settings",
        _ => false,
    }
}

/// Returns true if `Connection` contains only an option for the connection itself.
#[inline]
pub(super) fn is_plain(connection: &[u8]) -> bool {
    connection.eq_ignore_ascii_case(b"keep-alive") || connection.eq_ignore_ascii_case(b"close")
}

/// Removes hop-by-hop response headers, and those that `Connection` nominates.
#[cold]
pub(super) fn strip_response(response: &mut ResponseHeader) {
    const CONNECTION: HeaderName = header::CONNECTION;
    let mut doomed: Vec<HeaderName> = list_of(&response.headers, &CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !is_for_all(name.as_str()))
        .collect();
    // RFC 9110, 15.5.22: the required protocol. WebSocket is the one that is forwarded.
    let requires_websocket = response.status == StatusCode::UPGRADE_REQUIRED
        && list_of(&response.headers, &header::UPGRADE)
            .any(|it| it.eq_ignore_ascii_case(b"websocket"));
    let names = response.headers.keys();
    doomed.extend(names.filter(|name| ends_here(name.as_str())).cloned());
    doomed.push(CONNECTION);
    for name in doomed {
        response.remove_header(&name);
    }
    if requires_websocket {
        let websocket = HeaderValue::from_static("websocket");
        response
            .insert_header(header::UPGRADE, websocket)
            .expect("a name and a value of HTTP");
    }
}

/// Returns true if every recipient needs the field, so that `Connection` cannot nominate it (RFC
/// 9110, 7.6.1). A response without its `Cache-Control` would be shared, and one without its length
/// would not be a valid response.
fn is_for_all(name: &str) -> bool {
    name.ends_with("cache-control")
        || name.starts_with("content-")
        || matches!(
            name,
            "transfer-encoding" | "vary" | "set-cookie" | "expires" | "pragma" | "date" | "age"
        )
}

/// Returns true if `TE` states that the client accepts trailers. That is the only value allowed in
/// HTTP/2 (RFC 9113, 8.2.2), and gRPC servers refuse a call without it.
pub(super) fn wants_trailers(headers: &HeaderMap) -> bool {
    list_of(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(lines: &[&'static str]) -> Result<Vec<String>, BadConnection> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CONNECTION, HeaderValue::from_static(line));
        }
        let mut doomed = Vec::new();
        nominated(&headers, &mut doomed)?;
        Ok(doomed.iter().map(|name| name.as_str().to_owned()).collect())
    }

    #[test]
    fn headers_named_by_connection_end_here() {
        for (lines, names) in [
            (&["keep-alive"][..], &[][..]),
            (&["close, X-Mine"], &["x-mine"]),
            (&["Upgrade", " , x-a,, COOKIE"], &["x-a", "cookie"]),
            (&["TE, keep-alive, Connection", "x-a"], &["x-a"]),
            (&[""], &[]),
        ] {
            assert_eq!(named(lines).unwrap(), names, "{lines:?}");
        }
    }

    #[test]
    fn a_connection_header_that_cannot_be_obeyed_is_refused() {
        for line in [
            "Host",
            "Content-Length",
            "x-forwarded-FOR",
            "close, x-forwarded-host",
            "X-Forwarded-Proto",
            ":authority",
            "\"x-a\"",
            "x a",
            "a,b,c,d,e,f,g,h,i,j",
        ] {
            assert_eq!(named(&[line]), Err(BadConnection), "{line}");
        }
        assert!(named(&["a,b,c,d,e,f,g,h,i"]).is_ok());
    }

    #[test]
    fn a_response_keeps_its_end_to_end_headers() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("Connection", "x-mine, Close"),
            ("Connection", "cache-control, Content-Length, UPGRADE"),
            ("Keep-Alive", "timeout=5"),
            ("Upgrade", "h2c"),
            ("Proxy-Authenticate", "Basic"),
            ("Proxy-Connection", "close"),
            ("TE", "trailers"),
            ("X-Mine", "1"),
            ("X-Mine", "2"),
            ("X-Other", "3"),
            ("Cache-Control", "private"),
            ("Content-Length", "0"),
            ("Upgrade-Insecure", "4"),
            ("Proxy-Status", "edge"),
            ("Test", "5"),
        ] {
            response.append_header(name, value).unwrap();
        }
        strip_response(&mut response);
        let mut left: Vec<&str> = response.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let end_to_end = [
            "cache-control",
            "content-length",
            "proxy-status",
            "test",
            "upgrade-insecure",
            "x-other",
        ];
        assert_eq!(left, end_to_end);
        // Pingora panics if its map of spellings and the headers drift apart.
        response.header_to_h1_wire(&mut bytes::BytesMut::new());
    }

    #[test]
    fn a_required_upgrade_is_named_if_it_is_available() {
        for (status, upgrade, expected) in [
            (426, "websocket", Some("websocket")),
            (426, "h2c, WebSocket", Some("websocket")),
            (426, "h2c", None),
            (400, "websocket", None),
        ] {
            let mut response = ResponseHeader::build(status, None).unwrap();
            response.append_header("Connection", "upgrade").unwrap();
            response.append_header("Upgrade", upgrade).unwrap();
            strip_response(&mut response);
            let value = response.headers.get(header::UPGRADE);
            let value = value.map(|value| value.to_str().unwrap());
            assert_eq!(value, expected, "{status} {upgrade}");
        }
    }

    #[test]
    fn headers_between_neighbours() {
        for name in [
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ] {
            assert!(is_hop_by_hop(name.as_bytes()), "{name}");
        }
        for name in [
            "cookie",
            "host",
            "proxy",
            "tea",
            "upgrade-insecure-requests",
            "x-te",
        ] {
            assert!(!is_hop_by_hop(name.as_bytes()), "{name}");
        }
    }
}
