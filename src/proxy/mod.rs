//! Our hooks in Pingora's proxy. Each takes the request's snapshot of the configuration
//! and calls the chain; what a feature does lives in its filter.

mod challenge;
mod context;
mod error;
pub mod forwarded;
mod grpc;
mod guard;
mod hop;
mod http2;
pub mod page;
mod refuse;
mod reply;
mod request;
mod streams;
mod to_https;
mod tunnel;
mod upstream;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    protocols::Digest,
    server::configuration::ServerConf,
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session};

pub use self::refuse::Refuser;
use self::{context::Context, error::Failure};
use crate::{
    base::heads::OpenResponse,
    chain::{Exchange, Phase, Protocol, ReadyLines, Verdict},
    config::model::App,
    runtime::live::Live,
    tls, upstreams,
};

/// The proxy of one process: every listener's requests pass here.
pub struct Proxy {
    live: Arc<Live>,
}

/// Pingora's proxy around our hooks.
pub type Service = HttpProxy<Proxy>;

/// A service that is ready to be given connections.
pub fn service(live: &Arc<Live>) -> Service {
    // Before Pingora's connector installs its own.
    tls::install_provider();
    let conf = ServerConf {
        // Ours decide about retries; this only bounds them.
        max_retries: 16,
        // Idle connections to backends, all in all. Beyond it the oldest are closed.
        upstream_keepalive_pool_size: 4096,
        ca_file: upstreams::authorities_file(),
        ..ServerConf::default()
    };
    let hooks = Proxy {
        live: Arc::clone(live),
    };
    let mut proxy = HttpProxy::new(hooks, Arc::new(conf));
    // Refused by us all the same, and not without a word in the log.
    let options = proxy.server_options.get_or_insert_default();
    options.allow_connect_method_proxying = true;
    proxy.handle_init_modules();
    proxy
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(&self.live))
    }

    /// None: compression is a filter of ours, and a module costs a box for each request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        let Some(reply) = request::own_answer(session, ctx).await else {
            return Ok(false);
        };
        request::end_if_draining(session, ctx);
        let Context {
            gateway,
            route,
            facts,
            ..
        } = &mut **ctx;
        let chain = context::chain(gateway, *route);
        reply::send(session, chain, facts, &self.live.world.clock, *reply).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
    ) -> Result<Box<HttpPeer>> {
        upstream::peer(session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        fd: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        upstream::connected(reused, fd, digest, ctx);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        streams::check_protocol(head, ctx)?;
        request::forward(session, head, ctx).await?;
        let app = ctx.upstream.as_ref().map_or(App::None, |u| u.app);
        if request::is_too_long(head, app) {
            ctx.reply = Some(Box::new(Failure::LongHead.reply()));
            return Err(Error::new_down(ErrorType::Custom("refused")));
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if body.is_none() && !end_of_stream {
            return Ok(());
        }
        upstream::sent_body(body.as_ref(), end_of_stream, ctx);
        let (chain, mut ex) = ctx.exchange(session.req_header());
        if chain.has(Phase::RequestBody) {
            let verdict = chain.on_request_body(&mut ex, body, end_of_stream);
            if let Verdict::Reply(refusal) = verdict {
                ctx.reply = Some(refusal);
                // Not the backend's fault, and no other backend is to get it.
                return Err(Error::new_down(ErrorType::Custom("refused")));
            }
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if is_interim(head) {
            upstream::interim(head, ctx);
            return Ok(());
        }
        upstream::answered(session, head, ctx)?;
        let (chain, mut ex) = ctx.exchange(session.req_header());
        if chain.has(Phase::UpstreamResponse) {
            let mut open = OpenResponse::of(head, 0);
            chain.on_upstream_response(&mut ex, &mut open.parts).await;
            open.close(head);
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if is_interim(head) {
            return Ok(());
        }
        request::end_if_draining(session, ctx);
        let started = ctx.facts.started;
        let now = ctx.answered_at;
        let now = now.unwrap_or_else(|| self.live.world.clock.now());
        ctx.facts.first_byte = Some(now - started);
        let cookie = upstream::cookie(ctx);
        let Context {
            gateway,
            route,
            facts,
            connection,
            ..
        } = &mut **ctx;
        let chain = context::chain(gateway, *route);
        if facts.client.protocol != Protocol::Http2 {
            facts.lines = chain.ready_lines();
        }
        if cookie.is_none() && !chain.has(Phase::Response) {
            return Ok(());
        }
        let mut ex = Exchange {
            head: session.req_header(),
            facts,
        };
        let mut open = OpenResponse::of(head, 0);
        if let Some(cookie) = cookie {
            open.parts.headers.append(header::SET_COOKIE, cookie);
        }
        chain.on_response(&mut ex, &mut open.parts).await;
        open.close(head);
        if let ReadyLines::Given(lines) = std::mem::take(&mut facts.lines)
            && let Some(connection) = connection
        {
            connection.write_lines(lines);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        upstream::received_body(end_of_stream, ctx)?;
        let (chain, mut ex) = ctx.exchange(session.req_header());
        if chain.has(Phase::ResponseBody) {
            chain.on_response_body(&mut ex, body, end_of_stream);
        }
        Ok(None)
    }

    /// With trailers no piece of the body is its last: it ends here. What filters still
    /// hold of it goes out instead of the trailers, which HTTP lets anyone drop.
    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Bytes>> {
        let mut last = None;
        self.response_body_filter(session, &mut last, true, ctx)?;
        Ok(last.filter(|last| !last.is_empty()))
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        upstream::not_connected(session, ctx, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        client_reused: bool,
    ) -> Box<Error> {
        upstream::failed(session, ctx, error, client_reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> FailToProxy {
        let cut = ctx.connection.as_ref().and_then(|c| c.request_cut());
        let failure = Failure::of(error, upstream::expired(error, ctx), cut);
        let failure = upstream::look_round(failure, ctx);
        let planned = ctx.reply.take();
        let is_planned = planned.is_some();
        let mut reply = planned.unwrap_or_else(|| Box::new(failure.reply()));
        let Context {
            gateway,
            route,
            facts,
            connection,
            ..
        } = &mut **ctx;
        facts.reason = reply.reason;
        if !is_planned {
            failure.report(facts, error);
        }
        let begun = reply::begun(session);
        let is_gone = matches!(failure, Failure::ClientGone | Failure::SendTimeout);
        if begun.is_some() || (is_gone && !is_planned) {
            // What has begun cannot be taken back: the connection is cut, so that nobody
            // takes the part for the whole.
            facts.status = begun.map_or(failure.status(), |head| head.status).as_u16();
            return FailToProxy {
                error_code: 0,
                can_reuse_downstream: false,
            };
        }
        let status = reply.status.as_u16();
        let chain = context::chain(gateway, *route);
        if let Some(connection) = connection {
            // Of an answer that never came.
            drop(connection.take_lines());
        }
        // Pingora takes no further request on this connection once the way upstream failed.
        // A client that is not told would send its next one into a reset.
        reply.close = true;
        // Whether the answer arrived changes nothing: the connection ends either way.
        drop(reply::send(session, chain, facts, &self.live.world.clock, *reply).await);
        FailToProxy {
            error_code: status,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Box<Context>) {
        let now = self.live.world.clock.now();
        upstream::over(ctx);
        let Context {
            gateway,
            route,
            facts,
            connection,
            made_up_bytes,
            ..
        } = &mut **ctx;
        facts.bytes_sent = session.body_bytes_sent() as u64;
        facts.bytes_received = session.body_bytes_read() as u64 - *made_up_bytes;
        if facts.status == 0 {
            facts.status = reply::begun(session)
                .map_or(Failure::ClientGone.status(), |head| head.status)
                .as_u16();
        }
        facts.total = now - facts.started;
        let metrics = context::metrics(gateway, *route);
        let request = session.req_header();
        metrics.count(&request.method, facts.status);
        metrics.seconds.observe(facts.total.as_secs_f64());
        if let Some(first_byte) = facts.first_byte {
            metrics.first_byte.observe(first_byte.as_secs_f64());
        }
        if let Some(reason) = facts.reason {
            self.live.http.refuse(reason);
        }
        if let Some(noted) = &facts.noted {
            self.live.note(noted, facts);
        }
        guard::over(&self.live, gateway, facts, connection.as_deref());
        let chain = context::chain(gateway, *route);
        chain.on_log(&Exchange {
            head: request,
            facts,
        });
    }

    /// Ours say the same with route, backend and reason.
    fn suppress_error_log(&self, _: &Session, _: &Box<Context>, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Box<Context>,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// `100 Continue` and `103 Early Hints`, which pass as they are; `101` ends in a tunnel.
fn is_interim(head: &ResponseHeader) -> bool {
    head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
}
