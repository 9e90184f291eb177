//! Responses to clients whose request was refused before it reached the proxy.

use async_trait::async_trait;
use http::StatusCode;

use super::Connection;

/// A request that the edge refuses itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// The fixed reason for log, metric and status page.
    pub reason: &'static str,
    /// Message of one sentence for the client: the problem with the request.
    pub detail: &'static str,
    /// Method and target as far as they could be read, for the log.
    pub method: Option<String>,
    pub target: Option<String>,
}

/// Makes responses to refused requests, logs and counts them.
#[async_trait]
pub trait Refuse: Send + Sync {
    /// Returns the response to `refusal` as bytes of HTTP/1.1, with `Connection: close`.
    async fn refuse(&self, connection: &Connection, refusal: &Refusal) -> Vec<u8>;

    /// Counts and logs a connection that was ended without a response.
    fn ended(&self, connection: &Connection, reason: &'static str);

    /// Counts and logs an HTTP/2 request that was refused before it was complete.
    fn stream_refused(&self, connection: &Connection, reason: &'static str);

    /// Reason why clients at this address are refused, if they are.
    fn bars(&self, client: std::net::IpAddr) -> Option<&'static str>;

    /// Counts and logs a connection that was refused before its handshake was complete.
    fn turned_away(&self, listener: &str, peer: Option<std::net::SocketAddr>, reason: &'static str);
}
