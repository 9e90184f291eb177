//! Serves a connection from its first byte to its end: PROXY protocol, TLS, then HTTP/1 request by
//! request or HTTP/2.
//!
//! Between two HTTP/1 requests no session exists: it is created once a complete header section has
//! arrived. An idle connection therefore costs only its buffers, and a slowly sent header section
//! costs no request.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use edgeway_gateway::Listener;
use edgeway_tls as tls;
use pingora::http::RequestHeader;
use tokio::{io::AsyncWriteExt, sync::watch};

use super::{
    conn::{ConnIo, HeadWait, LINGER_TIMEOUT},
    head, http2,
    proxy_protocol::{self, ProxySource},
    transport::{Socket, Transport},
};
use crate::{
    connection::{
        Connection, ConnectionFacts,
        admission::{Admission, AdmissionGuard, AdmissionRefusal},
        listener::ListenerFacts,
        refusal::Refusal,
        registry::Connections,
    },
    driver::Driver,
    live::Live,
    message::parse_request,
    refuse,
    session::{Arrival, Client},
};

/// Encrypted bytes of a response that may wait for a slow client, besides those in the kernel: two
/// records. A larger limit saves system calls for clients that read as fast as they are sent to.
const TLS_BUFFER: usize = 32 * 1024;
/// Placeholder for a method or target that could not be read.
const UNREAD: &str = "-";

/// State shared by all connections of a listener.
pub(super) struct Shared {
    pub(super) driver: Arc<Driver>,
    pub(super) facts: Arc<ListenerFacts>,
    pub(super) admission: Arc<Admission>,
    pub(super) connections: Connections,
    pub(super) stop: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn live(&self) -> &Live {
        self.driver.live()
    }

    /// Returns the current name of the listener.
    pub(super) fn name(&self) -> Arc<str> {
        self.facts.name()
    }

    /// Returns the listener configuration for the next connection.
    fn listener(&self) -> Arc<Listener> {
        Arc::clone(&self.facts.config())
    }

    /// Admits a connection as far as that can be decided at once, or refuses it.
    pub(super) fn admit(&self, peer: Option<SocketAddr>) -> Option<AdmissionGuard> {
        let listener = self.listener();
        let admitted = match (&listener.proxy_protocol, peer) {
            (Some(proxy), Some(peer)) if !proxy.from.contains(peer.ip()) => {
                Err("proxy_protocol_peer")
            }
            _ => self.admission.enter().map_err(AdmissionRefusal::reason),
        };
        let counted = admitted.and_then(|mut guard| {
            // With the PROXY protocol the client's address is not known yet.
            if listener.proxy_protocol.is_none()
                && let Some(peer) = peer
            {
                self.count(&mut guard, peer.ip())?;
            }
            Ok(guard)
        });
        match counted {
            Ok(guard) => Some(guard),
            Err(reason) => {
                self.turn_away(peer, reason, None);
                None
            }
        }
    }

    /// Counts a connection for its client, once the client is known. Returns a reason if the client
    /// is banned or may have no more connections.
    fn count(&self, guard: &mut AdmissionGuard, client: IpAddr) -> Result<(), &'static str> {
        match refuse::bars(self.live(), client) {
            Some(reason) => Err(reason),
            None => guard.count(client).map_err(AdmissionRefusal::reason),
        }
    }

    fn turn_away(&self, peer: Option<SocketAddr>, reason: &'static str, why: Option<&dyn Display>) {
        refuse::turned_away(self.live(), &self.listener().name, peer, reason, why);
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(
        self: Arc<Self>,
        socket: Socket,
        peer: Option<SocketAddr>,
        guard: AdmissionGuard,
    ) {
        // This future lives as long as the connection, so what an idle one does not need is boxed.
        let Some((mut io, protocol)) = Box::pin(self.open(socket, peer, guard)).await else {
            return;
        };
        let connection = Arc::clone(io.connection());
        match protocol {
            Some(tls::Protocol::AcmeChallenge) => {}
            Some(tls::Protocol::Http2) => {
                io.set_http2(http2::frame_limits(&connection.listener.config()));
                Box::pin(http2::serve(&self, io)).await;
            }
            _ => self.http1(io).await,
        }
        self.report_close(&connection);
    }

    /// Opens a connection, and returns the protocol that the TLS handshake agreed on.
    async fn open(
        &self,
        socket: Socket,
        peer: Option<SocketAddr>,
        guard: AdmissionGuard,
    ) -> Option<(Box<ConnIo>, Option<tls::Protocol>)> {
        let (transport, entry) = self.enter(socket, peer, guard).await?;
        let protocol = entry.tls.as_ref().map(|tls| tls.protocol);
        let connection = Arc::new(Connection::new(Arc::clone(&self.facts), entry));
        self.connections.add(&connection);
        Some((Box::new(ConnIo::new(transport, connection)), protocol))
    }

    /// Logs and counts the close reason if the gateway closed this connection, unless a request's
    /// log line has already reported it.
    fn report_close(&self, connection: &Connection) {
        if let Some(reason) = connection.close_reason()
            && connection.report_close()
        {
            refuse::ended(self.live(), connection, reason.reason());
        }
    }

    /// Identifies the client, and performs the TLS handshake.
    async fn enter(
        &self,
        mut socket: Socket,
        peer: Option<SocketAddr>,
        mut guard: AdmissionGuard,
    ) -> Option<(Transport, ConnectionFacts)> {
        let listener = self.listener();
        let mut peer = peer;
        if let Some(proxy) = &listener.proxy_protocol {
            // Boxed for the same reason as the handshake.
            let header = Box::pin(proxy_protocol::read(&mut socket));
            match tokio::time::timeout(proxy.timeout, header).await {
                Ok(Ok(ProxySource::Client(client))) => peer = Some(client),
                Ok(Ok(ProxySource::Peer)) => {}
                Ok(Ok(ProxySource::Nobody)) => return None,
                Ok(Err(error)) => {
                    log::debug!(error:%; "connection did not begin with the PROXY protocol");
                    self.turn_away(peer, "proxy_protocol", None);
                    return None;
                }
                Err(_) => {
                    self.turn_away(peer, "proxy_protocol_timeout", None);
                    return None;
                }
            }
            if let Some(client) = peer
                && let Err(reason) = self.count(&mut guard, client.ip())
            {
                self.turn_away(peer, reason, None);
                return None;
            }
        }
        let progress = Arc::clone(&socket.progress);
        let entry = |tls| ConnectionFacts {
            peer,
            tls,
            progress,
            guard,
        };
        let Some(server) = &listener.tls else {
            return Some((Transport::Plain(socket), entry(None)));
        };
        // Boxed: its state is large, and this future lives as long as the connection.
        let handshake = Box::pin(server.accept(socket));
        match tokio::time::timeout(server.handshake_timeout, handshake).await {
            Ok(Ok(accepted)) => {
                let (mut stream, facts) = accepted?;
                stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
                let entry = entry(Some(facts));
                Some((Transport::Tls(Box::new(stream)), entry))
            }
            Ok(Err(failed)) => {
                server.handshake_failed(Some(&failed));
                self.turn_away(peer, failed.reason(), Some(&failed));
                None
            }
            Err(_) => {
                server.handshake_failed(None);
                self.turn_away(peer, "tls_timeout", None);
                None
            }
        }
    }

    async fn http1(self: &Arc<Self>, mut io: Box<ConnIo>) {
        let takes_http2 = {
            let listener = io.connection().listener.config();
            listener.http2.cleartext && listener.tls.is_none()
        };
        let mut requests = 0_u32;
        loop {
            match io.next_head(takes_http2 && requests == 0).await {
                HeadWait::Request => {}
                HeadWait::Http2 => {
                    let frames = http2::frame_limits(&io.connection().listener.config());
                    io.set_http2(frames);
                    return Box::pin(http2::serve(self, io)).await;
                }
                HeadWait::Closed => {
                    io.say_end();
                    return self.report_close(io.connection());
                }
                HeadWait::Refused(refusal) => {
                    return Box::pin(self.refuse(io, refusal)).await;
                }
            }
            requests = requests.saturating_add(1);
            let Some(request) = parse_request(&io.take_head()) else {
                return Box::pin(self.refuse(io, head::unreadable())).await;
            };
            let arrival = Arrival {
                request,
                has_body: io.has_body(),
                // After the last one, the response announces the end of the connection.
                is_last: io.is_full(requests) || *self.stop.borrow(),
                io,
            };
            match self.request(Box::new(Client::http1(arrival))).await {
                Some(same) => io = same,
                None => return,
            }
            io.idle();
        }
    }

    /// Serves a request. Returns the connection if it may carry another one.
    async fn request(&self, client: Box<Client>) -> Option<Box<ConnIo>> {
        let client = self.driver.serve(client).await?;
        let (io, is_kept) = client.into_io()?;
        let mut io = io.into_any().downcast::<ConnIo>().ok()?;
        if is_kept {
            return Some(io);
        }
        // Without TLS and unread bytes, closing says the same as shutting down before it, in one call.
        if io.connection().tls.is_some() || io.has_body() || io.is_sending() {
            Box::pin(io.close()).await;
        } else if let Err(error) = io.flush().await {
            log::debug!(error:%; "client left before its response was complete");
        }
        None
    }

    /// Serves a request that the edge refuses, and ends its connection.
    async fn refuse(&self, io: Box<ConnIo>, refusal: Refusal) {
        let arrival = Arrival {
            request: refused(&refusal),
            has_body: false,
            is_last: true,
            io,
        };
        let mut client = Client::http1(arrival);
        client.refusal = Some(Box::new(refusal));
        let client = self.driver.serve(Box::new(client)).await;
        let Some((io, _)) = client.and_then(|client| client.into_io()) else {
            return;
        };
        let Ok(mut io) = io.into_any().downcast::<ConnIo>() else {
            return;
        };
        let sent = async {
            io.shutdown().await?;
            io.linger().await
        };
        match tokio::time::timeout(LINGER_TIMEOUT, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::debug!(error:%; "client left before it was refused"),
            Err(_) => log::debug!("client kept sending after it was refused"),
        }
    }
}

/// Returns what could be read of a refused request, for the log.
fn refused(refusal: &Refusal) -> RequestHeader {
    let method = refusal.method.as_deref().unwrap_or(UNREAD);
    let target = refusal.target.as_deref().unwrap_or(UNREAD);
    let mut request = RequestHeader::build(method, target.as_bytes(), Some(0))
        .or_else(|_| RequestHeader::build(UNREAD, b"/", Some(0)))
        .expect("a hyphen is a method");
    request.set_version(http::Version::HTTP_11);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size of the future that a connection's function returns.
    fn size<A, B, C, D, F: Future>(_serve: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Without TLS, this is most of what an idle connection costs.
    #[test]
    fn the_future_of_a_connection_is_small() {
        let bytes = size(Shared::serve);
        assert!(bytes <= 640, "{bytes} bytes");
        assert!(size_of::<ConnIo>() <= 400, "{}", size_of::<ConnIo>());
        let connection = size_of::<Connection>();
        assert!(connection <= 800, "{connection}");
    }
}
