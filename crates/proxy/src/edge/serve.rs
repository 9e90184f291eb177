//! Serves a connection from its first byte to its end: PROXY protocol, TLS, then HTTP/1 request by
//! request or HTTP/2.
//!
//! Between two HTTP/1 requests no Pingora object exists: its session is created once a complete
//! head has arrived. An idle connection therefore costs only its buffers, and a slowly sent head
//! costs no request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use edgeway_gateway::Listener;
use edgeway_tls as tls;
use pingora::{
    apps::HttpServerApp,
    protocols::{
        Stream,
        http::{ServerSession, v2::server::HttpSession},
    },
};
use tokio::{io::AsyncWriteExt, sync::watch};

use super::{
    conn::{ConnIo, HeadWait, LINGER_TIMEOUT},
    head::HeadLimits,
    http2,
    proxy_protocol::{self, Source},
    transport::{Socket, Transport},
};
use crate::connection::{
    Connection, ConnectionFacts,
    admission::{Admission, AdmissionGuard, AdmissionRefusal},
    fast_path::{CarriedRequest, FastPathOutcome, FastPathService, RequestArrival},
    listener::ListenerFacts,
    refusal::{Refusal, Refuse},
    registry::Connections,
};

/// Encrypted bytes of a response that may wait for a slow client, besides those in the kernel: two
/// records. A larger limit saves system calls for clients that read as fast as they are sent to.
const TLS_BUFFER: usize = 32 * 1024;

/// State shared by all connections of a listener.
pub(super) struct Shared<A> {
    pub(super) app: Arc<A>,
    pub(super) fast_path: Arc<dyn FastPathService<Stream, HttpSession>>,
    pub(super) refuser: Arc<dyn Refuse>,
    /// Facts for the next connection: replaced when the listener is renamed.
    pub(super) facts: ArcSwap<ListenerFacts>,
    pub(super) admission: Arc<Admission>,
    pub(super) connections: Connections,
    pub(super) stop: watch::Receiver<bool>,
}

impl<A> Shared<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// Returns the current name of the listener.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.facts.load().name)
    }

    /// Returns the listener configuration for the next connection.
    fn listener(&self) -> Arc<Listener> {
        Arc::clone(&self.facts.load().config())
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
                self.turn_away(peer, reason);
                None
            }
        }
    }

    /// Counts a connection for its client, once the client is known. Returns a reason if the client
    /// is banned or may have no more connections.
    fn count(&self, guard: &mut AdmissionGuard, client: IpAddr) -> Result<(), &'static str> {
        match self.refuser.bars(client) {
            Some(reason) => Err(reason),
            None => guard.count(client).map_err(AdmissionRefusal::reason),
        }
    }

    fn turn_away(&self, peer: Option<SocketAddr>, reason: &'static str) {
        self.refuser
            .turned_away(&self.listener().name, peer, reason);
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
        let connection = Arc::new(Connection::new(self.facts.load_full(), entry));
        self.connections.add(&connection);
        Some((Box::new(ConnIo::new(transport, connection)), protocol))
    }

    /// Logs and counts the close reason if the gateway closed this connection, unless a request's
    /// log line has already reported it.
    fn report_close(&self, connection: &Connection) {
        if let Some(reason) = connection.close_reason()
            && connection.report_close()
        {
            self.refuser.ended(connection, reason.reason());
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
                Ok(Ok(Source::Client(client))) => peer = Some(client),
                Ok(Ok(Source::Peer)) => {}
                Ok(Err(error)) => {
                    log::debug!(error:%; "connection did not begin with the PROXY protocol");
                    self.turn_away(peer, "proxy_protocol");
                    return None;
                }
                Err(_) => {
                    self.turn_away(peer, "proxy_protocol_timeout");
                    return None;
                }
            }
            if let Some(client) = peer
                && let Err(reason) = self.count(&mut guard, client.ip())
            {
                self.turn_away(peer, reason);
                return None;
            }
        }
        let refuse = |reason| self.turn_away(peer, reason);
        let progress = Arc::clone(socket.progress());
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
            Ok(Ok((mut stream, facts))) => {
                stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
                let entry = entry(Some(facts));
                Some((Transport::Tls(Box::new(stream)), entry))
            }
            Ok(Err(failed)) => {
                log::debug!(error:% = failed; "no handshake");
                server.handshake_failed(Some(&failed));
                refuse(failed.reason());
                None
            }
            Err(_) => {
                server.handshake_failed(None);
                refuse("tls_timeout");
                None
            }
        }
    }

    async fn http1(self: &Arc<Self>, mut io: Box<ConnIo>) {
        let (limits, takes_http2, mut left) = {
            let listener = io.connection().listener.config();
            let limits = HeadLimits::new(
                listener.limits.request_line,
                listener.limits.headers,
                listener.limits.header_count,
                listener.underscores,
            );
            let takes_http2 = listener.http2.cleartext && listener.tls.is_none();
            (limits, takes_http2, listener.limits.requests_per_connection)
        };
        let mut is_first = true;
        loop {
            match io.next_head(&limits, takes_http2 && is_first).await {
                HeadWait::Request => {}
                HeadWait::Http2 => {
                    let frames = http2::frame_limits(&io.connection().listener.config());
                    io.set_http2(frames);
                    return Box::pin(http2::serve(self, io)).await;
                }
                HeadWait::Closed => return self.report_close(io.connection()),
                HeadWait::Refused(refusal) => {
                    return Box::pin(self.refuse(io, refusal)).await;
                }
            }
            is_first = false;
            // With none left, the response announces the end of the connection.
            left = left.saturating_sub(1);
            let reused = if self.fast_path.suits(io.outline()) {
                self.attempt(io, left).await
            } else {
                Box::pin(self.process(ServerSession::new_http1(io as Stream), left)).await
            };
            let Some(same) = reused.and_then(own) else {
                return;
            };
            io = same;
            io.idle();
        }
    }

    /// Tries the fast path for a request that is likely to need no backend.
    async fn attempt(&self, io: Box<ConnIo>, left: u32) -> Option<Stream> {
        let (head, has_body) = (io.head(), io.outline().has_body);
        let connection = Arc::clone(io.connection());
        let request = RequestArrival {
            left,
            is_stopping: *self.stop.borrow(),
            has_body,
        };
        match self
            .fast_path
            .attempt(io as Stream, connection, &head, request)
            .await
        {
            FastPathOutcome::Over(stream) => {
                let mut io = own(stream?)?;
                io.skip_head();
                Some(io as Stream)
            }
            FastPathOutcome::GoesOn(stream, begun) => {
                Box::pin(self.process(session(stream, begun), left)).await
            }
        }
    }

    async fn process(&self, mut session: ServerSession, left: u32) -> Option<Stream> {
        session.set_keepalive_reuses_remaining(Some(left));
        let reused = self.app.process_new_http(session, &self.stop).await?;
        Some(reused.consume().0)
    }

    async fn refuse(&self, mut io: Box<ConnIo>, refusal: Refusal) {
        let response = self.refuser.refuse(io.connection(), &refusal).await;
        let sent = async {
            io.write_all(&response).await?;
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

/// Returns a session that continues a request which the fast path began.
fn session(stream: Stream, begun: Option<CarriedRequest>) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    session.set_connection_user_context(begun);
    session
}

/// Converts a stream that Pingora returns back into the connection.
fn own(stream: Stream) -> Option<Box<ConnIo>> {
    let own = stream.into_any().downcast::<ConnIo>();
    if own.is_err() {
        log::error!("unexpected connection returned by Pingora");
    }
    own.ok()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use pingora::apps::ReusedHttpStream;

    use super::*;

    /// App of a service that has no requests.
    struct NoApp;

    #[async_trait]
    impl HttpServerApp for NoApp {
        async fn process_new_http(
            self: &Arc<Self>,
            _session: ServerSession,
            _shutdown: &watch::Receiver<bool>,
        ) -> Option<ReusedHttpStream> {
            None
        }
    }

    /// Size of the future that a connection's function returns.
    fn size<A, B, C, D, F: Future>(_serve: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Without TLS, this is most of what an idle connection costs.
    #[test]
    fn the_future_of_a_connection_is_small() {
        let bytes = size(Shared::<NoApp>::serve);
        assert!(bytes <= 640, "{bytes} bytes");
        assert!(size_of::<ConnIo>() <= 400, "{}", size_of::<ConnIo>());
        let connection = size_of::<Connection>();
        assert!(connection <= 800, "{connection}");
    }
}
