//! What a successful write makes of stored answers (RFC 9111, 4.4): they are gone.

use http::Method;
use pingora_proxy::Session;

use super::purge;
use crate::{
    cache::{
        key::Key,
        policy,
        purge::{How, Purge, Source, What},
    },
    chain::host::public_host,
    proxy::context::{self, Context},
    routes::{Target, normalise},
};

/// The origin has answered a request with `head`.
pub(in crate::proxy) async fn written(
    session: &Session,
    head: &pingora::http::ResponseHeader,
    ctx: &Context,
) {
    let request = session.req_header();
    if matches!(
        request.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::CONNECT
    ) {
        return;
    }
    let Some(cache) = context::route(&ctx.gateway, ctx.route).and_then(|r| r.cache.as_ref()) else {
        return;
    };
    let client = &ctx.facts.client;
    let host = public_host(request, client).to_ascii_lowercase();
    let target = Target::new(&host, request.raw_path());
    let own = policy::Target {
        authority: host.clone(),
        path: target.path.to_vec(),
        query: target.query.map(<[u8]>::to_vec),
    };
    let gone = policy::invalidates(
        &request.method,
        head.status,
        client.scheme.as_str(),
        &own,
        &head.headers,
    );
    for target in &gone {
        // Of what has none, nothing is stored.
        let Ok(normal) = normalise(&target.path, ctx.gateway.slashes) else {
            continue;
        };
        let query = cache.policy.key.query_of(target.query.as_deref());
        let query = query.as_deref();
        let scheme = client.scheme.as_str();
        let key = Key::new(scheme, &target.authority, &normal.path, query, b"");
        cache.cache.remove(&key);
    }
    if !gone.is_empty() {
        cache.cache.settle_disk().await;
    }
    if cache.policy.purge_on_write && head.status.is_success() {
        let path = String::from_utf8_lossy(target.path);
        let what = What::Written(format!("{}://{host}{path}", client.scheme.as_str()));
        let how = How::Hard;
        // Before the response: whoever has written reads what it wrote. The others hear of it.
        let purges = vec![Purge { what, how }];
        purge::begin(ctx.live(), cache.cache.link(), purges, Source::Write).await;
    }
}
