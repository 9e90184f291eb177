//! WebSocket handshake (RFC 6455, 4): recognises requests for one, and checks the backend's 101
//! against the request.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use edgeway_base::http::{asks_for_websocket, has_token};
use edgeway_routes::Action;
use http::{HeaderMap, HeaderName, Method, Version, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::{
    context::{self, Context},
    error::Failure,
};

const CONNECTION: HeaderName = header::CONNECTION;
const UPGRADE: HeaderName = header::UPGRADE;
const WEBSOCKET: &str = "websocket";
/// GUID that the key is hashed with (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Length of sixteen bytes in base64.
const KEY: usize = 24;

/// Returns the route's own limit on the silence of a WebSocket.
pub(super) fn idle(ctx: &Context) -> Option<Duration> {
    match &context::route(&ctx.gateway, ctx.route)?.action {
        Action::Forward(forward) => forward.websocket.as_ref()?.idle,
        Action::Redirect(_) | Action::Respond(_) | Action::Files(_) => None,
    }
}

/// Returns true if the request asks for a WebSocket. Any other upgrade is removed on the way to a
/// backend, as is one without `Connection: Upgrade` (RFC 9110, 7.8), and any in a version without
/// upgrades.
#[inline]
pub(super) fn is_asked_for(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11 && asks_for_websocket(&request.headers)
}

/// Checks a request that asks for a WebSocket (RFC 6455, 4.2.1).
pub(super) fn check_request(request: &RequestHeader) -> std::result::Result<(), Failure> {
    let headers = &request.headers;
    let length = headers.get(header::CONTENT_LENGTH);
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || length.is_some_and(|length| length.as_bytes() != b"0");
    if request.method != Method::GET || has_body {
        return Err(Failure::Handshake);
    }
    match only(headers, &header::SEC_WEBSOCKET_VERSION) {
        Some(b"13") => {}
        _ => return Err(Failure::WebsocketVersion),
    }
    match only(headers, &header::SEC_WEBSOCKET_KEY) {
        Some(key) if is_key(key) => Ok(()),
        _ => Err(Failure::Handshake),
    }
}

/// Returns true if a 101 to `request` begins the WebSocket that it asked for (RFC 6455, 4.1).
pub(super) fn is_accepted(request: &RequestHeader, response: &ResponseHeader) -> bool {
    let Some(key) = only(&request.headers, &header::SEC_WEBSOCKET_KEY) else {
        return false;
    };
    let upgrade = only(&response.headers, &UPGRADE);
    upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
        && has_token(&response.headers, &CONNECTION, "upgrade")
        && only(&response.headers, &header::SEC_WEBSOCKET_ACCEPT) == Some(accept(key).as_bytes())
}

/// Sets the headers of a 101 to the protocol that the client asked for, and removes those of a
/// body, which a 101 does not have (RFC 9110, 15.2).
pub(super) fn begin(response: &mut ResponseHeader) -> Result<()> {
    response.remove_header(&header::CONTENT_LENGTH);
    response.remove_header(&header::TRANSFER_ENCODING);
    response.insert_header(CONNECTION, "Upgrade")?;
    response.insert_header(UPGRADE, WEBSOCKET)
}

/// Returns the proof that the key was read.
fn accept(key: &[u8]) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    STANDARD.encode(hash)
}

fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == KEY && key.ends_with(b"==") && key[..KEY - 2].iter().all(is_digit)
}

/// Returns the field's value without surrounding whitespace, if the field is not repeated.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next()?;
    lines
        .next()
        .is_none()
        .then(|| value.as_bytes().trim_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn request(method: &str, fields: &[(&str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build(method, b"/ws", None).unwrap();
        head.set_version(Version::HTTP_11);
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            head.append_header(name, *value).unwrap();
        }
        head
    }

    /// Returns the sample with one field replaced or removed.
    fn with(name: &str, value: Option<&str>) -> RequestHeader {
        let mut head = request("GET", &SAMPLE);
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        head.remove_header(&name);
        if let Some(value) = value {
            head.append_header(name, value).unwrap();
        }
        head
    }

    #[test]
    fn a_handshake_names_both_the_protocol_and_the_connection() {
        assert!(is_asked_for(&request("GET", &SAMPLE)));
        assert!(is_asked_for(&with("connection", Some("UPGRADE"))));
        assert!(is_asked_for(&with("upgrade", Some("h2c, WebSocket"))));
        for head in [
            with("connection", None),
            with("connection", Some("keep-alive")),
            with("connection", Some("upgrades")),
            with("upgrade", None),
            with("upgrade", Some("h2c")),
            with("upgrade", Some("websockets")),
        ] {
            assert!(!is_asked_for(&head), "{head:?}");
        }
        let mut old = request("GET", &SAMPLE);
        old.set_version(Version::HTTP_10);
        assert!(!is_asked_for(&old));
    }

    #[test]
    fn a_handshake_is_as_the_rfc_has_it() {
        assert_eq!(check_request(&request("GET", &SAMPLE)), Ok(()));
        assert_eq!(check_request(&with("content-length", Some("0"))), Ok(()));
        for (head, failure) in [
            (request("POST", &SAMPLE), Failure::Handshake),
            (with("content-length", Some("2")), Failure::Handshake),
            (
                with("transfer-encoding", Some("chunked")),
                Failure::Handshake,
            ),
            (
                with("sec-websocket-version", None),
                Failure::WebsocketVersion,
            ),
            (
                with("sec-websocket-version", Some("8")),
                Failure::WebsocketVersion,
            ),
            (with("sec-websocket-key", None), Failure::Handshake),
            (
                with("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ")),
                Failure::Handshake,
            ),
            (
                with("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ=a")),
                Failure::Handshake,
            ),
            (
                with("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25-ZQ==")),
                Failure::Handshake,
            ),
        ] {
            assert_eq!(check_request(&head), Err(failure), "{head:?}");
        }
        let mut twice = request("GET", &SAMPLE);
        twice
            .append_header(header::SEC_WEBSOCKET_KEY, SAMPLE[3].1)
            .unwrap();
        assert_eq!(check_request(&twice), Err(Failure::Handshake));
    }

    fn response(fields: &[(&str, &str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(101, None).unwrap();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            head.append_header(name, *value).unwrap();
        }
        head
    }

    #[test]
    fn a_response_must_match_the_key_of_the_request() {
        // RFC 6455, 1.3.
        let right = [
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let handshake = request("GET", &SAMPLE);
        assert!(is_accepted(&handshake, &response(&right)));
        for left_out in 0..right.len() {
            let mut fields = right.to_vec();
            fields.remove(left_out);
            assert!(!is_accepted(&handshake, &response(&fields)), "{fields:?}");
        }
        let other = with("sec-websocket-key", Some("AAAAAAAAAAAAAAAAAAAAAA=="));
        assert!(!is_accepted(&other, &response(&right)));
        let mut protocol = right;
        protocol[1].1 = "h2c";
        assert!(!is_accepted(&handshake, &response(&protocol)));
    }

    proptest! {
        #[test]
        fn every_key_of_sixteen_bytes_passes_and_no_other(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            prop_assert_eq!(is_key(STANDARD.encode(&bytes).as_bytes()), bytes.len() == 16);
        }
    }
}
