//! Redirects requests without TLS to HTTPS, for a listener with `redirect: https`.

use edgeway_core::chain::{Client, Reply, Scheme, host::public_host};
use edgeway_gateway::ToHttps;
use http::{HeaderValue, StatusCode, header};
use pingora::http::RequestHeader;

use super::{
    error::{Failure, METHODS},
    forwarded,
};

/// Returns the redirect for a request that came without TLS, or `None` if it is served as it is. A
/// trusted proxy may have terminated TLS where this listener has none.
pub(super) fn reply(
    to: &ToHttps,
    request: &RequestHeader,
    path: &[u8],
    client: &Client,
) -> Option<Box<Reply>> {
    if client.scheme == Scheme::Https {
        return None;
    }
    if path == b"*" {
        return Some(options());
    }
    if !to.takes(path) {
        return None;
    }
    let host = forwarded::without_port(public_host(request, client));
    if host.is_empty() {
        // HTTP/1.0 may omit it, and then there is no host to redirect the client to.
        return Some(Failure::BadHost.into());
    }
    let mut location = format!("https://{host}").into_bytes();
    if to.port != 443 {
        location.extend_from_slice(format!(":{}", to.port).as_bytes());
    }
    location.extend_from_slice(request.raw_path());
    let Ok(location) = HeaderValue::from_bytes(&location) else {
        return Some(Failure::BadPath.into());
    };
    // 308 instead of 301: a POST must stay a POST.
    let reply = Reply::empty(StatusCode::PERMANENT_REDIRECT);
    Some(Box::new(reply.header(header::LOCATION, location)))
}

/// Returns the reply to `OPTIONS *`, which is for the gateway itself (RFC 9110, 9.3.7).
pub(super) fn options() -> Box<Reply> {
    let methods = HeaderValue::from_static(METHODS);
    Box::new(Reply::empty(StatusCode::OK).header(header::ALLOW, methods))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_base::target::PathRule;

    fn location(port: u16, host: Option<&str>, target: &str, scheme: Scheme) -> Option<String> {
        let to = ToHttps {
            port,
            except: ["/health", "/.well-known/acme-challenge/*"]
                .map(|path| PathRule::parse(path).unwrap())
                .into(),
        };
        let mut request = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
        if let Some(host) = host {
            request.insert_header(header::HOST, host).unwrap();
        }
        let client = Client {
            scheme,
            ..Client::default()
        };
        let path = target.split('?').next().unwrap_or_default();
        let reply = reply(&to, &request, path.as_bytes(), &client)?;
        let found = reply
            .headers
            .iter()
            .find(|(name, _)| *name == header::LOCATION);
        Some(match found {
            Some((_, value)) => value.to_str().unwrap().to_owned(),
            None => reply.status.as_u16().to_string(),
        })
    }

    #[track_caller]
    fn goes(port: u16, host: &str, target: &str, to: &str) {
        let found = location(port, Some(host), target, Scheme::Http);
        assert_eq!(found.as_deref(), Some(to), "{host} {target}");
    }

    #[test]
    fn host_path_and_query_stay_and_the_port_is_the_one_with_tls() {
        goes(443, "a.test", "/x/%20?y=/z", "https://a.test/x/%20?y=/z");
        goes(443, "a.test:8080", "/", "https://a.test/");
        goes(8443, "a.test:8080", "/", "https://a.test:8443/");
        goes(
            8443,
            "a.test",
            "//evil.test",
            "https://a.test:8443//evil.test",
        );
        goes(443, "[::1]:80", "/", "https://[::1]/");
        goes(8443, "[::1]", "/", "https://[::1]:8443/");
        goes(443, "a.test:", "/", "https://a.test/");
    }

    #[test]
    fn what_is_exempt_or_at_https_already_is_served() {
        let host = Some("a.test");
        for target in ["/health", "/health?x", "/.well-known/acme-challenge/token"] {
            assert_eq!(location(443, host, target, Scheme::Http), None, "{target}");
        }
        assert_eq!(location(443, host, "/", Scheme::Https), None);
        assert!(location(443, host, "/healthy", Scheme::Http).is_some());
        let whole = location(443, host, "*", Scheme::Http);
        assert_eq!(whole.as_deref(), Some("200"));
    }

    #[test]
    fn without_a_host_there_is_nowhere_to_go() {
        assert_eq!(
            location(443, None, "/", Scheme::Http).as_deref(),
            Some("400")
        );
    }
}
