//! Purges triggered by requests: the method `PURGE`, and writes that invalidate stored responses.

use std::{convert::Infallible, sync::Arc};

use edgeway_cache::purge::{
    Purge, PurgeEffect, PurgeLink, PurgeSource, PurgeTarget, Receipt, StartedPurge,
};
use edgeway_core::chain::{AuditNote, Reply, host::public_host};
use edgeway_gateway::RouteCache;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::http::RequestHeader;
use serde_json::json;
use tokio::sync::oneshot;

use crate::{
    context::{self, Context},
    live::Live,
};

/// Header that selects a soft purge with `1`: matches are marked as stale instead of removed.
const SOFT: HeaderName = HeaderName::from_static("x-purge-soft");

/// Returns true for a `PURGE` request if any client may purge. Such a request is for the gateway,
/// not for the origin.
pub(super) fn is_asked_for(request: &RequestHeader, cache: &RouteCache) -> bool {
    request.method.as_str() == "PURGE" && !cache.cache.settings.purgers.is_empty()
}

/// Purges the requested URL, and replies with the result.
pub(super) async fn respond(
    request: &RequestHeader,
    ctx: &mut Context,
    cache: &RouteCache,
) -> Reply {
    const DENIED: &str = "purge_denied";
    if !cache.cache.settings.purgers.contains(ctx.facts.client.ip) {
        ctx.facts.noted = Some(Box::new(AuditNote {
            action: "purge",
            reason: DENIED,
            subject: None,
            is_strike: false,
            is_verdict: true,
        }));
        return Reply::refuse(StatusCode::FORBIDDEN, DENIED).detail("Purging is not allowed here.");
    }
    let client = &ctx.facts.client;
    let host = public_host(request, client);
    let path = String::from_utf8_lossy(ctx.facts.sent_target(request));
    let is_soft = request.headers.get(SOFT).is_some_and(|value| value == "1");
    let purge = Purge {
        target: PurgeTarget::Url(format!("{}://{host}{path}", client.scheme.as_str())),
        effect: if is_soft {
            PurgeEffect::Soft
        } else {
            PurgeEffect::Hard
        },
    };
    let link = Arc::clone(cache.cache.link());
    let (live, serving) = (ctx.live(), Arc::clone(ctx.live()));
    let purges = vec![purge];
    let work = async move {
        // Instances first: responses that the gateways fetch afterwards are new.
        let instances = serving.notify_instances(&purges).await;
        let Ok(forms) = serving.purge_forms(|_| Ok::<_, Infallible>(purges.clone()));
        let mut started = link.begin(forms, PurgeSource::Method).await;
        started.receipt.instances = instances;
        link.finish(started).await
    };
    let Some(receipt) = to_the_end(live, work).await else {
        return Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "stopping")
            .detail("The gateway is shutting down. Please try again.");
    };
    let redact = context::redactor(&ctx.gateway, ctx.route);
    live.purged(&receipt, &ctx.facts, redact);
    let body = summary(&receipt).to_string();
    Reply::bytes(
        receipt.status(),
        HeaderValue::from_static("application/json"),
        body,
    )
    .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// Returns numbers only: a client that purges need not know the gateways by name.
fn summary(receipt: &Receipt) -> serde_json::Value {
    let objects: u64 = receipt.applied.iter().filter_map(|it| it.objects).sum();
    json!({
        "purges": receipt.purges,
        "others": receipt.others,
        "objects": objects,
        "applied": receipt.applied.len(),
        "lapsed": receipt.lapsed.len(),
        "pending": receipt.pending.len(),
        "instances": receipt.instances.len(),
        "failed": receipt.instances.iter().filter(|it| !it.is_done()).count(),
        "took_ms": receipt.took_ms,
    })
}

/// Applies `purges` here and publishes them to the other gateways. Returns `None` if the process
/// stops.
pub(super) async fn begin(
    live: &Live,
    link: &Arc<PurgeLink>,
    purges: Vec<Purge>,
    source: PurgeSource,
) -> Option<StartedPurge> {
    let link = Arc::clone(link);
    to_the_end(live, async move { link.begin(purges, source).await }).await
}

/// Runs `work` to its end, even if the client leaves meanwhile.
async fn to_the_end<T: Send + 'static>(
    live: &Live,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    live.background.spawn("purge", async move {
        // A client that has left gets no result.
        drop(sender.send(work.await));
    });
    receiver.await.ok()
}
