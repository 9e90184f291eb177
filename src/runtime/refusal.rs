//! What is answered to a client whose request never became one.

use async_trait::async_trait;
use http::StatusCode;

use super::connection::Connection;

/// A request that the edge refuses itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// The fixed word of log, metric and status page.
    pub reason: &'static str,
    /// One sentence for whoever reads the answer: what is wrong with the request.
    pub detail: &'static str,
    /// Method and target as far as they could be read, for the log.
    pub method: Option<String>,
    pub target: Option<String>,
}

/// Makes answers to refused requests, logs and counts them.
#[async_trait]
pub trait Refuse: Send + Sync {
    /// The answer to `refusal` as bytes of HTTP/1.1, which say that the connection ends.
    async fn refuse(&self, connection: &Connection, refusal: &Refusal) -> Vec<u8>;

    /// Counts and logs a connection that was ended without an answer.
    fn ended(&self, connection: &Connection, reason: &'static str);

    /// Counts and logs a request of HTTP/2 that was refused before it was one.
    fn stream_refused(&self, connection: &Connection, reason: &'static str);

    /// Why nobody at this address is let in, if so.
    fn bars(&self, client: std::net::IpAddr) -> Option<&'static str>;

    /// Counts and logs a connection that never was one: turned away before its handshake
    /// was over.
    fn turned_away(&self, listener: &str, peer: Option<std::net::SocketAddr>, reason: &'static str);
}
