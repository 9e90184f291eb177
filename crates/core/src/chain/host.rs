//! Host of a request: as the client sent it, and as it appears in the browser's address bar.

use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;

use super::{Client, Scheme};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Returns the authority (`host:port`) of the request as it appears in the browser's address bar:
/// with the port, unless it is the scheme's default. Empty if the client sent none.
pub fn public_host<'h>(request: &'h RequestHeader, client: &Client) -> &'h str {
    let host = public_host_with(request, client, request.headers.get(header::HOST));
    // A host that is not plain ASCII is invalid, and was refused before a route matched.
    std::str::from_utf8(host).unwrap_or_default()
}

/// Returns [`public_host`] of a request whose `Host` was looked up already. Returns bytes: for
/// requests to a backend no check that they are text is needed.
pub fn public_host_with<'h>(
    request: &'h RequestHeader,
    client: &Client,
    host: Option<&'h HeaderValue>,
) -> &'h [u8] {
    let forwarded = if client.is_trusted {
        first_element(request, &X_FORWARDED_HOST).filter(|host| is_host(host))
    } else {
        None
    };
    let host = match forwarded {
        Some(forwarded) => forwarded.as_bytes(),
        None => requested_host_with(request, host),
    };
    without_default_port(host, client.scheme)
}

/// Returns the host that the client sent: the target's authority before `Host` (RFC 9112, 3.2.2).
pub fn requested_host(request: &RequestHeader) -> &[u8] {
    requested_host_with(request, request.headers.get(header::HOST))
}

fn requested_host_with<'h>(request: &'h RequestHeader, host: Option<&'h HeaderValue>) -> &'h [u8] {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str().as_bytes();
    }
    if let Some(authority) = target_authority(request.raw_path()) {
        return authority.as_bytes();
    }
    host.map(HeaderValue::as_bytes).unwrap_or_default()
}

/// Returns the authority of a target in absolute form, which Pingora leaves out of the URI.
fn target_authority(target: &[u8]) -> Option<&str> {
    if target.first() == Some(&b'/') {
        return None;
    }
    let (_, rest) = std::str::from_utf8(target).ok()?.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|host| is_host(host))
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]~".contains(&b))
}

/// Returns `host` without the port that URLs of the scheme need not name.
pub fn without_default_port(host: &[u8], scheme: Scheme) -> &[u8] {
    let default = match scheme {
        Scheme::Http => &b":80"[..],
        Scheme::Https => b":443",
    };
    host.strip_suffix(default).unwrap_or(host)
}

/// Returns the port reported by a trusted proxy.
pub fn forwarded_port<'h>(request: &'h RequestHeader, client: &Client) -> Option<&'h str> {
    if !client.is_trusted {
        return None;
    }
    first_element(request, &X_FORWARDED_PORT)
        .filter(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Returns the first element of a list that proxies append to: the value set by the outermost
/// proxy.
pub fn first_element<'h>(request: &'h RequestHeader, name: &HeaderName) -> Option<&'h str> {
    let text = request.headers.get(name)?.to_str().ok()?;
    Some(text.split(',').next().unwrap_or(text).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).unwrap();
        }
        request
    }

    #[test]
    fn the_public_host_has_its_port_unless_it_is_the_schemes_own() {
        let host = |host: &str, scheme| {
            let client = Client {
                scheme,
                ..Client::default()
            };
            public_host(&request("/", &[("Host", host)]), &client).to_owned()
        };
        assert_eq!(host("shop.test:8080", Scheme::Http), "shop.test:8080");
        assert_eq!(host("shop.test:80", Scheme::Http), "shop.test");
        assert_eq!(host("shop.test:80", Scheme::Https), "shop.test:80");
        assert_eq!(host("shop.test:443", Scheme::Https), "shop.test");
        assert_eq!(host("[::1]:443", Scheme::Https), "[::1]");
    }
}
