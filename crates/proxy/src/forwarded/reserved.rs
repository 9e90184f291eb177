//! Removes request headers that clients may not send, before anything reads them: route selection,
//! filters, keys, logs and backends all see the rest.

use edgeway_base::reserved_headers::{OVERRIDES, Reserved, ReservedHeaders};
use http::HeaderName;
use pingora::http::RequestHeader;

use crate::hop_by_hop::{self, BadConnection};

/// Removes reserved headers and those that `Connection` nominates. Otherwise a rule could depend on
/// a header that no backend gets.
///
/// It checks each name once, and allocates only if there is something to remove.
pub(crate) fn strip(
    request: &mut RequestHeader,
    reserved: &ReservedHeaders,
    is_trusted: bool,
) -> Result<(), BadConnection> {
    let mut doomed = Vec::new();
    for name in request.headers.keys() {
        match reserved.find(name.as_str().as_bytes()) {
            None => {}
            Some(Reserved::Untrusted) if is_trusted => {}
            Some(Reserved::Always | Reserved::Untrusted) => doomed.push(name.clone()),
            Some(Reserved::Connection) => hop_by_hop::nominated(&request.headers, &mut doomed)?,
        }
    }
    for name in &doomed {
        request.remove_header(name);
    }
    Ok(())
}

/// Removes those override headers that another route allows but this route does not.
pub(crate) fn keep_passing(request: &mut RequestHeader, passing: &[HeaderName]) {
    for name in OVERRIDES {
        if !passing.iter().any(|other| other == name) && request.headers.contains_key(name) {
            request.remove_header(name);
        }
    }
}
