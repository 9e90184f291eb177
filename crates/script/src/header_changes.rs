//! Header changes by hooks, and the headers that only the gateway may set.

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::{
    call::{HeaderChange, Response},
    error::Failure,
};

/// Returns true if a header belongs to the connection, the framing or the way, which the gateway
/// controls: changes by plugins are ignored, as browsers ignore forbidden header names.
pub fn is_ours(name: &HeaderName) -> bool {
    const OURS: [&str; 14] = [
        "cdn-loop",
        "connection",
        "content-length",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    OURS.contains(&name.as_str())
}

/// Returns true if a header has one value, of which a second line would make a list. A plugin that
/// appends to it replaces it.
pub(super) fn is_singleton(name: &HeaderName) -> bool {
    "age authorization content-location content-range content-type date etag expires from \
     if-modified-since if-range if-unmodified-since last-modified location max-forwards origin \
     proxy-authorization range referer retry-after server user-agent"
        .split(' ')
        .any(|singleton| name == singleton)
}

/// Applies the changes of a hook to response headers.
pub fn apply(changes: &[HeaderChange], headers: &mut HeaderMap) {
    for change in changes.iter().filter(|change| !is_ours(change.name())) {
        change.clone().apply(headers);
    }
}

/// Applies the changes of a hook to request headers. Conditions that only the plugin makes are left
/// out: nobody but the client that made one has what a 304 stands for.
pub fn apply_to_request(changes: &[HeaderChange], headers: &mut HeaderMap) {
    for change in changes {
        let name = change.name();
        let is_condition = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE].contains(name);
        let is_left_out = *name == header::HOST || is_condition && !headers.contains_key(name);
        if !is_ours(name) && !is_left_out {
            change.clone().apply(headers);
        }
    }
}

/// Refuses a new status that would add or remove the body of the response.
pub fn may_become(from: StatusCode, to: StatusCode) -> Result<(), Failure> {
    if framing(from) == framing(to) {
        return Ok(());
    }
    Err(Failure::script(format!(
        "status {from} cannot be changed to {to}: one of them has no body"
    )))
}

/// Returns a number for how clients find the end of a response: one kind cannot become another.
fn framing(status: StatusCode) -> u8 {
    match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => 0,
        StatusCode::RESET_CONTENT => 1,
        // The connection is no longer one of HTTP.
        StatusCode::SWITCHING_PROTOCOLS => 2,
        _ => 3,
    }
}

impl Response {
    /// Returns the response without the headers that are not sent.
    #[must_use]
    pub fn sent(mut self) -> Self {
        self.headers.remove(header::DATE);
        let ours: Vec<HeaderName> = self
            .headers
            .keys()
            .filter(|n| is_ours(n))
            .cloned()
            .collect();
        for name in ours {
            self.headers.remove(name);
        }
        self
    }
}
