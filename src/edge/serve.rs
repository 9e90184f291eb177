//! A connection from its first byte to its end: PROXY protocol, TLS, then HTTP/1 request by
//! request or HTTP/2.
//!
//! Between two requests of HTTP/1 nothing of Pingora's is alive: its session is made once
//! a whole head is there, so an idle connection costs its buffers and no more, and a head
//! that drips in costs no request.

use std::{net::SocketAddr, sync::Arc};

use pingora::{
    apps::{HttpServerApp, ServerApp},
    protocols::{Stream, http::ServerSession},
};
use tokio::{io::AsyncWriteExt, sync::watch};

use super::{
    conn::{ConnIo, Next},
    head::{HeadLimits, Refused},
    http2,
    transport::{Socket, Transport},
};
use crate::{
    gateway::Listener,
    runtime::{
        admission::Admission,
        connection::{Connection, Entry, ListenerFacts},
        connections::Connections,
        refusal::{Refusal, Refuse},
    },
    tls,
};

/// What every connection of a listener shares.
pub(super) struct Shared<A> {
    pub(super) app: Arc<A>,
    pub(super) refuser: Arc<dyn Refuse>,
    pub(super) facts: Arc<ListenerFacts>,
    pub(super) admission: Arc<Admission>,
    pub(super) connections: Connections,
    pub(super) stop: watch::Receiver<bool>,
}

impl<A> Shared<A>
where
    A: HttpServerApp + ServerApp + Send + Sync + 'static,
{
    pub(super) fn listener(&self) -> &Listener {
        &self.facts.config
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, socket: Socket, peer: Option<SocketAddr>) {
        let Some((transport, entry)) = self.enter(socket, peer).await else {
            return;
        };
        let protocol = entry.tls.as_ref().map(|tls| tls.protocol);
        let connection = Arc::new(Connection::new(Arc::clone(&self.facts), entry));
        self.connections.add(&connection);
        let mut io = Box::new(ConnIo::new(transport, connection));
        match protocol {
            Some(tls::Protocol::AcmeChallenge) => {}
            Some(tls::Protocol::Http2) => {
                io.set_http2(http2::frame_limits(self.listener()));
                http2::serve(&self, io).await;
            }
            _ => self.http1(io).await,
        }
    }

    /// Finds out who is there, and settles TLS.
    async fn enter(&self, socket: Socket, peer: Option<SocketAddr>) -> Option<(Transport, Entry)> {
        let listener = self.listener();
        let refuse = |reason| self.refuser.turned_away(&listener.name, peer, reason);
        let address = peer.map_or(std::net::Ipv4Addr::LOCALHOST.into(), |peer| peer.ip());
        let guard = match self.admission.enter(address, &listener.limits) {
            Ok(guard) => guard,
            Err(full) => {
                refuse(full.reason());
                return None;
            }
        };
        let Some(server) = &listener.tls else {
            let tls = None;
            return Some((Transport::Plain(socket), Entry { peer, tls, guard }));
        };
        // Boxed: its state is large, and this future lives as long as the connection.
        let handshake = Box::pin(server.accept(socket));
        match tokio::time::timeout(server.handshake_timeout, handshake).await {
            Ok(Ok((stream, facts))) => {
                let tls = Some(facts);
                Some((Transport::Tls(Box::new(stream)), Entry { peer, tls, guard }))
            }
            Ok(Err(failed)) => {
                log::debug!(error:% = failed; "no handshake");
                refuse(failed.reason());
                None
            }
            Err(_) => {
                refuse("tls_timeout");
                None
            }
        }
    }

    async fn http1(self: &Arc<Self>, mut io: Box<ConnIo>) {
        let listener = self.listener();
        let limits = HeadLimits {
            request_line: listener.limits.request_line,
            headers: listener.limits.headers,
            header_count: listener.limits.header_count,
        };
        let takes_http2 = listener.http2.cleartext && listener.tls.is_none();
        let mut is_first = true;
        loop {
            match io.next_head(&limits, takes_http2 && is_first).await {
                Next::Request => {}
                Next::Http2 => {
                    io.set_http2(http2::frame_limits(listener));
                    return http2::serve(self, io).await;
                }
                Next::Closed => {
                    if let Some(cut) = io.connection().was_cut() {
                        self.refuser.ended(io.connection(), cut.reason());
                    }
                    return;
                }
                Next::Refused(refused) => return self.refuse(io, refused).await,
            }
            is_first = false;
            let session = ServerSession::new_http1(io as Stream);
            let Some(reused) = self.app.process_new_http(session, &self.stop).await else {
                return;
            };
            let (stream, _) = reused.consume();
            let Ok(same) = stream.into_any().downcast::<ConnIo>() else {
                log::error!("a connection came back as another one");
                return;
            };
            io = same;
            io.idle();
        }
    }

    async fn refuse(&self, mut io: Box<ConnIo>, refused: Refused) {
        let refusal = Refusal {
            status: refused.status,
            reason: refused.reason,
            detail: refused.detail,
            method: refused.method,
            target: refused.target,
        };
        let answer = self.refuser.refuse(io.connection(), &refusal).await;
        let sent = async {
            io.write_all(&answer).await?;
            io.shutdown().await
        };
        if let Err(error) = sent.await {
            log::debug!(error:%; "a client was gone before it was refused");
        }
    }
}
