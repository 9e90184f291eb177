//! Driver: calls the hooks for a session in the order of Pingora's proxy, or lets Pingora's proxy
//! call them (`driver: pingora`).

use std::sync::Arc;

use edgeway_config::model::DriverConfig;
use futures_util::future::BoxFuture;
use pingora::{
    Error, ErrorType, Result, apps::HttpServerApp as _, server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, ProxyHttp, Session};
use tokio::sync::watch;

use super::{
    context::{Context, ServeOwn, Shared},
    hooks::Proxy,
    session::{self, Client, ClientSlot},
};
use crate::live::Live;

/// Driver of the requests of one process.
pub struct Driver {
    proxy: Proxy,
    pingora: Arc<HttpProxy<Proxy>>,
    /// Pingora asks it if the process stops; the edge closes connections itself.
    is_stopping: watch::Receiver<bool>,
}

impl Driver {
    pub fn new(live: &Arc<Live>) -> Arc<Self> {
        // Before Pingora's proxy, which would install another provider of cryptography.
        edgeway_tls::install_provider();
        let shared = Arc::new(Shared::new(Arc::clone(live)));
        let proxy = || Proxy {
            shared: Arc::clone(&shared),
        };
        // Its own connections to backends are not used: it needs no CA certificates, and would panic
        // at those of the system if one is invalid.
        let conf = ServerConf {
            ca_file: Some("/dev/null".to_owned()),
            ..ServerConf::default()
        };
        let mut pingora = HttpProxy::new(proxy(), Arc::new(conf));
        // The gateway refuses CONNECT itself, and logs the refusal.
        let options = pingora.server_options.get_or_insert_default();
        options.allow_connect_method_proxying = true;
        pingora.handle_init_modules();
        let driver = Arc::new(Self {
            proxy: proxy(),
            pingora: Arc::new(pingora),
            is_stopping: watch::channel(false).1,
        });
        let weak = Arc::downgrade(&driver);
        shared.drive_by(weak);
        driver
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.proxy.shared.live
    }

    /// Serves the request of a client, and returns it when the request is over.
    pub(crate) async fn serve(&self, client: Box<Client>) -> Option<Box<Client>> {
        let ctx = self.proxy.new_ctx();
        let mut client = if ctx.gateway.driver == DriverConfig::Pingora {
            drop(ctx);
            // Boxed: Pingora's future has room for its own connections to backends.
            Box::pin(self.by_pingora(client)).await?
        } else {
            let mut session = session::reusable(client);
            run(&self.proxy, &mut session, ctx).await;
            session::reuse(session)?
        };
        if !client.is_over() {
            // A client that is slow to end its request holds none of the places that it had.
            Box::pin(client.end()).await;
        }
        Some(client)
    }

    async fn by_pingora(&self, client: Box<Client>) -> Option<Box<Client>> {
        let slot = ClientSlot::default();
        let session = session::for_pingora(client, &slot);
        let reused = self.pingora.process_new_http(session, &self.is_stopping);
        drop(reused.await);
        slot.lock().take()
    }
}

impl ServeOwn for Driver {
    fn serve_own(&self, client: Box<Client>, ctx: Box<Context>) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut session = session::reusable(client);
            run(&self.proxy, &mut session, ctx).await;
            drop(session::reuse(session));
        })
    }
}

/// Calls the hooks of one request, as `HttpProxy::process_request` does.
async fn run<H: ProxyHttp + Sync>(hooks: &H, session: &mut Session, mut ctx: H::CTX)
where
    H::CTX: Send + Sync,
{
    let outcome = pass(hooks, session, &mut ctx).await;
    if let Err(error) = &outcome {
        hooks.fail_to_proxy(session, error, &mut ctx).await;
    }
    let error = outcome.as_ref().err().map(|error| &**error);
    hooks.logging(session, error, &mut ctx).await;
}

/// Calls the hooks until one of them has sent the response.
async fn pass<H: ProxyHttp + Sync>(hooks: &H, session: &mut Session, ctx: &mut H::CTX) -> Result<()>
where
    H::CTX: Send + Sync,
{
    hooks.early_request_filter(session, ctx).await?;
    if hooks.request_filter(session, ctx).await? {
        return Ok(());
    }
    if hooks.proxy_upstream_filter(session, ctx).await? {
        return Err(Error::new_in(ErrorType::Custom("no response was sent")));
    }
    Ok(())
}
