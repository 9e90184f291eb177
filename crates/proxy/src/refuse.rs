//! Connections and streams that end without a request: counted and logged.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
};

use super::guard::BANNED;
use crate::{connection::Connection, live::Live};

/// Counts and logs a connection that was ended without a response.
pub(super) fn ended(live: &Live, connection: &Connection, reason: &'static str) {
    live.refuse(reason);
    // Slow or idle clients are normal; a flood is deliberate.
    let level = if reason.starts_with("h2_") {
        log::Level::Warn
    } else {
        log::Level::Debug
    };
    log::log!(
        level,
        listener = &*connection.listener.name(),
        client:% = connection.peer,
        reason;
        "connection ended"
    );
}

/// Counts and logs an HTTP/2 request that was refused before it was complete.
pub(super) fn stream_refused(live: &Live, connection: &Connection, reason: &'static str) {
    live.refuse(reason);
    log::debug!(
        listener = &*connection.listener.name(),
        client:% = connection.peer,
        reason;
        "stream refused"
    );
}

/// Returns the reason why clients at this address are refused, if they are.
pub(super) fn bars(live: &Live, client: IpAddr) -> Option<&'static str> {
    let gateway = live.gateway();
    gateway.bans.left(client)?;
    // Behind a proxy the client is not known yet. The request will show it.
    (!gateway.trusted.trusts(client)).then_some(BANNED)
}

/// Counts and logs a connection that was refused before its handshake was complete. `why` follows the
/// message, if the reason does not say it.
pub(super) fn turned_away(
    live: &Live,
    listener: &str,
    peer: Option<SocketAddr>,
    reason: &'static str,
    why: Option<&dyn Display>,
) {
    live.refuse(reason);
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let client = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
    // The ban was already logged, and a banned client is expected to come again.
    let level = if reason == BANNED {
        log::Level::Debug
    } else {
        log::Level::Warn
    };
    log::log!(level, listener, client = client.as_str(), reason; "connection rejected{why}");
}
