//! Everything of a request that can be logged, in a form that both a request and its record have.
//! Built once, when the request is over, for the access log and the history.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use smart_default::SmartDefault;

use super::{
    CacheOutcome, Class, Exchange, Protocol, RequestFacts, Scheme, failed_request::is_failed,
};

/// Maximum length of a logged header; longer ones are truncated, since a client could fill the disk
/// with them.
const MAX_HEADER_LEN: usize = 512;

/// Maximum length of a logged path, and of a query: the longest that most servers accept in all. A
/// refused request may have a longer one.
const MAX_TARGET_LEN: usize = 8 * 1024;

/// Maximum length of a logged user, as for headers; an issuer may write a claim of any length.
const MAX_USER_LEN: usize = 256;

/// Logged facts of a request, with texts as they are: not escaped, and the query with its secrets.
#[derive(Clone, Copy, Default)]
pub struct LoggedRequest<'a> {
    pub fixed: FixedFields,
    pub texts: [Option<&'a [u8]>; Text::COUNT],
}

/// Facts of a fixed size.
#[derive(Clone, Copy, SmartDefault)]
pub struct FixedFields {
    #[default(SystemTime::UNIX_EPOCH)]
    pub ended: SystemTime,
    #[default(Ipv4Addr::UNSPECIFIED.into())]
    pub client: IpAddr,
    pub scheme: Scheme,
    pub protocol: Protocol,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub class: Class,
    pub attempts: u32,
    /// Status of the backend's response; 0 if there was none.
    pub upstream_status: u16,
    pub cache: Option<CacheOutcome>,
    pub cache_why: Option<&'static str>,
    pub total: Duration,
    pub first_byte: Option<Duration>,
    pub upstream_first_byte: Option<Duration>,
    pub reason: Option<&'static str>,
    /// True if the gateway served the request, but degraded: after a retry or without a plugin, for
    /// example.
    pub is_degraded: bool,
    /// Address of the other end of the connection, a proxy's or the client's own.
    #[default(Ipv4Addr::UNSPECIFIED.into())]
    pub peer: IpAddr,
    pub port: u16,
    pub tls: Option<TlsWords>,
    pub trace: Option<TraceIds>,
}

impl FixedFields {
    /// Returns true if the gateway or a backend failed the request.
    pub fn is_failed(&self) -> bool {
        is_failed(self.status, self.reason.filter(|_| !self.is_degraded))
    }
}

/// Ids of a request's trace and of its span.
#[derive(Clone, Copy)]
pub struct TraceIds {
    pub trace: u128,
    pub span: u64,
}

/// Parameters of TLS, by their standard names.
#[derive(Clone, Copy)]
pub struct TlsWords {
    pub version: &'static str,
    pub cipher: &'static str,
    pub alpn: Option<&'static str>,
}

/// Facts that are texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Text {
    Id,
    Listener,
    Method,
    Host,
    Path,
    Query,
    Route,
    Upstream,
    Backend,
    Limit,
    User,
    UserAgent,
    Referer,
    Range,
    Release,
    ServerName,
    /// Backend of the first attempt that failed and was followed by another one.
    FailedBackend,
    /// Route that had the page of the request's error.
    PageRoute,
}

impl Text {
    pub const COUNT: usize = Self::PageRoute as usize + 1;
}

impl<'a> LoggedRequest<'a> {
    pub fn new(ex: &'a Exchange<'_>) -> Self {
        let facts = &*ex.facts;
        let (path, query) = target(ex);
        let logged = LoggedHeaders::new(ex);
        let bytes = |text: &'a Option<std::sync::Arc<str>>| text.as_deref().map(str::as_bytes);
        let mut texts = [None; Text::COUNT];
        let mut set = |text: Text, value| texts[text as usize] = value;
        set(Text::Id, Some(facts.request_id.as_bytes()));
        set(Text::Listener, Some(facts.client.listener.as_bytes()));
        set(Text::Method, Some(ex.head.method.as_str().as_bytes()));
        set(Text::Host, Some(logged.host));
        set(Text::Path, Some(path));
        set(Text::Query, query);
        set(Text::Route, bytes(&facts.route));
        set(Text::Upstream, bytes(&facts.upstream.name));
        set(Text::Backend, bytes(&facts.upstream.backend));
        set(Text::FailedBackend, bytes(&facts.upstream.failed));
        let rerouted = facts.rerouted.as_ref();
        set(
            Text::PageRoute,
            rerouted.and_then(|own| bytes(&own.page_route)),
        );
        set(Text::Limit, bytes(&facts.limit));
        set(Text::User, user(facts));
        set(Text::UserAgent, logged.user_agent);
        set(Text::Referer, logged.referer);
        set(Text::Range, logged.range);
        set(Text::Release, bytes(&facts.release));
        let tls = facts.client.tls.as_ref();
        set(
            Text::ServerName,
            tls.and_then(|tls| bytes(&tls.server_name)),
        );
        Self {
            fixed: FixedFields {
                ended: facts.ended,
                client: facts.client.ip,
                scheme: facts.client.scheme,
                protocol: facts.client.protocol,
                status: facts.status,
                bytes_in: facts.bytes_received,
                bytes_out: facts.bytes_sent,
                class: facts.class,
                attempts: facts.upstream.attempts,
                upstream_status: facts.upstream.status,
                cache: facts.cache.map(|cached| cached.outcome),
                cache_why: facts.cache.and_then(|cached| cached.why),
                total: facts.total,
                first_byte: facts.first_byte,
                upstream_first_byte: facts.upstream.first_byte,
                reason: facts.why(),
                is_degraded: facts.reason.is_none() && facts.degraded.is_some(),
                trace: facts.trace.as_ref().map(|trace| TraceIds {
                    trace: trace.trace_id,
                    span: trace.span_id,
                }),
                peer: facts.client.peer,
                port: facts.client.port,
                tls: tls.map(|tls| TlsWords {
                    version: tls.version,
                    cipher: tls.cipher,
                    alpn: tls.alpn,
                }),
            },
            texts,
        }
    }

    pub fn text(&self, text: Text) -> Option<&'a [u8]> {
        self.texts[text as usize]
    }

    /// Returns a text that every request has.
    pub fn plain(&self, text: Text) -> &'a [u8] {
        self.text(text).unwrap_or_default()
    }
}

/// Returns path and query as the client sent them, both truncated. In a query the name stands before
/// its value, so no secret loses the name that marks it.
fn target<'a>(ex: &'a Exchange<'_>) -> (&'a [u8], Option<&'a [u8]>) {
    let (path, query) = whole_target(ex);
    let shorter = |text: &'a [u8]| &text[..text.len().min(MAX_TARGET_LEN)];
    (shorter(path), query.map(shorter))
}

fn whole_target<'a>(ex: &'a Exchange<'_>) -> (&'a [u8], Option<&'a [u8]>) {
    let head = ex.head;
    let raw = ex.sent_target();
    if raw.first() != Some(&b'/') {
        // A target in absolute form may hold a password; the other form is `*`.
        let uri = &head.uri;
        return (uri.path().as_bytes(), uri.query().map(str::as_bytes));
    }
    match raw.iter().position(|b| *b == b'?') {
        Some(at) => (&raw[..at], Some(&raw[at + 1..])),
        None => (raw, None),
    }
}

/// Request headers that the line repeats, found in one pass over all headers.
#[derive(Default)]
struct LoggedHeaders<'a> {
    host: &'a [u8],
    user_agent: Option<&'a [u8]>,
    referer: Option<&'a [u8]>,
    range: Option<&'a [u8]>,
}

impl<'a> LoggedHeaders<'a> {
    fn new(ex: &'a Exchange<'_>) -> Self {
        let mut logged = Self::default();
        // The first line of each header is used.
        for (name, value) in &ex.head.headers {
            let value = value.as_bytes();
            match name.as_str().as_bytes() {
                b"host" if logged.host.is_empty() => logged.host = value,
                b"user-agent" if logged.user_agent.is_none() => {
                    logged.user_agent = Some(&value[..value.len().min(MAX_HEADER_LEN)]);
                }
                b"referer" if logged.referer.is_none() => {
                    logged.referer = Some(without_secrets(value));
                }
                b"range" if logged.range.is_none() => {
                    logged.range = Some(&value[..value.len().min(MAX_HEADER_LEN)]);
                }
                _ => {}
            }
        }
        if let Some(authority) = ex.head.uri.authority() {
            // Drops a user and password before the host.
            let text = authority.as_str();
            logged.host = text.rsplit('@').next().unwrap_or(text).as_bytes();
        }
        logged
    }
}

/// Returns the proven name of the client.
fn user(facts: &RequestFacts) -> Option<&[u8]> {
    let user = facts.identity.as_ref()?.user.as_deref()?.as_bytes();
    Some(&user[..user.len().min(MAX_USER_LEN)])
}

/// Returns a `Referer` without its query, which may hold secrets of the page, and from its host on if
/// a user and a password stand before that.
fn without_secrets(referer: &[u8]) -> &[u8] {
    let until = |start: usize, ends: &[u8]| {
        let end = referer[start..].iter().position(|byte| ends.contains(byte));
        end.map_or(referer.len(), |end| start + end)
    };
    let end = until(0, b"?#");
    let host = referer.windows(2).position(|pair| pair == b"//");
    let host = host.map_or(0, |slashes| slashes + 2).min(end);
    let authority = &referer[host..until(host, b"/?#")];
    let user = authority.iter().rposition(|byte| *byte == b'@');
    let start = user.map_or(0, |user| host + user + 1);
    &referer[start..end.min(start + MAX_HEADER_LEN)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referer_is_logged_without_its_secrets() {
        let long = "p".repeat(2 * MAX_HEADER_LEN);
        for (sent, expected) in [
            ("https://a.test/x?token=hunter2", "https://a.test/x"),
            ("https://a.test#token=hunter2", "https://a.test"),
            ("https://a.test/@me//b@c", "https://a.test/@me//b@c"),
            ("/?to=//hunter2@a.test", "/"),
            ("https://me:hunter2@a.test/x?y", "a.test/x"),
            ("https://me:hun@ter2@a.test", "a.test"),
            ("//hunter2@a.test/x", "a.test/x"),
            ("me:hunter2@a.test/x", "a.test/x"),
            (&format!("https://me:{long}hunter2@a.test/"), "a.test/"),
            ("", ""),
        ] {
            let logged = without_secrets(sent.as_bytes());
            assert_eq!(String::from_utf8_lossy(logged), expected, "{sent}");
        }
        let long = format!("https://a.test/{long}");
        let logged = without_secrets(long.as_bytes());
        assert_eq!(logged, &long.as_bytes()[..MAX_HEADER_LEN]);
    }
}
