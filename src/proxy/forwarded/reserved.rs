//! Takes out of a request what its client cannot say, before anything goes by it: the choice of
//! a route, filters, keys, logs and backends all see what is left.

use http::HeaderName;
use pingora::http::RequestHeader;

use crate::{
    base::reserved_headers::{OVERRIDES, Reserved, ReservedHeaders},
    proxy::hop::{self, BadConnection},
};

/// Takes reserved headers away, and what `Connection` says ends here: a rule that went by
/// such a header would have seen what no backend gets.
///
/// One look at each name; allocates only if there is something to take away.
pub(in crate::proxy) fn strip(
    head: &mut RequestHeader,
    reserved: &ReservedHeaders,
    is_trusted: bool,
) -> Result<(), BadConnection> {
    let mut doomed = Vec::new();
    for name in head.headers.keys() {
        match reserved.find(name.as_str().as_bytes()) {
            None => {}
            Some(Reserved::Untrusted) if is_trusted => {}
            Some(Reserved::Always | Reserved::Untrusted) => doomed.push(name.clone()),
            Some(Reserved::Connection) => hop::nominated(&head.headers, &mut doomed)?,
        }
    }
    for name in &doomed {
        head.remove_header(name);
    }
    Ok(())
}

/// Takes those overrides away that this route does not let pass, where another one does.
pub(in crate::proxy) fn keep_passing(head: &mut RequestHeader, passing: &[HeaderName]) {
    for name in OVERRIDES {
        if !passing.iter().any(|other| other == name) && head.headers.contains_key(name) {
            head.remove_header(name);
        }
    }
}
