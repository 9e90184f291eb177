//! Capabilities of a plugin beyond its own request, as its configuration grants them.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use edgeway_net::fetch::{Fetch, FetchError};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use parking_lot::Mutex;
use url::Url;

use super::{kv::Kv, wait_until::WaitUntil};
use crate::base::{known_secrets::KnownSecrets, user_metrics::UserMetrics};

/// Default deadline of a `fetch` and default size limit of its response.
pub const FETCH_DEADLINE: Duration = Duration::from_millis(200);
pub const MAX_FETCHED_LEN: usize = 256 << 10;

/// Capabilities that a plugin was granted.
#[derive(Default)]
pub struct Capabilities {
    /// Environment variables that the plugin may read, as a JSON object.
    pub env: String,
    /// Names of headers, cookies and parameters in which filters read credentials.
    pub secret_names: Vec<String>,
    /// Secrets of the plugin, which no log may show.
    pub secrets: KnownSecrets,
    pub kv: Option<Kv>,
    pub fetch: Option<FetchOrigins>,
    /// Metrics that the plugin defines.
    pub metrics: Arc<UserMetrics>,
    /// Runner of the plugin's `ctx.waitUntil` work.
    pub wait_until: WaitUntil,
}

/// Origins that a plugin may fetch from.
#[derive(Debug)]
pub struct FetchOrigins {
    /// Each origin with its HTTP client.
    origins: Vec<(Origin, Fetch)>,
    /// Responses that a test defines; nothing else can be fetched then.
    fixtures: Option<FixtureResponses>,
    deadline: Duration,
    longest: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// Response to a `fetch`.
#[derive(Clone, Debug)]
pub(super) struct FetchResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Responses of URLs, or errors, one after the other; the last one repeats.
#[derive(Debug, Default)]
pub(super) struct FixtureResponses(
    pub(super) Mutex<HashMap<String, VecDeque<Result<FetchResponse, String>>>>,
);

impl FixtureResponses {
    fn next(&self, url: &str) -> Result<FetchResponse, String> {
        let mut all = self.0.lock();
        let next = all.get_mut(url).and_then(|fixtures| match fixtures.len() {
            0 | 1 => fixtures.front().cloned(),
            _ => fixtures.pop_front(),
        });
        next.unwrap_or_else(|| Err(format!("the test has no response for `{url}`")))
    }
}

impl FetchOrigins {
    /// Prepares requests to `origins`, such as `https://flags.example.com`.
    ///
    /// Reads the system's CA certificates if one of them uses https.
    pub fn new(origins: &[String], deadline: Duration, longest: usize) -> Result<Self, String> {
        if origins.is_empty() {
            return Err("`origins` is empty, so `fetch` could reach no origin".to_owned());
        }
        let origins = origins.iter().map(|text| {
            let url: Uri = text.parse().map_err(|_| not_an_origin(text))?;
            let is_whole = matches!(url.path(), "" | "/") && url.query().is_none();
            let origin = Origin::from_url(&url).filter(|_| is_whole);
            let origin = origin.ok_or_else(|| not_an_origin(text))?;
            let client = Fetch::to(&url, Path::new(""), None);
            Ok((origin, client.map_err(|error| error.to_string())?))
        });
        Ok(Self {
            origins: origins.collect::<Result<_, String>>()?,
            fixtures: None,
            deadline,
            longest,
        })
    }

    /// Prepares responses without a network: `fixtures` has the responses of each URL.
    pub(super) fn with_fixtures(fixtures: FixtureResponses) -> Self {
        Self {
            origins: Vec::new(),
            fixtures: Some(fixtures),
            deadline: Duration::ZERO,
            longest: 0,
        }
    }

    pub(super) async fn fetch(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<FetchResponse, String> {
        if let Some(fixtures) = &self.fixtures {
            return fixtures.next(url);
        }
        // As the URL standard writes it, such as `%C3%BC` for `ü`.
        let written = Url::parse(url);
        let uri = written.as_ref().map_or(url, Url::as_str);
        let uri: Uri = uri.parse().map_err(|_| format!("invalid URL `{url}`"))?;
        let origin =
            Origin::from_url(&uri).ok_or_else(|| format!("`{url}` is not an http or https URL"))?;
        let listed = self.origins.iter().find(|(listed, _)| *listed == origin);
        let Some((_, client)) = listed else {
            return Err(format!(
                "`{}://{}` is not in this plugin's `fetch` list",
                origin.scheme,
                uri.authority().map_or(&*origin.host, |own| own.as_str())
            ));
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let response = client.send_with_body(request, self.deadline, self.longest);
        let response = response
            .await
            .map_err(|error: FetchError| error.to_string())?;
        let (head, body) = response.into_parts();
        Ok(FetchResponse {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

impl Origin {
    fn from_url(url: &Uri) -> Option<Self> {
        let scheme = url.scheme_str()?.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = url.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        Some(Self {
            scheme,
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(usual),
        })
    }
}

fn not_an_origin(text: &str) -> String {
    format!("invalid origin `{text}`: write one such as `https://flags.example.com`")
}

// Omits values: some are secrets.
edgeway_base::opaque_debug!(Capabilities, fetch);

/// Capabilities shared by the instances of a plugin.
pub(super) type SharedCapabilities = Arc<Capabilities>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_on_the_web() {
        let of = |text: &str| Origin::from_url(&text.parse().unwrap());
        assert_eq!(of("https://A.test/x?y"), of("HTTPS://a.test:443"));
        assert_ne!(of("http://a.test"), of("https://a.test"));
        assert_ne!(of("http://a.test:8080"), of("http://a.test"));
        assert_eq!(of("ftp://a.test"), None);
        assert_eq!(of("http://user@a.test"), None);
        assert_eq!(of("/x"), None);
    }
}
