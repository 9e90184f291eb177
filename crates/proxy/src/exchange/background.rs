//! Requests of the gateway in the background, whose responses only the cache gets.

use std::{sync::Arc, time::Duration};

use pingora::{Error, ErrorType, Result, http::RequestHeader};
use pingora_proxy::ProxyHttp;

use super::{Exchange, fill::CachedExchange};
use crate::{
    cache::{self, BackgroundRequest, CacheStep},
    context::{Context, Flow},
    session::Client,
};

/// Time limit of such a request. No client waits for it, so no one would notice that it never ends.
const MAX_DURATION: Duration = Duration::from_mins(2);

/// Revalidates the stale response that the client of `request` gets.
pub(crate) fn revalidate(request: &RequestHeader, ctx: &Context, flow: Flow) {
    if let Some(background) = cache::revalidation(request, ctx, flow) {
        spawn(background);
    }
}

/// Asks the origin again after a `request` that is over, if it got a page that the app is rendering.
pub(crate) fn follow_up(request: &RequestHeader, ctx: &mut Context) {
    if ctx.cache.is_some()
        && let Some(background) = cache::follow_up(request, ctx)
    {
        spawn(background);
    }
}

fn spawn(mut background: BackgroundRequest) {
    let shared = Arc::clone(background.ctx.shared());
    let tasks = Arc::clone(&shared.live);
    tasks.background.spawn("revalidation", async move {
        if !background.begin().await {
            return;
        }
        let BackgroundRequest { head, ctx, .. } = background;
        let client = Client::nobody(head, ctx.connection.clone());
        let served = shared.serve_own(Box::new(client), ctx);
        if tokio::time::timeout(MAX_DURATION, served).await.is_err() {
            log::warn!("stale response not revalidated in time");
        }
    });
}

impl<H> Exchange<'_, H>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    /// Fetches the response to the request for the cache.
    pub(super) async fn fetch(&mut self, ctx: &mut Box<Context>) -> Result<()> {
        let request = &self.client().request;
        let CacheStep::Fetch(fetch) = cache::begin(request, ctx).await else {
            // Another request was faster.
            return Ok(());
        };
        if !fetch.is_storing {
            return Ok(());
        }
        self.cached = Some(Box::new(CachedExchange {
            fetch,
            ..CachedExchange::default()
        }));
        self.ask_origin(ctx).await
    }
}

/// Waits for a `read` from a backend. In the background no deadline of a client's connection ends it.
pub(super) async fn in_time<T>(
    silence: Option<Duration>,
    read: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(silence) = silence else {
        return read.await;
    };
    // Boxed, because otherwise every request's future would be as large.
    let read = Box::pin(tokio::time::timeout(silence, read)).await;
    read.unwrap_or_else(|_| {
        let why = "a backend is silent";
        Err(Error::explain(ErrorType::ReadTimedout, why).into_up())
    })
}
