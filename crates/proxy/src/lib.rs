//! Hooks of the gateway in Pingora's proxy. Each uses the configuration snapshot of its request and
//! calls the filter chain. The behaviour of a feature lives in its filter.

#![expect(clippy::unnecessary_box_returns, reason = "Pingora's errors are boxed")]

mod accel;
mod body;
mod cache;
mod challenge;
pub mod connection;
mod context;
mod decision;
mod direct;
pub mod edge;
mod error;
mod error_page;
mod fast_path;
mod fetch;
mod file_tries;
mod files;
mod final_headers;
mod forward;
pub mod forwarded;
mod grpc;
mod guard;
mod hop_by_hop;
mod host_header;
mod http2;
mod images;
pub mod live;
pub mod page;
mod refuse;
mod relay;
mod releases;
mod reply;
mod request;
mod request_end;
mod reroute;
mod respond;
mod retry;
mod streams;
mod to_https;
mod trace;
mod upstream;
mod upstream_request;
mod websocket;

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use edgeway_core::chain::{Phase, Verdict};
use edgeway_core::open_headers::OpenResponseHeaders;
use http::HeaderMap;
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    protocols::Digest,
    server::configuration::ServerConf,
    upstreams::peer::HttpPeer,
};
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, RangeType, Session};

use self::{context::Context, error::Failure, live::Live, retry::Replay};
pub use self::{fast_path::FastPath, refuse::Refuser};

/// Proxy of one process. The requests of every listener pass through it.
pub struct Proxy {
    live: Arc<Live>,
}

/// Pingora's proxy with the hooks of the gateway.
pub type Service = HttpProxy<Proxy>;

/// Returns a proxy service that is ready to accept connections.
pub fn service(live: &Arc<Live>) -> Service {
    // Must run before Pingora's connector installs its own provider.
    edgeway_tls::install_provider();
    let conf = ServerConf {
        // The hooks decide about retries. This value only bounds them.
        max_retries: 16,
        // Bound on all idle connections to backends. Above it the oldest ones are closed.
        upstream_keepalive_pool_size: 4096,
        ca_file: edgeway_upstreams::ca_file(),
        ..ServerConf::default()
    };
    let live = Arc::clone(live);
    let mut proxy = HttpProxy::new(Proxy { live }, Arc::new(conf));
    // The gateway still refuses CONNECT itself, and logs the refusal.
    let options = proxy.server_options.get_or_insert_default();
    options.allow_connect_method_proxying = true;
    proxy.handle_init_modules();
    proxy
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        fast_path::take_up_stream().unwrap_or_else(|| Box::new(Context::new(&self.live)))
    }

    /// Installs no modules, which cost a box per request: compression is a filter of the gateway.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        carried: Box<dyn Any + Send + Sync>,
    ) {
        fast_path::take_up(session, ctx, carried);
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        if cache::take(session, ctx) {
            return Ok(false);
        }
        decision::run(&self.live, session, ctx).await
    }

    /// Allows background subrequests, which revalidate stale responses, if a cache is configured.
    fn allow_spawning_subrequest(&self, _session: &Session, ctx: &Box<Context>) -> bool {
        ctx.gateway.cache.is_some()
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<()> {
        cache::enable(session, ctx);
        Ok(())
    }

    fn cache_key_callback(&self, _session: &Session, ctx: &mut Box<Context>) -> Result<CacheKey> {
        cache::key(ctx)
    }

    async fn cache_hit_filter(
        &self,
        _session: &mut Session,
        meta: &CacheMeta,
        _hit: &mut HitHandler,
        _is_fresh: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(Some(cache::hit(meta, ctx)))
    }

    fn cache_not_modified_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        _ctx: &mut Box<Context>,
    ) -> Result<bool> {
        Ok(cache::not_modified(session.req_header(), response))
    }

    fn range_header_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> RangeType {
        cache::range(session.req_header(), response, ctx)
    }

    fn should_serve_stale(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        error: Option<&Error>,
    ) -> bool {
        cache::serves_stale(session, error, ctx)
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<RespCacheable> {
        Ok(cache::storable(session, response, ctx))
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if let (Some(body), Some(upstream)) = (body, &ctx.upstream) {
            upstream.count_received(body.len());
        }
        cache::received_body(session, end_of_stream, ctx)?;
        Ok(None)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
    ) -> Result<Box<HttpPeer>> {
        let peer = upstream::peer(session, ctx).await?;
        if streams::is_h2(ctx) {
            final_headers::install(session);
        }
        Ok(peer)
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
        upstream::connected(reused, fd, upstream::local_address(digest), ctx);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        streams::check_protocol(head, ctx)?;
        cache::forward(head, ctx);
        forward::forward(session.req_header(), head, ctx).await?;
        if !session.is_body_empty() {
            upstream_request::state_length(head, ctx)?;
        }
        forward::check_forwarded(head, ctx)
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
        body::go_on(body, ctx);
        upstream::sent_body(body.as_ref(), end_of_stream, ctx);
        let (chain, mut ex) = ctx.exchange(session.req_header());
        if chain.has(Phase::RequestBody) {
            let verdict = chain.on_request_body(&mut ex, body, end_of_stream);
            if let Verdict::Reply(refusal) = verdict {
                ctx.refuse(refusal);
                // The backend is not at fault, and no other backend may get the request.
                return Err(Error::new_down(ErrorType::Custom("refused")));
            }
        }
        upstream_request::replace(body, end_of_stream, ctx);
        body::end_once(body, end_of_stream);
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if streams::is_interim(response) {
            accel::strip(response, ctx);
            respond::interim(session, response, ctx).await;
            return Ok(());
        }
        upstream::on_origin_response(Replay::of(session), response, ctx)?;
        let request = session.req_header();
        let read = accel::read(response, ctx);
        if let Err(ordered) = read.and_then(|()| error_page::intercept(request, response, ctx)) {
            cache::replaced(ctx);
            // A write remains one, whatever is sent in response to it.
            cache::written(request, response, ctx).await;
            return Err(ordered);
        }
        let (chain, mut ex) = ctx.exchange(session.req_header());
        if chain.has(Phase::UpstreamResponse) {
            let mut open = OpenResponseHeaders::of(response, 0);
            chain.on_upstream_response(&mut ex, &mut open.parts).await;
            open.close(response);
        }
        cache::on_origin_response(session.cache.enabled(), response, ctx);
        cache::written(session.req_header(), response, ctx).await;
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if streams::is_interim(response) || ctx.is_background() {
            return Ok(());
        }
        cache::complete(response, ctx)?;
        respond::begin(session, response, ctx).await;
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if ctx.is_background() {
            return Ok(None);
        }
        if !session.cache.enabled() {
            upstream::received_body(end_of_stream, ctx)?;
        }
        respond::body(session, ctx, body, end_of_stream);
        Ok(None)
    }

    /// Ends the body here, because with trailers no chunk of it is marked as the last one. Bytes
    /// that filters still buffer are sent instead of the trailers, which HTTP allows to drop.
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
        upstream::not_connected(Replay::of(session), ctx, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        client_reused: bool,
    ) -> Box<Error> {
        upstream::failed(Replay::of(session), ctx, error, client_reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> FailToProxy {
        request_end::failed(&self.live, session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Context>) {
        upstream::over(ctx);
        if ctx.is_background() {
            trace::end_background(session.req_header(), ctx);
        } else {
            request_end::note_break(session, error, ctx);
            request_end::log(&self.live, &request_end::TransferResults::of(session), ctx);
        }
        cache::follow_up(session.subrequest_spawner.take(), session.req_header(), ctx);
    }

    /// Suppresses Pingora's error log: the gateway logs the error with route, backend and reason.
    fn suppress_error_log(&self, _: &Session, _: &Box<Context>, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        ctx: &Box<Context>,
        error: &Error,
        context: ProxyWarnLogContext,
    ) -> bool {
        if context == ProxyWarnLogContext::DownstreamCache {
            // Only the first reason counts.
            ctx.client_left.get_or_init(|| Failure::of_leaving(error));
        }
        true
    }
}
