//! Order of a request: the hooks of Pingora's proxy, which every request passes. Each names the room
//! that does the work.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_core::{chain::Phase, open_headers::OpenResponseHeaders};
use futures_util::future::BoxFuture;
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::{
    accel, body, cache,
    context::{Context, Shared},
    decision, exchange, forward,
    reply::error_page,
    request, request_end, respond,
    retry::Replay,
    session::{Client, client},
    trace, upstream,
};

/// Proxy of one process. The requests of every listener pass through it.
pub(super) struct Proxy {
    pub(super) shared: Arc<Shared>,
}

/// Implements a hook of Pingora by the function of `Proxy` with its name, in a box.
///
/// `#[async_trait]` would do the same, but the compiler caches nothing below its bounds of lifetimes:
/// for each hook it would prove again that all that a request reaches is `Send`, in 18 of 29 s of
/// this crate.
macro_rules! boxed {
    ($hook:ident() -> $output:ty) => {
        fn $hook<'p, 's, 'c, 'f>(
            &'p self,
            session: &'s mut Session,
            ctx: &'c mut Box<Context>,
        ) -> BoxFuture<'f, $output>
        where
            'p: 'f,
            's: 'f,
            'c: 'f,
            Self: 'f,
        {
            fn boxed<'a>(
                hooks: &'a Proxy,
                session: &'a mut Session,
                ctx: &'a mut Box<Context>,
            ) -> BoxFuture<'a, $output> {
                Box::pin(hooks.$hook(session, ctx))
            }
            boxed(self, session, ctx)
        }
    };
    ($hook:ident<$a:lifetime>($($name:ident: $kind:ty),+) -> $output:ty) => {
        fn $hook<'p, 's, $a, 'c, 'f>(
            &'p self,
            session: &'s mut Session,
            $($name: $kind,)+
            ctx: &'c mut Box<Context>,
        ) -> BoxFuture<'f, $output>
        where
            'p: 'f,
            's: 'f,
            $a: 'f,
            'c: 'f,
            Self: 'f,
        {
            fn boxed<$a>(
                hooks: &$a Proxy,
                session: &$a mut Session,
                $($name: $kind,)+
                ctx: &$a mut Box<Context>,
            ) -> BoxFuture<$a, $output> {
                Box::pin(hooks.$hook(session, $($name,)+ ctx))
            }
            boxed(self, session, $($name,)+ ctx)
        }
    };
}

impl ProxyHttp for Proxy {
    type CTX = Box<Context>;

    /// Takes the configuration snapshot of the request.
    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(&self.shared))
    }

    /// Installs no modules: compression is a filter of the gateway.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    boxed!(early_request_filter() -> Result<()>);
    boxed!(request_filter() -> Result<bool>);
    boxed!(proxy_upstream_filter() -> Result<bool>);
    boxed!(upstream_peer() -> Result<Box<HttpPeer>>);
    boxed!(upstream_request_filter<'a>(request: &'a mut RequestHeader) -> Result<()>);
    boxed!(request_body_filter<'a>(body: &'a mut Option<Bytes>, is_last: bool) -> Result<()>);
    boxed!(upstream_response_filter<'a>(response: &'a mut ResponseHeader) -> Result<()>);
    boxed!(response_filter<'a>(response: &'a mut ResponseHeader) -> Result<()>);

    /// Counts a piece of the backend's body.
    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _is_last: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        upstream::count_received(body.as_ref(), ctx);
        Ok(None)
    }

    /// Passes a piece of the response's body through the filters.
    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_last: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if !ctx.is_background() {
            respond::body(client(session), ctx, body, is_last);
        }
        Ok(None)
    }

    boxed!(fail_to_proxy<'a>(error: &'a Error) -> FailToProxy);

    /// Gives back the lease, counts the request, and writes its line of the log. Waits for nothing,
    /// and a future without state needs no memory.
    fn logging<'p, 's, 'e, 'c, 'f>(
        &'p self,
        session: &'s mut Session,
        _: Option<&'e Error>,
        ctx: &'c mut Box<Context>,
    ) -> BoxFuture<'f, ()>
    where
        'p: 'f,
        's: 'f,
        'e: 'f,
        'c: 'f,
        Self: 'f,
    {
        self.log(client(session), ctx);
        Box::pin(async {})
    }

    /// Suppresses Pingora's error log: the gateway logs the error with route, backend and reason.
    fn suppress_error_log(&self, _: &Session, _: &Box<Context>, _: &Error) -> bool {
        true
    }
}

#[expect(clippy::unused_async, reason = "Pingora awaits all of these hooks")]
impl Proxy {
    /// Finds the client, the target in its normal form, and the route.
    async fn early_request_filter(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        ctx.passed.early_request_filter += 1;
        if !ctx.is_background() {
            request::begin(client(session), ctx).await;
        }
        Ok(())
    }

    /// Runs the filters: access, identity, limits. Sends redirects, files, fixed responses, and
    /// stored ones.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        if ctx.is_background() {
            return Ok(false);
        }
        decision::run(client(session), ctx).await
    }

    /// Exchanges the request with a backend. Calls the hooks from here to `response_body_filter`,
    /// for each attempt.
    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
    ) -> Result<bool> {
        exchange::run(self, session, ctx).await?;
        Ok(false)
    }

    /// Returns an error: the exchange connects to backends itself.
    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Box<Context>,
    ) -> Result<Box<HttpPeer>> {
        Err(Error::new_in(ErrorType::Custom("no peer of Pingora")))
    }

    /// Changes the headers of the request for the backend.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        cache::forward(request, ctx);
        forward::forward(&client(session).request, request, ctx).await?;
        forward::check_forwarded(request, ctx)
    }

    /// Passes a piece of the request's body through the filters.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_last: bool,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        body::filter(client(session), body, is_last, ctx)
    }

    /// Handles the headers of the backend, of interim responses too, before anything is stored.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if upstream::is_interim(response) {
            accel::strip(response, ctx);
            upstream::interim(response, ctx);
            return Ok(());
        }
        let client = client(session);
        upstream::on_origin_response(Replay::new(client), response, ctx)?;
        let read = accel::read(response, ctx);
        let read = read.and_then(|()| error_page::read(&client.request, response, ctx));
        if let Err(replaced) = read {
            cache::replaced(ctx);
            // A write remains one, whatever is sent in response to it.
            cache::written(&client.request, response, ctx).await;
            return Err(replaced);
        }
        let (chain, mut ex) = ctx.exchange(&client.request);
        if chain.has(Phase::UpstreamResponse) {
            let mut open = OpenResponseHeaders::take(response, 0);
            chain.on_upstream_response(&mut ex, &mut open.parts).await;
            open.close(response);
        }
        Ok(())
    }

    /// Runs the response phase: the headers for this client.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if !ctx.is_background() {
            respond::prepare(&client(session).request, response, ctx).await;
        }
        Ok(())
    }

    /// Sends the reply to a failure.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> FailToProxy {
        FailToProxy {
            error_code: request_end::failed(self, session, error, ctx).await,
            can_reuse_downstream: true,
        }
    }

    fn log(&self, client: &mut Client, ctx: &mut Context) {
        ctx.passed.logging += 1;
        upstream::over(ctx);
        if ctx.is_background() {
            trace::end_background(&client.request, ctx);
        } else {
            request_end::log(&self.shared.live, client, ctx);
            tell(ctx);
        }
        exchange::follow_up(&client.request, ctx);
    }
}

/// Says how often a request that is logged has passed the first and the last hook: once.
fn tell(ctx: &Context) {
    log::trace!(
        request_id = ctx.facts.request_id.as_str(),
        early_request_filter = ctx.passed.early_request_filter,
        logging = ctx.passed.logging;
        "request logged"
    );
}
