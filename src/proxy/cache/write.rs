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
    routes::Target,
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
        let query = cache.policy.key.query_of(target.query.as_deref());
        let query = query.as_deref();
        let scheme = client.scheme.as_str();
        let key = Key::new(scheme, &target.authority, &target.path, query, b"");
        cache.cache.remove(&key);
    }
    if !gone.is_empty() {
        cache.cache.settle_disk().await;
    }
    if cache.policy.purge_on_write && head.status.is_success() {
        let path = String::from_utf8_lossy(target.path);
        let site = format!("{}://{host}", client.scheme.as_str());
        let purges = family(&site, &path);
        // Before the answer: whoever has written reads what it wrote. The others hear of it.
        purge::begin(ctx.live(), cache.cache.link(), purges, Source::Write).await;
    }
}

/// An item and the list that it is in, whatever their queries: `/x/7` and `/x`.
fn family(site: &str, path: &str) -> Vec<Purge> {
    let path = path.trim_end_matches('/');
    let list = path.rsplit_once('/').map_or("", |(list, _)| list);
    let mut purges = Vec::new();
    for path in [path, list] {
        if path.is_empty() {
            continue;
        }
        for what in [
            What::Url(format!("{site}{path}")),
            What::Url(format!("{site}{path}/")),
            What::Prefix(format!("{site}{path}?")),
            What::Prefix(format!("{site}{path}/?")),
        ] {
            let how = How::Hard;
            purges.push(Purge { what, how });
        }
    }
    purges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_about_the_item_and_its_list() {
        let of = |path| -> Vec<String> {
            let purges = family("http://a", path).into_iter();
            purges
                .map(|purge| {
                    // The others read it as it was meant.
                    assert_eq!(Purge::from_json(&purge.to_json()), Ok(purge.clone()));
                    match purge.what {
                        What::Url(url) => url,
                        What::Prefix(prefix) => format!("{prefix}*"),
                        What::Tag(_) | What::All => unreachable!("writes are about paths"),
                    }
                })
                .map(|url| url.replace("http://", ""))
                .collect()
        };
        assert_eq!(
            of("/api/tasks/7"),
            [
                "a/api/tasks/7",
                "a/api/tasks/7/",
                "a/api/tasks/7?*",
                "a/api/tasks/7/?*",
                "a/api/tasks",
                "a/api/tasks/",
                "a/api/tasks?*",
                "a/api/tasks/?*"
            ]
        );
        assert_eq!(
            of("/tasks"),
            ["a/tasks", "a/tasks/", "a/tasks?*", "a/tasks/?*"]
        );
    }
}
