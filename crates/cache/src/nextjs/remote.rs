//! Sources of images on other servers that the configuration of the app allows.

use serde::Deserialize;
use serde_json::{Map, Value};
use url::{Host, Url};

use crate::base::expression::Expression;

/// Ports below this one are those of other protocols, except for HTTP's own.
const FIRST_FREE_PORT: u16 = 1024;

/// Rules for sources on other servers in `images-manifest.json`.
#[derive(Debug, Default)]
pub struct RemoteSources {
    domains: Box<[Box<str>]>,
    patterns: Box<[Pattern]>,
    /// True if addresses of this machine and of private networks are allowed.
    pub allow_local: bool,
    /// Redirects that are followed from one source.
    pub max_redirects: u32,
}

/// Sources that one of the patterns allows.
#[derive(Debug)]
struct Pattern {
    protocol: Option<Box<str>>,
    host: Expression,
    /// Port, empty for the default one of the protocol; `None` for any.
    port: Option<Box<str>>,
    path: Expression,
    /// Query with its `?`, empty for none; `None` for any.
    search: Option<Box<str>>,
}

/// Source on another server: a URL that all parsers read in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSource(Url);

/// Rules as the manifest has them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RemoteRules {
    domains: Vec<Box<str>>,
    remote_patterns: Vec<RemotePattern>,
    #[serde(rename = "dangerouslyAllowLocalIP")]
    allow_local: bool,
    /// Three, if an app says nothing.
    maximum_redirects: Option<u32>,
}

#[derive(Deserialize)]
struct RemotePattern {
    protocol: Option<Box<str>>,
    hostname: String,
    port: Option<Box<str>>,
    pathname: String,
    search: Option<Box<str>>,
}

impl Pattern {
    fn read(rule: RemotePattern) -> Option<Self> {
        let compile = |text: &str| Expression::parse(text, false).ok();
        Some(Self {
            protocol: rule.protocol,
            host: compile(&rule.hostname)?,
            port: rule.port,
            path: compile(&rule.pathname)?,
            search: rule.search,
        })
    }

    fn allows(&self, source: &RemoteSource) -> bool {
        let is = |own: Option<&str>, theirs: &str| own.is_none_or(|own| own == theirs);
        let port = source.0.port().map(|port| port.to_string());
        is(self.protocol.as_deref(), source.0.scheme())
            && is(self.port.as_deref(), port.as_deref().unwrap_or_default())
            && self.host.is_match(source.host()).unwrap_or(false)
            && is(self.search.as_deref(), &source.search())
            && self.path.is_match(source.0.path()).unwrap_or(false)
    }
}

impl RemoteSources {
    /// Reads the rules among the settings of the optimizer. Those that cannot be read allow nothing
    /// here: the app decides.
    pub(super) fn read(settings: Map<String, Value>) -> Self {
        let rules: RemoteRules = serde_json::from_value(settings.into()).unwrap_or_default();
        Self {
            domains: rules.domains.into(),
            patterns: rules
                .remote_patterns
                .into_iter()
                .filter_map(Pattern::read)
                .collect(),
            allow_local: rules.allow_local,
            max_redirects: rules.maximum_redirects.unwrap_or(3),
        }
    }

    /// Returns true if the app's configuration allows this source.
    pub fn allow(&self, source: &RemoteSource) -> bool {
        let mut domains = self.domains.iter();
        domains.any(|domain| **domain == *source.host())
            || self.patterns.iter().any(|pattern| pattern.allows(source))
    }
}

impl RemoteSource {
    /// Parses an absolute URL; `None` for one that is left to the app: with credentials, with a
    /// fragment, on the port of another protocol, or in a spelling that could be read in two ways.
    pub fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
        if !text.bytes().all(is_plain) {
            return None;
        }
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        let source = Self::from_url(Url::parse(text).ok()?)?;
        let written = authority.to_ascii_lowercase();
        let port = source.0.port_or_known_default()?;
        let host = source.host();
        (written == host || written == format!("{host}:{port}")).then_some(source)
    }

    fn from_url(url: Url) -> Option<Self> {
        let port = url.port_or_known_default()?;
        let is_of_http = matches!(port, 80 | 443) || port >= FIRST_FREE_PORT;
        // Versions of IDNA differ.
        let is_international = url.host_str()?.contains("xn--");
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
            && matches!(url.scheme(), "http" | "https");
        (is_of_http && !is_international && is_plain).then_some(Self(url))
    }

    /// Returns the source that a redirect from this one leads to; `None` for a target that is left
    /// to the app.
    pub fn redirected(&self, location: &str) -> Option<Self> {
        if location.contains("://") {
            return Self::parse(location);
        }
        // `//host/x` and `x:y` have other meanings than a path.
        let is_path = location.starts_with('/') && !location.starts_with("//");
        if !is_path || !location.bytes().all(is_plain) {
            return None;
        }
        Self::from_url(self.0.join(location).ok()?)
    }

    /// Returns the URL as a browser shows it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the host; that of an IPv6 address has its brackets.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Returns the host as a name or an address.
    pub fn address(&self) -> Option<Host<&str>> {
        self.0.host()
    }

    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or_default()
    }

    /// Returns the value of `Host`: without the default port.
    pub fn host_header(&self) -> String {
        match self.0.port() {
            Some(port) => format!("{}:{port}", self.host()),
            None => self.host().to_owned(),
        }
    }

    /// Returns path and query, as they are sent.
    pub fn target(&self) -> String {
        format!("{}{}", self.0.path(), self.search())
    }

    /// Returns the query with its `?`; empty if there is none, or an empty one.
    fn search(&self) -> String {
        match self.0.query() {
            Some(query) if !query.is_empty() => format!("?{query}"),
            _ => String::new(),
        }
    }
}

/// Returns true for bytes that mean the same to all parsers of URLs.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources(rules: Value) -> RemoteSources {
        let Value::Object(rules) = rules else {
            panic!("an object");
        };
        RemoteSources::read(rules)
    }

    #[test]
    fn urls_with_two_meanings_are_left_to_the_app() {
        for text in [
            "http://a.test/x.png",
            "https://a.test",
            "http://A.test:80/x?y=1&z=%2F",
            "http://127.0.0.1:4000/x",
            "http://[::1]:4000/x",
            "https://a.test:443/a%20b.png",
        ] {
            assert!(RemoteSource::parse(text).is_some(), "{text}");
        }
        for text in [
            "/x.png",
            "//a.test/x.png",
            "ftp://a.test/x",
            "HTTP://a.test/x",
            "http:/a.test/x",
            "http:\\\\a.test\\x",
            "http://user@a.test/x",
            "http://:pw@a.test/x",
            "http://a.test/x#y",
            "http://a.test\\@b.test/x",
            "http://0x7f.1/x",
            "http://2130706433/x",
            "http://127.1/x",
            "http://a%2etest/x",
            "http://xn--bcher-kva.test/x",
            "http://b\u{fc}cher.test/x",
            "http://a.test:25/x",
            "http://a.test:/x",
            "http://a.test:0080/x",
            "http://a.test/ x",
            "http://a.test/\tx",
            "http://[::ffff:127.0.0.1]/x",
            "http:///x",
            "",
        ] {
            assert_eq!(RemoteSource::parse(text), None, "{text}");
        }
    }

    #[test]
    fn patterns_are_those_of_the_manifest() {
        let source = |text: &str| RemoteSource::parse(text).unwrap();
        let rules = sources(json!({
            "domains": ["old.test"],
            "remotePatterns": [{
                "protocol": "https",
                "hostname": r"^(?:^(?:cdn\.test)$)$",
                "port": "",
                "pathname": r"^(?:\/a(?:\/(?!\.{1,2}(?:\/|$))(?:(?:(?!(?:^|\/)\.{1,2}(?:\/|$)).)*?)|$))$",
                "search": "?v=1",
            }],
        }));
        for (text, is_allowed) in [
            ("https://cdn.test/a/b.png?v=1", true),
            ("http://old.test:8080/any?x", true),
            ("https://cdn.test/a/b.png", false),
            ("https://cdn.test/a/b.png?v=2", false),
            ("https://cdn.test/b/b.png?v=1", false),
            ("https://cdn.test:8443/a/b.png?v=1", false),
            ("http://cdn.test/a/b.png?v=1", false),
            ("https://x.cdn.test/a/b.png?v=1", false),
            ("https://cdn.test/a/../b.png?v=1", false),
        ] {
            assert_eq!(rules.allow(&source(text)), is_allowed, "{text}");
        }
        assert!(!RemoteSources::default().allow(&source("https://cdn.test/")));
    }

    #[test]
    fn redirects_lead_to_sources() {
        let from = RemoteSource::parse("https://a.test:8443/b/c?d").unwrap();
        let to = |location: &str| from.redirected(location).map(|to| to.as_str().to_owned());
        for (location, expected) in [
            ("/x?y", Some("https://a.test:8443/x?y")),
            ("http://b.test/", Some("http://b.test/")),
            ("/../x", Some("https://a.test:8443/x")),
            ("x", None),
            ("//b.test/x", None),
            ("ftp://b.test/x", None),
            ("data:image/png;base64,AA==", None),
            ("http://user@b.test/", None),
            ("/x#y", None),
        ] {
            assert_eq!(to(location).as_deref(), expected, "{location}");
        }
        assert_eq!(from.host_header(), "a.test:8443");
        assert_eq!(from.target(), "/b/c?d");
    }
}
