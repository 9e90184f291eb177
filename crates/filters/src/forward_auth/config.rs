//! Configuration of `forward_auth` as written, and its compilation.

use std::path::PathBuf;

use edgeway_base::{
    gateway_headers::GatewayHeaders, recent_values::RecentValues, secret::without_query,
    units::Span,
};
use edgeway_config::tree::{
    Spanned,
    short::{self, Short, short_form},
};
use edgeway_core::{
    chain::{AuthMetrics, CompileContext},
    zones::InUse,
};
use edgeway_net::fetch::Fetch;
use http::{HeaderName, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{Cache, ForwardAuth, gate::Gate};

const DEADLINE: Span = Span::secs(1);
const MAX_DEADLINE: Span = Span::secs(30);
const MAX_CACHE_TTL: Span = Span::secs(300);
const IN_FLIGHT: u32 = 128;
const MAX_IN_FLIGHT: u32 = 10_000;
/// Maximum number of verdicts remembered by each filter.
const REMEMBERED: usize = 4096;
/// Headers that the gateway itself sets in the request to the service.
const GATEWAY_HEADERS: &str = "x-forwarded-method x-forwarded-proto x-forwarded-host \
    x-forwarded-uri x-forwarded-for x-original-method x-original-uri x-original-url \
    x-request-id";

/// Lets requests pass that an external authorization service allows: a URL, or a mapping.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
pub struct ForwardAuthConfig {
    /// URL of the service, such as `http://127.0.0.1:9000/verify`. 2xx lets the request pass; 4xx
    /// and redirects go to the client.
    url: Spanned<String>,
    /// PEM file with the CA certificates for this URL, in place of the system's.
    ca: Option<Spanned<PathBuf>>,
    /// Request headers that are sent to the service, in addition to `X-Forwarded-Method`, `-Proto`,
    /// `-Host`, `-Uri` and `-For`.
    #[default(["Cookie", "Authorization"].map(|name| Spanned::nowhere(name.to_owned())).into())]
    headers: Vec<Spanned<String>>,
    /// Response headers of the service that are sent to the backend, as `X-User` or under another
    /// name: `X-User as X-Remote-User`. Clients cannot send them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copy: Vec<Spanned<String>>,
    /// Response header of the service that identifies the user, for limits and logs.
    user: Option<Spanned<String>>,
    /// Timeout for a response of the service.
    #[default(Spanned::nowhere(DEADLINE))]
    timeout: Spanned<Span>,
    /// Time for which a response is reused for identical requests; never reused if absent.
    cache: Option<Spanned<Span>>,
    /// Handling of requests while the service fails (no response, or 5xx): `deny` (503) or `allow`.
    on_error: OnError,
    /// Response to a request that the service refuses. `passed`: the service's own response. `own`,
    /// as with `auth_request` of nginx: the gateway's page for 401 (with the service's
    /// `WWW-Authenticate`) and 403, and 500 for any other refusal. `redirect`, as with
    /// `error_page 401 =302` too: as `own`, but the service's redirects pass, and its 401 with
    /// `Location` becomes a 302.
    refusals: Refusals,
    /// Maximum number of requests in flight to this URL. Beyond it clients take turns, for at most
    /// twice `timeout`; then the request gets 503, reason `forward_auth_busy`.
    #[default(Spanned::nowhere(IN_FLIGHT))]
    max_in_flight: Spanned<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnError {
    /// Refuses with 503, reason `forward_auth_unavailable`.
    #[default]
    Deny,
    /// Lets requests pass without an identity.
    Allow,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Refusals {
    /// Status, headers and body of the service.
    #[default]
    Passed,
    /// The gateway's own page.
    Own,
    /// The gateway's own page, or a redirect to the service's `Location`.
    Redirect,
}

impl Short for ForwardAuthConfig {
    const WHAT: &'static str =
        "a URL, or a mapping such as `{ url: http://127.0.0.1:9000/verify, copy: [X-User] }`";

    const TEXT: Option<&'static str> = Some("url");
}

short_form!(ForwardAuthConfig);

impl ForwardAuthConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<ForwardAuth> {
        let url = self.uri(cx);
        let sent = self.sent(cx);
        let (copied, names): (Vec<_>, Vec<_>) = copies(&self.copy, cx).into_iter().unzip();
        let user = self.user.as_ref();
        let user = user.and_then(|user| header_name(user, cx));
        let bounds = cx.checked(|cx| self.check_bounds(cx));
        let url = url?;
        let fetch = self.fetch(&url, cx)?;
        bounds?;
        let gates = cx.zones.get_or_create("forward_auth", InUse::default);
        Some(ForwardAuth {
            gate: Gate::shared(&gates, &url, self.max_in_flight.value),
            shown: without_query(&url).into(),
            url,
            fetch,
            deadline: self.timeout.value.0,
            sent: sent.into(),
            own: GatewayHeaders::new(names.iter().cloned()),
            copied: copied.into(),
            given: names.into(),
            user,
            cache: self.cache.map(|lasts| Cache {
                lasts: lasts.value.0,
                recent: RecentValues::new(REMEMBERED),
            }),
            is_lenient: self.on_error == OnError::Allow,
            refusals: self.refusals,
            metrics: AuthMetrics::new(cx.metrics, "forward_auth", cx.route),
            clock: cx.clock.clone(),
        })
    }

    fn uri(&self, cx: &mut CompileContext<'_>) -> Option<Uri> {
        let text = self.url.value.as_str();
        let uri = text.parse::<Uri>().ok().filter(|uri| {
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && !authority.contains('@')
        });
        let message = match uri {
            Some(uri) if self.ca.is_some() && uri.scheme_str() == Some("http") => {
                format!("`ca` is for HTTPS, and `{text}` has none")
            }
            Some(uri) => return Some(uri),
            None if text.is_empty() => "`forward_auth` has no `url`".to_owned(),
            // Messages go to logs and the status page.
            None if text.contains('@') => {
                "a URL with a user or a password is not supported".to_owned()
            }
            None => format!("invalid URL `{text}`"),
        };
        let place = match self.url.place {
            place if place == edgeway_config::diagnostic::Place::default() => cx.place,
            place => place,
        };
        cx.at(place, "edgeway::forward_auth::url").refuse(
            message,
            "write one such as `url: http://127.0.0.1:9000/verify`",
        )
    }

    fn fetch(&self, url: &Uri, cx: &mut CompileContext<'_>) -> Option<Fetch> {
        let ca = self.ca.as_ref();
        let fetch = Fetch::to(url, cx.folder, ca.map(|ca| ca.value.as_path()));
        fetch
            .map_err(|error| {
                let place = ca.filter(|_| error.is_file).map_or(cx.place, |ca| ca.place);
                let code = "edgeway::forward_auth::ca";
                cx.at(place, code).error(error.to_string(), error.help);
            })
            .ok()
    }

    fn sent(&self, cx: &mut CompileContext<'_>) -> Vec<HeaderName> {
        let mut names = Vec::with_capacity(self.headers.len());
        for written in &self.headers {
            let Some(name) = header_name(written, cx) else {
                continue;
            };
            if GATEWAY_HEADERS.split(' ').any(|one| one == name.as_str()) {
                cx.at(written.place, "edgeway::forward_auth::header").error(
                    format!("the gateway sets `{}` itself", written.value),
                    "remove it: the client's value is never forwarded",
                );
            } else if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn check_bounds(&self, cx: &mut CompileContext<'_>) {
        const CODE: &str = "edgeway::forward_auth::bounds";
        let min = Span::millis(1);
        let timeout = ("timeout", &self.timeout, MAX_DEADLINE);
        let cache = self
            .cache
            .as_ref()
            .map(|cache| ("cache", cache, MAX_CACHE_TTL));
        for (key, span, max) in std::iter::once(timeout).chain(cache) {
            if !(min..=max).contains(&span.value) {
                let message = format!("`{key}: {}` is not between {min} and {max}", span.value);
                cx.at(span.place, CODE)
                    .error(message, "write a time such as `1s`");
            }
        }
        let Spanned { value, place } = self.max_in_flight;
        if !(1..=MAX_IN_FLIGHT).contains(&value) {
            let message = format!("`max_in_flight: {value}` is not between 1 and {MAX_IN_FLIGHT}");
            let help = format!("write a number such as `{IN_FLIGHT}`");
            cx.at(place, CODE).error(message, help);
        }
    }
}

/// Parses names of headers of the service, each with the name that it has for the backend.
fn copies(
    written: &[Spanned<String>],
    cx: &mut CompileContext<'_>,
) -> Vec<(HeaderName, HeaderName)> {
    const CODE: &str = "edgeway::forward_auth::copy";
    let mut names = Vec::<(HeaderName, HeaderName)>::with_capacity(written.len());
    for text in written {
        let (read, to) = match text.value.split_once(" as ") {
            Some((read, to)) => (read.trim(), to.trim()),
            None => (&*text.value, &*text.value),
        };
        let place = text.place;
        let mut name = |name: &str| {
            let value = name.to_owned();
            cx.own_header(&Spanned { value, place }, CODE)
        };
        let (Some(read), Some(to)) = (name(read), name(to)) else {
            continue;
        };
        let same = names.iter().find(|(_, known)| *known == to);
        let problem = if same.is_some_and(|(known, _)| *known == read) {
            continue;
        } else if same.is_some() {
            "two headers are copied as"
        } else if read.as_str().contains('*') {
            "no header is called"
        } else {
            names.push((read, to));
            continue;
        };
        cx.at(place, CODE).error(
            format!("{problem} `{to}`"),
            "write each name in full, and a different one for each",
        );
    }
    names
}

/// Parses the name of a header that is read, or sent to the service.
fn header_name(written: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(written.value.as_bytes()).ok();
    let name = parsed.filter(|name| {
        // The request to the service has no body and its own host.
        let text = name.as_str();
        !matches!(
            text,
            "host" | "connection" | "upgrade" | "te" | "trailer" | "expect"
        ) && !text.starts_with("content-")
            && text != "transfer-encoding"
    });
    if name.is_none() {
        cx.at(written.place, "edgeway::forward_auth::header").error(
            format!("header `{}` cannot be forwarded", written.value),
            "write a name such as `X-Api-Version`",
        );
    }
    name
}
