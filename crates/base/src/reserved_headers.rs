//! Request headers that a client cannot send: those that the gateway sets about a client, those
//! that only another proxy could know, and those that override the request behind every rule.
//!
//! Compiled once for a whole configuration, so that a request costs one lookup per name.

use std::collections::BTreeSet;

use http::HeaderName;

/// Names that are removed from requests before a route is chosen.
#[derive(Clone, Debug)]
pub struct ReservedHeaders {
    /// Bit sets of the lengths, modulo 64, of reserved names, indexed by the last five bits of a
    /// name's first byte. Most names of most requests are ruled out here.
    lengths: [u64; 32],
    /// Names that routes set for their backends.
    own: BTreeSet<Box<[u8]>>,
    /// Names of [`OVERRIDES`] that some route lets pass.
    passing: BTreeSet<&'static str>,
    /// True if anything besides backends reads the gateway's own headers before a route is chosen,
    /// or on every route: they must be set before a route is chosen.
    pub is_read: bool,
}

/// Reason why a name needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// Removed, no matter who sends it.
    Always,
    /// Removed unless a trusted proxy sends it.
    Untrusted,
    /// `Connection`, which names hop-by-hop headers.
    Connection,
}

/// Headers that a proxy in front may set about its client.
pub const FROM_PROXIES: [&str; 4] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
];

/// Headers that override the request's method, target or host: no rule has checked the result. A
/// route can let them pass.
pub const OVERRIDES: [&str; 9] = [
    // CGI turns it into `HTTP_PROXY` (httpoxy, CVE-2016-5385).
    "proxy",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// Header with the secret of a warm-up, which `edgeway deploy` sends to its own gateway.
pub const WARM_UP: &str = "x-edgeway-warm-up";

/// Headers about a client that only some proxy could know, and those that the gateway sets or reads
/// itself.
const CLAIMS: [&str; 34] = [
    WARM_UP,
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    "proxy-client-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-user-ip",
    "x-arr-clientcert",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forward-for",
    "x-forward-host",
    "x-forward-proto",
    "x-forwarded",
    "x-host-override",
    "x-http-host",
    "x-original-for",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-proto",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-scheme",
    "x-url-scheme",
];

/// Prefixes of such names. All begin with `x`: see [`ReservedHeaders::new`].
const CLAIM_PREFIXES: [&str; 6] = [
    "x-amzn-mtls-",
    "x-client-cert",
    "x-client-verify",
    "x-envoy-",
    "x-forwarded-",
    "x-ssl-client-",
];

/// Headers that the gateway sets on every request to a backend.
const WRITTEN: [&str; 3] = ["x-real-ip", "x-client-cert", "x-client-verify"];

/// Upper bound on the length of a reserved name.
const MAX_NAME_LEN: usize = 256;

/// A name as the laxest backend sees it: lighttpd maps everything that is not a letter or digit to
/// one character, PHP maps dots, CGI and WSGI map hyphens.
struct FoldedName {
    bytes: [u8; MAX_NAME_LEN],
    length: usize,
}

impl FoldedName {
    /// Folds `name`, or its beginning if it is longer.
    fn fold(name: &[u8]) -> Self {
        let mut bytes = [0; MAX_NAME_LEN];
        let length = name.len().min(MAX_NAME_LEN);
        for (folded, byte) in bytes.iter_mut().zip(name) {
            *folded = if byte.is_ascii_alphanumeric() {
                byte.to_ascii_lowercase()
            } else {
                b'-'
            };
        }
        Self { bytes, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Reason why a route can neither set nor match a header name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableHeader {
    /// Set by a route for its backend.
    Own,
    /// Removed from every request before its route is chosen.
    Claim,
    /// Passed through by no route.
    Override,
}

impl ReservedHeaders {
    /// Compiles the table. `own`: names that any route sets for its backend; `passing`: names of
    /// [`OVERRIDES`] that any route lets pass; `is_read`: anything besides backends reads the
    /// gateway's own headers before a route is chosen, or on every route.
    pub fn new<'n>(
        own: impl IntoIterator<Item = &'n HeaderName>,
        passing: impl IntoIterator<Item = &'n str>,
        is_read: bool,
    ) -> Self {
        let own: BTreeSet<Box<[u8]>> = own
            .into_iter()
            .map(|name| FoldedName::fold(name.as_str().as_bytes()).bytes().into())
            .collect();
        let passing: Vec<&str> = passing.into_iter().collect();
        let passing: BTreeSet<&'static str> = OVERRIDES
            .into_iter()
            .filter(|name| passing.iter().any(|other| other.eq_ignore_ascii_case(name)))
            .collect();
        let mut lengths = [0; 32];
        // Names with a reserved prefix may have any length.
        lengths[usize::from(b'x' & 31)] = u64::MAX;
        let exact = CLAIMS.iter().chain(&OVERRIDES).chain(&["connection"]);
        let exact = exact.map(|name| name.as_bytes());
        for name in exact.chain(own.iter().map(|name| &**name)) {
            lengths[usize::from(name[0] & 31)] |= 1 << (name.len() & 63);
        }
        Self {
            lengths,
            own,
            passing,
            is_read,
        }
    }

    /// Returns true if some route lets one of [`OVERRIDES`] pass, so that the other routes must
    /// remove it themselves.
    pub fn passes_overrides(&self) -> bool {
        !self.passing.is_empty()
    }

    /// Returns the reason why a request header of this name, in lower case, is reserved.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<Reserved> {
        let first = *name.first()?;
        if self.lengths[usize::from(first & 31)] >> (name.len() & 63) & 1 == 0 {
            return None;
        }
        self.find_among(name)
    }

    fn find_among(&self, name: &[u8]) -> Option<Reserved> {
        if name == b"connection" {
            return Some(Reserved::Connection);
        }
        // As long as `cf-pseudo-ipv4`, with the same first letter, and in every upload.
        if name == b"content-length" {
            return None;
        }
        let folded = FoldedName::fold(name);
        let folded = folded.bytes();
        let is = |known: &str| known.as_bytes() == folded;
        if FROM_PROXIES.iter().any(|known| known.as_bytes() == name) {
            return Some(Reserved::Untrusted);
        }
        let is_reserved = begins_as_claim(folded)
            || OVERRIDES
                .iter()
                .any(|known| is(known) && !(self.passing.contains(known) && name == folded))
            || (name.len() <= MAX_NAME_LEN && self.own.contains(folded));
        is_reserved.then_some(Reserved::Always)
    }

    /// Returns the reason why a condition on this header never holds; `None` if it may hold.
    pub fn never_seen(&self, name: &HeaderName) -> Option<UnusableHeader> {
        if is_claim(name) {
            return Some(UnusableHeader::Claim);
        }
        let name = name.as_str();
        if self.own.contains(name.as_bytes()) {
            return Some(UnusableHeader::Own);
        }
        let is_override = OVERRIDES.contains(&name) && !self.passing.contains(name);
        is_override.then_some(UnusableHeader::Override)
    }
}

/// Returns true if the name has a predefined meaning, whatever the configuration.
pub fn is_known(name: &HeaderName) -> bool {
    let folded = FoldedName::fold(name.as_str().as_bytes());
    begins_as_claim(folded.bytes()) || OVERRIDES.contains(&name.as_str())
}

/// Returns true if the gateway removes the header and sets nothing in its place.
pub fn is_claim(name: &HeaderName) -> bool {
    let text = name.as_str();
    let is_written = WRITTEN.iter().any(|known| text.starts_with(known));
    !is_written
        && !FROM_PROXIES.contains(&text)
        && begins_as_claim(FoldedName::fold(text.as_bytes()).bytes())
}

fn begins_as_claim(folded: &[u8]) -> bool {
    CLAIMS.iter().any(|known| known.as_bytes() == folded)
        || CLAIM_PREFIXES
            .iter()
            .any(|prefix| folded.starts_with(prefix.as_bytes()))
}

/// Returns true if a text of the configuration may refer to a header that the gateway sets.
pub fn names_a_written_header(text: &str) -> bool {
    let folded: Vec<u8> = text
        .bytes()
        .map(|byte| match byte {
            b'_' => b'-',
            byte => byte.to_ascii_lowercase(),
        })
        .collect();
    let has = |name: &str| {
        let name = name.as_bytes();
        folded.windows(name.len()).any(|part| part == name)
    };
    written().any(has)
}

/// Names, or beginnings of names, of the headers that report a client to a backend.
pub fn written() -> impl Iterator<Item = &'static str> {
    WRITTEN.into_iter().chain(FROM_PROXIES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reserved() -> ReservedHeaders {
        let own = [
            HeaderName::from_static("x-user-id"),
            HeaderName::from_static("remote-user"),
        ];
        ReservedHeaders::new(&own, ["X-HTTP-Method-Override"], false)
    }

    /// Reference model: the rules of the tables, without tables.
    fn is_taken(name: &str) -> bool {
        let folded: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let exact = CLAIMS.iter().chain(&OVERRIDES);
        let is_exact = exact
            .chain(&["x-user-id", "remote-user"])
            .any(|known| *known == folded);
        let begins = CLAIM_PREFIXES
            .iter()
            .any(|prefix| folded.starts_with(prefix));
        (is_exact || begins) && !FROM_PROXIES.contains(&name) && name != "x-http-method-override"
    }

    /// Generates a reserved name in a spelling that some backend folds, or a similar name.
    fn name() -> impl Strategy<Value = String> {
        let known: Vec<&str> = CLAIMS
            .into_iter()
            .chain(OVERRIDES)
            .chain(CLAIM_PREFIXES)
            .chain(FROM_PROXIES)
            .chain([
                "x-user-id",
                "remote-user",
                "accept",
                "cookie",
                "x-requested-with",
            ])
            .collect();
        let separators = proptest::sample::select(vec!['-', '_', '.', '!', '~', '|']);
        let with = (
            proptest::sample::select(known),
            separators,
            "[a-z0-9_-]{0,12}",
            0..4u8,
        );
        with.prop_map(|(known, separator, more, how)| {
            let spelt = known.replace('-', &separator.to_string());
            match how {
                0 => spelt,
                1 => known.to_owned(),
                2 => format!("{spelt}{more}"),
                _ => format!("{more}{known}"),
            }
        })
        .prop_filter("a name", |name| !name.is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn tables_agree_with_the_lists(name in name()) {
            let found = reserved().find(name.as_bytes());
            prop_assert_eq!(found == Some(Reserved::Always), is_taken(&name), "{}", name);
            let from_proxies = FROM_PROXIES.contains(&name.as_str());
            prop_assert_eq!(found == Some(Reserved::Untrusted), from_proxies, "{}", name);
        }
    }

    #[test]
    fn a_requirement_that_never_holds_is_reported() {
        let reserved = reserved();
        let why = |name: &'static str| reserved.never_seen(&HeaderName::from_static(name));
        assert_eq!(why("x-user-id"), Some(UnusableHeader::Own));
        assert_eq!(why("cf-connecting-ip"), Some(UnusableHeader::Claim));
        assert_eq!(why("x-forwarded-prefix"), Some(UnusableHeader::Claim));
        assert_eq!(why("proxy"), Some(UnusableHeader::Override));
        for name in [
            "x-http-method-override",
            "x-forwarded-proto",
            "x-real-ip",
            "x-client-verify",
            "x-client-cert-subject",
            "x-version",
        ] {
            assert_eq!(why(name), None, "{name}");
        }
    }

    #[test]
    fn a_text_that_names_a_written_header_is_found() {
        for text in [
            "header:X-Real-IP",
            "{x_forwarded_proto}",
            "~x-client-verify",
        ] {
            assert!(names_a_written_header(text), "{text}");
        }
        for text in ["x-forwarded", "x-realm", "client.ip", ""] {
            assert!(!names_a_written_header(text), "{text}");
        }
    }

    #[test]
    fn connection_is_pointed_out_and_others_cost_one_look() {
        let reserved = reserved();
        assert_eq!(reserved.find(b"connection"), Some(Reserved::Connection));
        for name in [
            "host",
            "user-agent",
            "accept",
            "cookie",
            "cache-control",
            "x-a",
        ] {
            assert_eq!(reserved.find(name.as_bytes()), None, "{name}");
        }
    }
}
