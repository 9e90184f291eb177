//! Web origins (`https://shop.example.com`): strict parsing, and patterns that match them.

use std::str;

use super::error::InvalidValue;

/// An origin as a request states it. Two origins are equal as on the web: schemes and hosts
/// regardless of case, and a scheme's default port equals no port.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Origin<'a> {
    /// Parses `SCHEME://HOST[:PORT]` and nothing longer. `null` is not accepted.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let (scheme, authority) = str::from_utf8(text).ok()?.split_once("://")?;
        if !is_scheme(scheme) {
            return None;
        }
        Self::new(scheme, authority)
    }

    /// Returns the origin of `HOST[:PORT]` under a scheme.
    pub fn new(scheme: &'a str, authority: &'a str) -> Option<Self> {
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(digits) => Some(digits.parse().ok().filter(|port| *port > 0)?),
            None => default_port(scheme),
        };
        is_host(host).then_some(Self { scheme, host, port })
    }
}

impl PartialEq for Origin<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port
            && self.scheme.eq_ignore_ascii_case(other.scheme)
            && self.host.eq_ignore_ascii_case(other.host)
    }
}

/// The origins that one entry of a list matches: a single one, or those of every host below a
/// domain (`https://*.example.com`, which does not match `https://example.com` itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern {
    scheme: Box<str>,
    host: HostPattern,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Exact(Box<str>),
    /// Domain suffix with its leading dot.
    Below(Box<str>),
}

impl OriginPattern {
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let refuse =
            |why: &str, help: String| InvalidValue::new(format!("the origin `{text}` {why}"), help);
        let Some((scheme, rest)) = text.split_once("://") else {
            let host = text.trim_matches('/');
            let host = if is_host(host) { host } else { "example.com" };
            return Err(refuse("has no scheme", format!("write `https://{host}`")));
        };
        if !is_scheme(scheme) {
            return Err(refuse(
                "has an invalid scheme",
                "write a scheme such as `https` before the `://`".into(),
            ));
        }
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let authority = &rest[..end];
        if end < rest.len() {
            return Err(refuse(
                "has more than a scheme and a host",
                format!("an origin has no path, not even `/`: write `{scheme}://{authority}`"),
            ));
        }
        if let Some((_, host)) = authority.rsplit_once('@') {
            return Err(refuse(
                "has a user name",
                format!("write `{scheme}://{host}`"),
            ));
        }
        let below = authority.strip_prefix("*.");
        let (domain, is_wildcard) = below.map_or((authority, false), |domain| (domain, true));
        if domain.contains('*') {
            return Err(refuse(
                "has its `*` in the wrong place",
                "`*` stands for all that comes before a domain: `https://*.example.com`".into(),
            ));
        }
        let Some(origin) = Origin::new(scheme, domain) else {
            return Err(refuse(
                "has no host, or an invalid host or port",
                "write `https://HOST` or `https://HOST:PORT`, a name beyond ASCII in punycode"
                    .into(),
            ));
        };
        let host = origin.host.to_ascii_lowercase();
        if is_wildcard && !host.trim_end_matches('.').contains('.') {
            return Err(refuse(
                "would allow every site below a top-level domain",
                "name the domain that is yours: `https://*.example.com`".into(),
            ));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase().into(),
            host: if is_wildcard {
                HostPattern::Below(format!(".{host}").into())
            } else {
                HostPattern::Exact(host.into())
            },
            port: origin.port,
        })
    }

    pub fn matches(&self, origin: &Origin<'_>) -> bool {
        let host = origin.host.as_bytes();
        self.port == origin.port
            && origin.scheme.eq_ignore_ascii_case(&self.scheme)
            && match &self.host {
                HostPattern::Exact(exact) => host.eq_ignore_ascii_case(exact.as_bytes()),
                HostPattern::Below(suffix) => {
                    host.len() > suffix.len()
                        && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
                }
            }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("https") {
        Some(443)
    } else if scheme.eq_ignore_ascii_case("http") {
        Some(80)
    } else {
        None
    }
}

/// Splits `HOST` and the digits of `:PORT`; `None` if the host is followed by anything else.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let after_host = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(after_host);
    if rest.is_empty() {
        return Some((host, None));
    }
    let digits = rest.strip_prefix(':')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some((host, Some(digits)))
}

/// Returns true for a scheme by RFC 3986, 3.1. Apps in a web view have their own:
/// `capacitor://localhost`.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Returns true for a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    !text.is_empty()
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn reaches(pattern: &str, origin: &str) -> bool {
        let pattern = OriginPattern::parse(pattern).unwrap();
        Origin::parse(origin.as_bytes()).is_some_and(|origin| pattern.matches(&origin))
    }

    #[test]
    fn scheme_host_and_port_all_count() {
        let shop = "https://shop.example.com";
        assert!(reaches(shop, "https://shop.example.com"));
        assert!(reaches(shop, "HTTPS://Shop.Example.COM"));
        assert!(reaches(shop, "https://shop.example.com:443"));
        assert!(reaches("https://Shop.example.com:443", shop));
        assert!(reaches("http://localhost:3000", "http://localhost:3000"));
        assert!(reaches("http://[::1]:3000", "http://[::1]:3000"));
        assert!(reaches("capacitor://localhost", "capacitor://localhost"));
        for other in [
            "http://shop.example.com",
            "https://shop.example.com:8443",
            "https://example.com",
            "https://a.shop.example.com",
            "https://shop.example.com.evil.test",
            "https://shop.example.com/",
            "https://shop.example.com@evil.test",
            "https://shop.example.com, https://evil.test",
            "null",
            "",
        ] {
            assert!(!reaches(shop, other), "{other}");
        }
    }

    #[test]
    fn a_wildcard_reaches_below_its_domain_only() {
        let below = "https://*.example.com";
        assert!(reaches(below, "https://a.example.com"));
        assert!(reaches(below, "https://a.b.EXAMPLE.com"));
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://evil.test/.example.com",
            "https://evil.test#.example.com",
            "https://evil.test\\.example.com",
            "https://evil.test:1.example.com",
        ] {
            assert!(!reaches(below, other), "{other}");
        }
    }

    #[test]
    fn hosts_under_a_scheme_are_origins_too() {
        let page = Origin::parse(b"https://shop.test").unwrap();
        assert_eq!(Some(page), Origin::new("https", "SHOP.test:443"));
        assert_ne!(Some(page), Origin::new("http", "shop.test"));
        assert_ne!(Some(page), Origin::new("https", "shop.test:8443"));
        assert!(Origin::new("https", "").is_none());
        assert!(Origin::new("https", "shop.test:").is_none());
        assert!(Origin::new("https", "shop.test:0").is_none());
        assert!(Origin::new("https", "shop.test:70000").is_none());
    }

    #[test]
    fn an_invalid_origin_is_refused_with_the_right_form() {
        for (text, message) in [
            (
                "shop.example.com",
                "the origin `shop.example.com` has no scheme; write `https://shop.example.com`",
            ),
            (
                "//shop.example.com/",
                "the origin `//shop.example.com/` has no scheme; write `https://shop.example.com`",
            ),
            (
                "https://shop.example.com/",
                "the origin `https://shop.example.com/` has more than a scheme and a host; an origin has no path, not even `/`: write `https://shop.example.com`",
            ),
            (
                "https://me@shop.test",
                "the origin `https://me@shop.test` has a user name; write `https://shop.test`",
            ),
            (
                "https://shop-*.test",
                "the origin `https://shop-*.test` has its `*` in the wrong place; `*` stands for all that comes before a domain: `https://*.example.com`",
            ),
            (
                "https://*.com",
                "the origin `https://*.com` would allow every site below a top-level domain; name the domain that is yours: `https://*.example.com`",
            ),
            (
                "https://shop.test:http",
                "the origin `https://shop.test:http` has no host, or an invalid host or port; write `https://HOST` or `https://HOST:PORT`, a name beyond ASCII in punycode",
            ),
        ] {
            let error = OriginPattern::parse(text).unwrap_err();
            assert_eq!(format!("{error}; {}", error.help), message);
        }
        for text in [
            "",
            "://",
            "https://",
            "https://*.",
            "https://käse.test",
            "1a://b",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in r"(https?|\PC{0,4})(://|:|)[a-z.*\[\]:/@0-9\PC]{0,12}",
            bytes in proptest::collection::vec(any::<u8>(), 0..32),
        ) {
            let origin = Origin::parse(text.as_bytes());
            Origin::parse(&bytes);
            Origin::new("https", &text);
            if let (Ok(pattern), Some(origin)) = (OriginPattern::parse(&text), origin) {
                prop_assert!(pattern.matches(&origin));
            }
        }
    }
}
