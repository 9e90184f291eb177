//! Answers what needs no backend without Pingora's proxy: see [`crate::runtime::shortcut`].
//!
//! The hooks are those of the proxy, in its order, up to where it would go on to a backend.

use std::{any::Any, sync::Arc};

use futures_util::future::BoxFuture;
use pingora::{
    Error,
    http::RequestHeader,
    protocols::{
        Stream,
        http::{ReusableHttpStream, ServerSession},
    },
};
use pingora_proxy::{Session, SubrequestSpawner};

use super::{Proxy, Service, context::Context, end, upstream};
use crate::runtime::{
    live::Live,
    shortcut::{Attempt, Fingerprint, Keep, Shortcut},
};

/// The way past `service`.
pub struct Past {
    hooks: Proxy,
    service: Arc<Service>,
}

/// A request on its way through the filters, and past them.
pub(super) struct Carried {
    ctx: Box<Context>,
    head: RequestHeader,
}

impl Past {
    pub fn new(live: &Arc<Live>, service: &Arc<Service>) -> Self {
        Self {
            hooks: Proxy {
                live: Arc::clone(live),
            },
            service: Arc::clone(service),
        }
    }

    async fn attempt(&self, stream: Stream, keep: Keep) -> Attempt<Stream> {
        let mut session = Session::new_h1(stream);
        let client = &mut session.downstream_session;
        client.set_keepalive_reuses_remaining(Some(keep.left));
        if !matches!(client.read_request().await, Ok(true)) {
            // It was scanned, so Pingora's own words for it are wanted.
            return goes_on(session, None);
        }
        if keep.is_stopping {
            session.set_keepalive(None);
        }
        let mut ctx = Box::new(Context::new(&self.hooks.live));
        if ctx.gateway.cache.is_some() {
            let service = Arc::clone(&self.service);
            session.subrequest_spawner = Some(SubrequestSpawner::new(service));
        }
        match self.hooks.filter(&mut session, &mut ctx).await {
            Ok(true) => self.over(session, &mut ctx).await,
            Ok(false) => {
                self.hooks.live.http.shortcuts_missed.inc();
                let head = session.req_header().clone();
                goes_on(session, Some(Box::new(Carried { ctx, head })))
            }
            Err(error) => self.failed(session, &mut ctx, &error).await,
        }
    }

    async fn over(&self, session: Session, ctx: &mut Context) -> Attempt<Stream> {
        upstream::over(ctx);
        end::log(&self.hooks.live, &session, ctx);
        Attempt::Over(finish(session).await)
    }

    async fn failed(
        &self,
        mut session: Session,
        ctx: &mut Context,
        error: &Error,
    ) -> Attempt<Stream> {
        let live = &self.hooks.live;
        let failed = end::failed(live, &mut session, error, ctx).await;
        upstream::over(ctx);
        end::log(live, &session, ctx);
        let stream = if failed.can_reuse_downstream {
            finish(session).await
        } else {
            None
        };
        Attempt::Over(stream)
    }
}

async fn finish(session: Session) -> Option<Stream> {
    // What went wrong is the client's, which is gone.
    let stream: Option<ReusableHttpStream> = session.downstream_session.finish().await.ok()?;
    Some(stream?.into_parts().0)
}

fn goes_on(session: Session, carried: Option<Box<dyn Any + Send + Sync>>) -> Attempt<Stream> {
    match *session.downstream_session {
        ServerSession::H1(session) => Attempt::GoesOn(session.into_inner(), carried),
        // It was made of a stream above.
        _ => Attempt::Over(None),
    }
}

/// The request that the proxy begins is one that was carried on; as far as that got.
pub(super) fn take_up(
    session: &mut Session,
    ctx: &mut Box<Context>,
    carried: Box<dyn Any + Send + Sync>,
) {
    let Ok(carried) = carried.downcast::<Carried>() else {
        return;
    };
    let Carried { ctx: begun, head } = *carried;
    *session.req_header_mut() = head;
    *ctx = begun;
    ctx.is_filtered = true;
}

impl Shortcut<Stream> for Past {
    fn suits(&self, head: Fingerprint) -> bool {
        self.hooks.live.lately.contains(head)
    }

    fn attempt(&self, stream: Stream, keep: Keep) -> BoxFuture<'_, Attempt<Stream>> {
        Box::pin(self.attempt(stream, keep))
    }
}
