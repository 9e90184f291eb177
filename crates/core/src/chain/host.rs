//! Host of a request: as the client sent it, and as it appears in the browser's address bar.

use http::{HeaderName, HeaderValue, header, uri::Authority};
use pingora::http::RequestHeader;

use super::{Client, Scheme};
use crate::base::{
    host::{host_of, normal_authority},
    http::values,
};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Gives the host of a request its normal form, where `Host` names it and where a trusted proxy
/// reports it: routes, cache keys and backends know a site by no other spelling.
pub fn normalise_host(request: &mut RequestHeader, client: &Client) {
    let default_port = match client.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let normal = |host: &[u8]| {
        // What is no host stays so, and is refused.
        let normal = normal_authority(host, default_port).filter(|_| host_of(host).is_ok());
        normal.and_then(|normal| HeaderValue::try_from(normal).ok())
    };
    let sent = request.headers.get(header::HOST);
    let sent = sent.and_then(|host| normal(host.as_bytes()));
    let public = forwarded_host(request, client).and_then(|host| normal(host.as_bytes()));
    for (name, normal) in [(header::HOST, sent), (X_FORWARDED_HOST, public)] {
        if let Some(normal) = normal {
            // Nothing about the name or the value can fail.
            let _inserted = request.insert_header(name, normal);
        }
    }
}

/// Returns the host that a trusted proxy reports.
fn forwarded_host<'h>(request: &'h RequestHeader, client: &Client) -> Option<&'h str> {
    let is_reported = client.is_trusted;
    let host = is_reported.then(|| first_element(request, &X_FORWARDED_HOST));
    host.flatten().filter(|host| is_host(host))
}

/// Returns the authority (`host:port`) of the request as it appears in the browser's address bar:
/// with the port, unless it is the scheme's default. Empty if the client sent none.
pub fn public_host<'h>(request: &'h RequestHeader, client: &Client) -> &'h str {
    forwarded_host(request, client).unwrap_or_else(|| match sent_host(request) {
        SentHost::Target(host) => host,
        // A host that is not plain ASCII is invalid, and was refused before a route matched.
        SentHost::Header(host) => host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
    })
}

/// Returns the host that the client sent: the target's authority before `Host` (RFC 9112, 3.2.2).
pub fn requested_host(request: &RequestHeader) -> &[u8] {
    match sent_host(request) {
        SentHost::Target(host) => host.as_bytes(),
        SentHost::Header(host) => host.map(HeaderValue::as_bytes).unwrap_or_default(),
    }
}

/// Host of a request, by the place that has it.
enum SentHost<'h> {
    Target(&'h str),
    Header(Option<&'h HeaderValue>),
}

fn sent_host(request: &RequestHeader) -> SentHost<'_> {
    let of_uri = request.uri.authority().map(Authority::as_str);
    match of_uri.or_else(|| target_authority(request.raw_path())) {
        Some(host) => SentHost::Target(host),
        None => SentHost::Header(values(&request.headers, &header::HOST).next()),
    }
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
    host_of(text.as_bytes()).is_ok_and(|host| !host.is_empty())
}

/// Returns the port reported by a trusted proxy.
pub fn forwarded_port<'h>(request: &'h RequestHeader, client: &Client) -> Option<&'h str> {
    if !client.is_trusted {
        return None;
    }
    // `+443` and `0443` are numbers too.
    first_element(request, &X_FORWARDED_PORT).filter(|port| {
        port.starts_with(|c| ('1'..='9').contains(&c)) && port.parse::<u16>().is_ok()
    })
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
            let mut request = request("/", &[("Host", host)]);
            normalise_host(&mut request, &client);
            public_host(&request, &client).to_owned()
        };
        assert_eq!(host("shop.test:8080", Scheme::Http), "shop.test:8080");
        assert_eq!(host("shop.test:80", Scheme::Http), "shop.test");
        assert_eq!(host("shop.test:80", Scheme::Https), "shop.test:80");
        assert_eq!(host("shop.test:443", Scheme::Https), "shop.test");
        assert_eq!(host("[::1]:443", Scheme::Https), "[::1]");
    }

    #[test]
    fn a_proxy_that_reports_no_host_reports_nothing() {
        let client = Client {
            is_trusted: true,
            ..Client::default()
        };
        for (reported, public) in [
            ("shop.test, inner.test", "shop.test"),
            ("[::1]:8080", "[::1]:8080"),
            ("[::1", "own.test"),
            ("[x]", "own.test"),
            ("a:b:c", "own.test"),
            ("a.test:999999", "own.test"),
            ("..", "own.test"),
            (":80", "own.test"),
            ("~a", "own.test"),
            ("a@b", "own.test"),
            ("", "own.test"),
        ] {
            let headers = [("Host", "own.test"), ("X-Forwarded-Host", reported)];
            let mut request = request("/", &headers);
            normalise_host(&mut request, &client);
            assert_eq!(public_host(&request, &client), public, "{reported}");
        }
    }
}
