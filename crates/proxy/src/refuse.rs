//! Replies to input that the edge refuses before it is a request: the same page, headers, log line
//! and metric as for any other refusal.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use edgeway_base::clock::Clock;
use edgeway_core::chain::{Exchange, LoggedRequest, Reply, RequestFacts};
use edgeway_gateway::Gateway;
use http::Version;
use log::warn;
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{guard::BANNED, reply, request, trace};
use crate::{
    connection::{
        Connection,
        refusal::{Refusal, Refuse},
        response_header::{ConnectionReuse, PresentHeaders, ResponseHeaderWriter},
    },
    live::Live,
};

/// Builds and logs refusals for the edge.
pub struct Refuser {
    live: Arc<Live>,
}

impl Refuser {
    pub fn new(live: &Arc<Live>) -> Self {
        Self {
            live: Arc::clone(live),
        }
    }
}

/// Placeholder for a method or target that could not be read.
const UNREAD_METHOD: &str = "-";
const UNREAD_TARGET: &[u8] = b"-";

fn request(refusal: &Refusal) -> RequestHeader {
    let method = refusal.method.as_deref().unwrap_or(UNREAD_METHOD);
    let target = refusal
        .target
        .as_deref()
        .map_or(UNREAD_TARGET, str::as_bytes);
    let mut request = RequestHeader::build(method, target, Some(0))
        .or_else(|_| RequestHeader::build(UNREAD_METHOD, b"/", Some(0)))
        .expect("a hyphen is a method");
    request.set_version(Version::HTTP_11);
    request
}

/// Returns headers and body as the last bytes of the connection.
fn bytes(mut head: ResponseHeader, body: Option<&Bytes>, clock: &Clock) -> Vec<u8> {
    let mut out = Vec::new();
    let present = PresentHeaders::of(&head.headers);
    let writer = ResponseHeaderWriter {
        out: &mut out,
        ready_lines: None,
    };
    let date = || reply::date(clock);
    writer.write(&mut head, present, false, ConnectionReuse::Close, date);
    if let Some(body) = body {
        out.extend_from_slice(body);
    }
    out
}

impl Refuser {
    fn facts(
        &self,
        connection: &Connection,
        head: &RequestHeader,
        gateway: &Gateway,
    ) -> RequestFacts {
        let mut facts = RequestFacts::new(self.live.world.clock.now());
        facts.client = request::client(head, connection, gateway);
        trace::begin(gateway, head, &mut facts);
        facts.request_id = facts.new_request_id();
        facts
    }

    /// Logs and counts a request that ended here.
    fn log(&self, gateway: &Gateway, request: &RequestHeader, facts: &mut RequestFacts) {
        facts.total = self.live.world.clock.now() - facts.started;
        let metrics = &gateway.fallback.metrics;
        metrics.count(&request.method, facts.status);
        metrics.count_bytes(facts.bytes_received, facts.bytes_sent);
        metrics.seconds().observe_plain(facts.total.as_secs_f64());
        facts.ended = self.live.world.clock.wall();
        if trace::wanted(gateway, facts).is_some() {
            trace::end(gateway, None, request, facts);
        }
        let ex = Exchange {
            head: request,
            facts,
        };
        let logged = LoggedRequest::of(&ex);
        self.live.history.push(&logged, &gateway.fallback.redactor);
        gateway.fallback.chain.on_log(&ex, &logged);
    }

    async fn response(&self, connection: &Connection, refusal: &Refusal) -> Result<Vec<u8>> {
        let gateway = self.live.gateway();
        let request = request(refusal);
        let mut facts = self.facts(connection, &request, &gateway);
        let reply = Reply::refuse(refusal.status, refusal.reason)
            .detail(refusal.detail)
            .closing();
        let clock = &self.live.world.clock;
        let made = reply::make(&request, &gateway.fallback.chain, &mut facts, clock, reply).await?;
        facts.bytes_sent = made.1.as_ref().map_or(0, |body| body.len() as u64);
        self.log(&gateway, &request, &mut facts);
        Ok(bytes(made.0, made.1.as_ref(), clock))
    }
}

#[async_trait]
impl Refuse for Refuser {
    async fn refuse(&self, connection: &Connection, refusal: &Refusal) -> Vec<u8> {
        self.live.refuse(refusal.reason);
        match self.response(connection, refusal).await {
            Ok(response) => response,
            Err(error) => {
                warn!(error:%; "no response written to a refused request");
                Vec::new()
            }
        }
    }

    fn ended(&self, connection: &Connection, reason: &'static str) {
        self.live.refuse(reason);
        // Slow or idle clients are normal; a flood is deliberate.
        let level = if reason.starts_with("h2_") {
            log::Level::Warn
        } else {
            log::Level::Debug
        };
        log::log!(
            level,
            listener = &*connection.listener.name,
            client:% = connection.peer,
            reason;
            "connection ended"
        );
    }

    fn stream_refused(&self, connection: &Connection, reason: &'static str) {
        self.live.refuse(reason);
        log::debug!(
            listener = &*connection.listener.name,
            client:% = connection.peer,
            reason;
            "stream refused"
        );
    }

    fn bars(&self, client: IpAddr) -> Option<&'static str> {
        let gateway = self.live.gateway();
        gateway.bans.left(client)?;
        // Behind a proxy the client is not known yet. The request will show it.
        (!gateway.trusted.trusts(client)).then_some(BANNED)
    }

    fn turned_away(&self, listener: &str, peer: Option<SocketAddr>, reason: &'static str) {
        self.live.refuse(reason);
        let client = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
        // The ban was already logged, and a banned client is expected to come again.
        let level = if reason == BANNED {
            log::Level::Debug
        } else {
            log::Level::Warn
        };
        log::log!(level, listener, client = client.as_str(), reason; "connection rejected");
    }
}
