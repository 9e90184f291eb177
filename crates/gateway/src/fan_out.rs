//! Sends purges to every instance of an app before the gateways apply them, so that responses
//! fetched afterwards are new.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_cache::purge::{Instance, Purge, PurgeTarget};
use edgeway_net::fetch::{self, FetchError};
use edgeway_upstreams::{Protocol, Target, Upstream};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Request, Uri, header};
use serde::Serialize;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::compile::Compiler;

/// Time limit of one instance.
const DEADLINE: Duration = Duration::from_secs(2);
/// Number of instances that are notified concurrently.
const CONCURRENCY: usize = 16;
/// Length limit of a response, whose body is not used.
const MAX_RESPONSE_LEN: usize = 64 * 1024;
/// Length limit of a token, as for the admin listener.
const MIN_TOKEN_LEN: usize = 16;

/// Upstream and path that instances are notified at.
pub struct FanOut {
    upstream: Arc<Upstream>,
    path: Uri,
    authorization: HeaderValue,
}

/// Body of a notification.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct FanOutNotice {
    /// Pages by path.
    paths: BTreeSet<String>,
    /// Path prefixes whose pages, at and below, are purged.
    prefixes: BTreeSet<String>,
    tags: BTreeSet<String>,
}

impl FanOutNotice {
    fn new(purges: &[Purge]) -> Self {
        let mut notice = Self::default();
        for purge in purges {
            match &purge.target {
                PurgeTarget::Url(url) | PurgeTarget::Written(url) => {
                    notice.paths.insert(path_of(url).to_owned())
                }
                PurgeTarget::Prefix(prefix) => notice.prefixes.insert(folder_of(prefix).to_owned()),
                PurgeTarget::Tag(tag) => notice.tags.insert(tag.clone()),
                PurgeTarget::All => notice.prefixes.insert("/".to_owned()),
            };
        }
        notice
    }
}

/// Returns the path of a URL, because an app knows its pages by path alone.
fn path_of(url: &str) -> &str {
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => url,
    };
    rest.split('?').next().unwrap_or(rest)
}

/// Returns the prefix up to its last complete segment: `/blog/po` may be any page below `/blog`.
fn folder_of(prefix: &str) -> &str {
    let path = path_of(prefix);
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => &path[..at],
    }
}

impl FanOut {
    /// Notifies every known instance, drained or not, but for those that were `notified` before.
    /// Returns the result of each.
    pub async fn notify(&self, purges: &[Purge], notified: &[Instance]) -> Vec<Instance> {
        let notice = serde_json::to_vec(&FanOutNotice::new(purges)).expect("plain data");
        let notice = Bytes::from(notice);
        let backends = self.upstream.backends();
        let each = backends.iter().filter_map(|backend| {
            let (address, target) = (backend.address().to_string(), backend.target().clone());
            if notified.iter().any(|instance| instance.address == address) {
                return None;
            }
            let request = self.request(&target, notice.clone());
            Some(async move {
                let result = timeout(DEADLINE, ask(&target, request)).await;
                let result = result.unwrap_or(Err(FetchError::Late(DEADLINE)));
                Instance {
                    address,
                    status: result.as_ref().ok().copied(),
                    error: result.err().map(|error| error.to_string()),
                }
            })
        });
        let each: Vec<_> = each.collect();
        stream::iter(each).buffered(CONCURRENCY).collect().await
    }

    fn request(&self, target: &Target, body: Bytes) -> Request<Bytes> {
        let host = match target {
            Target::Inet(address) => address.to_string(),
            Target::Unix(_) => "localhost".to_owned(),
        };
        let host = HeaderValue::try_from(host).expect("an address");
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        request
    }
}

async fn ask(target: &Target, request: Request<Bytes>) -> Result<u16, FetchError> {
    let response = match target {
        Target::Inet(address) => {
            let stream = TcpStream::connect(address).await?;
            fetch::exchange(stream, request, MAX_RESPONSE_LEN).await?
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path).await?;
            fetch::exchange(stream, request, MAX_RESPONSE_LEN).await?
        }
    };
    Ok(response.status().as_u16())
}

impl Compiler<'_> {
    /// Returns the upstream and path that instances are notified at.
    pub(super) fn fan_out<'a>(
        &mut self,
        upstreams: impl Fn(&str) -> Option<&'a Arc<Upstream>>,
    ) -> Option<FanOut> {
        let file = self.file;
        let written = file.cache.as_ref()?.value.fan_out.as_ref()?;
        let (name, path, token) = (&written.upstream, &written.path, &written.token);
        let upstream = upstreams(&name.value);
        match upstream {
            None => self.at(name.place, "edgeway::cache::fan_out").error(
                format!("unknown upstream `{}`", name.value),
                "name the upstream whose instances get the purges",
            ),
            Some(upstream)
                if upstream.protocol() == Protocol::H2 || upstream.tls_name().is_some() =>
            {
                return self.at(name.place, "edgeway::cache::fan_out").refuse(
                    format!("`{}` does not use plain HTTP/1.1", name.value),
                    "purges are sent in plain HTTP/1.1 only: name an upstream without `tls` and \
                     `protocol: h2`",
                );
            }
            Some(_) => {}
        }
        let target = path.value.parse::<Uri>().ok();
        let target = target.filter(|uri| path.value.starts_with('/') && uri.authority().is_none());
        if target.is_none() {
            self.at(path.place, "edgeway::cache::fan_out").error(
                format!("invalid path `{}`", path.value),
                "write the path that each instance has for it, such as `/api/edgeway/revalidate`",
            );
        }
        let text = token.value.reveal();
        let is_fit = text.len() >= MIN_TOKEN_LEN && text.bytes().all(|b| b.is_ascii_graphic());
        let mut authorization = HeaderValue::try_from(format!("Bearer {text}")).ok();
        if !is_fit || authorization.is_none() {
            authorization = None;
            self.at(token.place, "edgeway::cache::fan_out").error(
                format!("the token needs {MIN_TOKEN_LEN} visible characters or more"),
                "`openssl rand -hex 32 > fan_out.token` makes one; then write `token: \
                 file:fan_out.token`",
            );
        }
        let mut authorization = authorization?;
        authorization.set_sensitive(true);
        Some(FanOut {
            upstream: Arc::clone(upstream?),
            path: target?,
            authorization,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn apps_are_notified_of_paths_and_tags() {
        let purges = [
            json!({ "url": "https://shop.test/blog?page=2" }),
            json!({ "url": "/blog" }),
            json!({ "url": "https://shop.test" }),
            json!({ "prefix": "/blog/po" }),
            json!({ "prefix": "https://shop.test/a" }),
            json!({ "tag": "posts" }),
        ];
        let purges = purges.map(|json| Purge::from_json(&json).unwrap());
        let notice = serde_json::to_value(FanOutNotice::new(&purges)).unwrap();
        assert_eq!(
            notice,
            json!({ "paths": ["/", "/blog"], "prefixes": ["/", "/blog"], "tags": ["posts"] })
        );
        let all = FanOutNotice::new(&[Purge::ALL]);
        assert_eq!(Vec::from_iter(all.prefixes), ["/"]);
    }
}
